// JSON in one way only: read strictly (RFC 7493: no name twice, nothing behind the end, no number that is none) and
// written canonically (RFC 8785). Objects are Maps, so that no name means anything to the language; whole numbers that
// a double does not hold exactly are bigints.

import { type Bytes, fromUtf8, isWellFormed, utf8 } from "./bytes";
import { demand, NotVerified } from "./fault";

export type Json = null | boolean | number | bigint | string | Json[] | Table;
export type Table = Map<string, Json>;

const MAX_DEPTH = 100;
const MAX_READ_DEPTH = 500;
const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?/y;
const ESCAPES: Record<string, string> = { '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };
// The rest of a string up to what ends it or has to be looked at.
const PLAIN = /[^"\\\u0000-\u001f]*/y;

class Reader {
  private at = 0;

  constructor(
    private readonly text: string,
    private readonly what: string,
  ) {}

  whole(): Json {
    const value = this.value(0);
    this.space();
    if (this.at < this.text.length) this.fail("has something behind its end");
    return value;
  }

  private value(depth: number): Json {
    if (depth > MAX_READ_DEPTH) this.fail("is nested too deeply");
    this.space();
    const next = this.text[this.at];
    if (next === "{") return this.object(depth);
    if (next === "[") return this.array(depth);
    if (next === '"') return this.string();
    for (const [word, value] of [["null", null], ["true", true], ["false", false]] as const) {
      if (this.text.startsWith(word, this.at)) {
        this.at += word.length;
        return value;
      }
    }
    return this.number();
  }

  private object(depth: number): Table {
    const found: Table = new Map();
    this.at++;
    this.space();
    if (this.took("}")) return found;
    do {
      this.space();
      if (this.text[this.at] !== '"') this.fail("has a name that is no string");
      const name = this.string();
      this.space();
      if (!this.took(":")) this.fail("lacks a colon");
      if (found.has(name)) this.fail(`has the name ${JSON.stringify(name.slice(0, 80))} twice`);
      found.set(name, this.value(depth + 1));
      this.space();
    } while (this.took(","));
    if (!this.took("}")) this.fail("has an object without its end");
    return found;
  }

  private array(depth: number): Json[] {
    const found: Json[] = [];
    this.at++;
    this.space();
    if (this.took("]")) return found;
    do {
      found.push(this.value(depth + 1));
      this.space();
    } while (this.took(","));
    if (!this.took("]")) this.fail("has an array without its end");
    return found;
  }

  private string(): string {
    const pieces: string[] = [];
    this.at++;
    for (;;) {
      PLAIN.lastIndex = this.at;
      const plain = PLAIN.exec(this.text)![0];
      pieces.push(plain);
      this.at += plain.length;
      const next = this.text[this.at++];
      if (next === '"') return pieces.join("");
      if (next !== "\\") this.fail("has a string without its end, or with a control character");
      pieces.push(this.escape());
    }
  }

  private escape(): string {
    const kind = this.text[this.at++] ?? "";
    if (kind !== "u") {
      if (!(kind in ESCAPES)) this.fail("has an escape that is none");
      return ESCAPES[kind]!;
    }
    const digits = this.text.slice(this.at, this.at + 4);
    if (!/^[0-9a-fA-F]{4}$/.test(digits)) this.fail("has an escape that is none");
    this.at += 4;
    return String.fromCharCode(parseInt(digits, 16));
  }

  private number(): number | bigint {
    NUMBER.lastIndex = this.at;
    const match = NUMBER.exec(this.text);
    if (match === null) this.fail("is no JSON");
    this.at += match[0].length;
    const value = Number(match[0]);
    const isWhole = match[1] === undefined && match[2] === undefined;
    return isWhole && !Number.isSafeInteger(value) ? BigInt(match[0]) : value;
  }

  private space(): void {
    while (" \t\n\r".includes(this.text[this.at] ?? "x")) this.at++;
  }

  private took(one: string): boolean {
    const is = this.text[this.at] === one;
    if (is) this.at++;
    return is;
  }

  private fail(why: string): never {
    throw new NotVerified(`${this.what} ${why}.`);
  }
}

export function readJson(data: Bytes, what: string): Json {
  return readJsonText(fromUtf8(data, what), what);
}

export function readJsonText(text: string, what: string): Json {
  return new Reader(text, what).whole();
}

export function canonicalBytes(value: Json): Bytes {
  return utf8(canonicalText(value));
}

export function canonicalText(value: Json, depth = 0): string {
  demand(depth <= MAX_DEPTH, `a value is nested deeper than ${MAX_DEPTH}.`);
  if (typeof value === "string") return textForm(value);
  if (value === null || typeof value === "boolean") return String(value); // RFC 8785 3.2.2.1
  if (typeof value === "bigint") throw new NotVerified(`${value} is beyond 2^53 (RFC 7493 2.2).`);
  if (typeof value === "number") {
    demand(Number.isFinite(value), `${value} is no JSON number.`);
    return String(value); // 3.2.2.3: as ECMAScript writes it, which is what this is; -0 becomes 0
  }
  if (Array.isArray(value)) return `[${value.map((inner) => canonicalText(inner, depth + 1)).join(",")}]`;
  // 3.2.3: names sorted by UTF-16 code units, which is how ECMAScript compares texts.
  const names = [...value.keys()].sort((one, other) => (one < other ? -1 : 1));
  return `{${names.map((name) => `${textForm(name)}:${canonicalText(value.get(name)!, depth + 1)}`).join(",")}}`;
}

// 3.2.2.2: JSON.stringify has these very escapes, once halves of surrogate pairs are kept out.
function textForm(text: string): string {
  demand(isWellFormed(text), "a text has half of a surrogate pair, which is no Unicode text (RFC 8785 3.2.2.2).");
  return JSON.stringify(text);
}

// A value of the language as JSON: what JSON.stringify would write of it, read again.
export function toJson(value: unknown): Json {
  return readJsonText(JSON.stringify(value) ?? "null", "the value");
}

export function asTable(value: Json | undefined, what: string): Table {
  demand(value instanceof Map, `${what} is no table.`);
  return value;
}

export function asText(value: Json | undefined, what: string): string {
  demand(typeof value === "string", `${what} is no text.`);
  return value;
}

export function asList(value: Json | undefined, what: string): Json[] {
  demand(Array.isArray(value), `${what} is no list.`);
  return value;
}

export function asWhole(value: Json | undefined, what: string): number {
  demand(typeof value === "number" && Number.isSafeInteger(value), `${what} is no whole number.`);
  return value;
}

// Whether a table has these names and no others.
export function hasOnly(table: Table, ...names: string[]): boolean {
  return table.size === names.length && names.every((name) => table.has(name));
}
