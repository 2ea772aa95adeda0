// Reads values of unknown origin: each reader gives a value of its kind or throws Malformed. Knows no format.

import { Malformed } from "./interning";

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function fields(value: unknown): Record<string, unknown> {
  if (!isObject(value)) throw new Malformed();
  return value;
}

export function text(value: unknown): string {
  if (typeof value !== "string") throw new Malformed();
  return value;
}

export function flag(value: unknown): boolean {
  if (typeof value !== "boolean") throw new Malformed();
  return value;
}

export function amount(value: unknown): number {
  if (typeof value !== "number" || !Number.isFinite(value)) throw new Malformed();
  return value;
}

export function count(value: unknown): number {
  if (!Number.isSafeInteger(value) || (value as number) < 0) throw new Malformed();
  return value as number;
}

export function list<Item>(value: unknown, read: (item: unknown) => Item, most = Infinity): Item[] {
  if (!Array.isArray(value) || value.length > most) throw new Malformed();
  return value.map((item) => read(item));
}

export function orNull<Value>(value: unknown, read: (value: unknown) => Value): Value | null {
  return value === null ? null : read(value);
}

export function oneOf<Value extends string>(value: unknown, known: readonly Value[]): Value {
  if (!known.includes(value as Value)) throw new Malformed();
  return value as Value;
}
