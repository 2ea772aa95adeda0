// JSON schemas as somebody reads them: one row a field, with what it may be in words. References are followed one step at
// a time, when a row is opened, because schemas may contain themselves. Knows no markup.

import type { Schema } from "./openapi";

export type Schemas = Readonly<Record<string, Schema>>;

export interface Row {
  name: string;
  type: string; // "text or null"
  isRequired: boolean;
  rules: string[]; // "at least 0"
  standard: string | null; // what it is if it is left out
  told: string | null; // what the document says of it
  children: Schema[]; // what it is made of; opened on request
}

const NAMES: Record<string, string> = {
  string: "text",
  integer: "whole number",
  number: "number",
  boolean: "true or false",
  object: "object",
  array: "list",
  null: "null",
};

const RULES: readonly [string, (value: unknown) => string][] = [
  ["minimum", (value) => `at least ${value}`],
  ["exclusiveMinimum", (value) => `more than ${value}`],
  ["maximum", (value) => `at most ${value}`],
  ["exclusiveMaximum", (value) => `less than ${value}`],
  ["minLength", (value) => `at least ${value} characters`],
  ["maxLength", (value) => `at most ${value} characters`],
  ["minItems", (value) => `at least ${value} entries`],
  ["maxItems", (value) => `at most ${value} entries`],
  ["pattern", (value) => `like ${value}`],
  ["format", (value) => `${value}`],
];

export function resolve(schema: Schema, schemas: Schemas): Schema {
  let found = schema;
  for (let steps = 0; found.$ref && steps < 16; steps++) found = schemas[found.$ref.split("/").at(-1)!] ?? {};
  return found;
}

// The kinds that a value may be of, each resolved, unions within unions taken apart.
export function kindsOf(schema: Schema, schemas: Schemas, depth = 0): Schema[] {
  const found = resolve(schema, schemas);
  const within = found.anyOf ?? found.oneOf;
  if (!within || depth > 8) return [found];
  return within.flatMap((one) => kindsOf(one, schemas, depth + 1));
}

export function typeOf(schema: Schema, schemas: Schemas): string {
  const names = kindsOf(schema, schemas).map((kind) => kindName(kind, schemas));
  return [...new Set(names)].join(" or ") || "anything";
}

function kindName(kind: Schema, schemas: Schemas): string {
  if (kind.const !== undefined) return JSON.stringify(kind.const);
  if (kind.enum) return kind.enum.map((one) => JSON.stringify(one)).join(" or ");
  if (kind.title) return kind.title;
  const types = Array.isArray(kind.type) ? kind.type : kind.type ? [kind.type] : [];
  if (types.length === 1 && types[0] === "array" && kind.items) return `list of ${typeOf(kind.items, schemas)}`;
  return types.map((one) => NAMES[one] ?? one).join(" or ") || "anything";
}

// What a value is made of: the fields of its objects, and of those in its lists.
export function rowsOf(schema: Schema, schemas: Schemas): Row[] {
  const kind = resolve(schema, schemas);
  const needed = new Set(kind.required ?? []);
  const rows = Object.entries(kind.properties ?? {}).map(([name, one]) => rowOf(name, one, schemas, needed.has(name)));
  return [...rows.filter((row) => row.isRequired), ...rows.filter((row) => !row.isRequired)];
}

function rowOf(name: string, schema: Schema, schemas: Schemas, isRequired: boolean): Row {
  const rules = RULES.filter(([key]) => says(schema[key])).map(([key, say]) => say(schema[key]));
  return {
    name,
    type: typeOf(schema, schemas),
    isRequired,
    rules,
    standard: schema.default === undefined || schema.default === null ? null : JSON.stringify(schema.default),
    told: resolve(schema, schemas).description ?? schema.description ?? null,
    children: objectsIn(schema, schemas),
  };
}

// A bound that is only the end of what fits into an integer tells nobody anything.
function says(bound: unknown): boolean {
  return bound !== undefined && !(typeof bound === "number" && Math.abs(bound) >= 2 ** 31 - 1);
}

// Objects with fields of their own, at once or as entries of lists, each once.
export function objectsIn(schema: Schema, schemas: Schemas, depth = 0): Schema[] {
  const found: Schema[] = [];
  for (const kind of kindsOf(schema, schemas)) {
    if (kind.properties && Object.keys(kind.properties).length > 0) found.push(kind);
    else if (kind.items && depth < 4) found.push(...objectsIn(kind.items, schemas, depth + 1));
    else if (typeof kind.additionalProperties === "object" && depth < 4) found.push(...objectsIn(kind.additionalProperties, schemas, depth + 1));
  }
  return [...new Set(found)];
}
