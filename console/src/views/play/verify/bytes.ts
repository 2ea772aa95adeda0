// Bytes and their texts, in one way only: strict UTF-8, base64 without slack, lower-case hexadecimal. Values only.

import { demand, NotVerified } from "./fault";

export type Bytes = Uint8Array<ArrayBuffer>;

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const encoder = new TextEncoder();

export function utf8(text: string): Bytes {
  return encoder.encode(text);
}

// ignoreBOM: a mark at the beginning is a character like others, and what follows says whether it may be there.
export function fromUtf8(data: Bytes, what: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
  } catch {
    throw new NotVerified(`${what} is not UTF-8.`);
  }
}

// Whether a text has no half of a surrogate pair (ES2024's isWellFormed, which older browsers lack).
export function isWellFormed(text: string): boolean {
  return !/\p{Surrogate}/u.test(text);
}

export function toBase64(data: Bytes): string {
  const pieces: string[] = [];
  for (let at = 0; at < data.length; at += 3) {
    const left = data.length - at;
    const word = (data[at]! << 16) | ((data[at + 1] ?? 0) << 8) | (data[at + 2] ?? 0);
    pieces.push(ALPHABET[word >> 18]! + ALPHABET[(word >> 12) & 63]!);
    pieces.push(left > 1 ? ALPHABET[(word >> 6) & 63]! : "=", left > 2 ? ALPHABET[word & 63]! : "=");
  }
  return pieces.join("");
}

// RFC 4648 4 with its padding, and 3.5 with its spare bits zero: one text for one value.
export function fromBase64(text: string, what: string): Bytes {
  demand(/^[A-Za-z0-9+/]*={0,2}$/.test(text) && text.length % 4 === 0, `${what} is no base64 (RFC 4648 4).`);
  const digits = text.replace(/=+$/, "");
  const data = new Uint8Array(Math.floor((digits.length * 3) / 4));
  let word = 0;
  let bits = 0;
  let at = 0;
  for (const digit of digits) {
    word = ((word << 6) | ALPHABET.indexOf(digit)) & 0xffffff;
    bits += 6;
    if (bits >= 8) data[at++] = (word >> (bits -= 8)) & 255;
  }
  demand(toBase64(data) === text, `${what} is base64 that is not written canonically (RFC 4648 3.5).`);
  return data;
}

export function toHex(data: Bytes): string {
  return Array.from(data, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function fromHex(text: string, what: string): Bytes {
  demand(/^(?:[0-9a-f]{2})*$/.test(text), `${what} is not in lower-case hexadecimal digits.`);
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

export function join(...parts: Bytes[]): Bytes {
  return concat(parts);
}

// As many as there are: a call takes no hundred thousand arguments.
export function concat(parts: readonly Bytes[]): Bytes {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

export function isSame(one: Bytes, other: Bytes): boolean {
  return one.length === other.length && one.every((byte, at) => byte === other[at]);
}
