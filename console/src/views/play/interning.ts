// JSON values in little room: what comes twice is written once, as an answer that each later request repeats. A pool is a
// list of entries; numbers in lists and objects of it name earlier entries. Values in, values out; what is read is
// hostile.
//
//     ["say", "one", 7, [0, 1], {"a": 3, "b": 2}]      the last is {"a": ["say", "one"], "b": 7}

const MAX_WEIGHT = 64_000_000; // characters that a value may have when everything in it is written out
// A number stands for an entry, so one that is a value is told as a list of its text: no list of names has a text in it.
type Entry = string | boolean | null | [string] | number[] | Record<string, number>;

export class Malformed extends Error {}
class Full extends Error {}

export class Pool {
  private readonly written: string[] = [];
  private readonly known = new Map<string, number>();
  private readonly texts = new Map<string, number>(); // those of them that are texts, by what they say: looked up quickly
  private size = 0; // characters of what is written
  private most = Infinity;

  // The name of a value's entry; null: it does not fit into so many characters of JSON, and nothing of it was put there.
  put(value: unknown, most: number): number | null {
    const before = this.written.length;
    this.most = most;
    try {
      return this.add(value);
    } catch (error) {
      // RangeError: a value that is nested deeper than this browser can follow.
      if (!(error instanceof Full || error instanceof RangeError)) throw error;
      for (const text of this.written.splice(before)) {
        this.known.delete(text);
        if (text.startsWith('"')) this.texts.delete(JSON.parse(text) as string);
        this.size -= text.length + 1;
      }
      return null;
    }
  }

  toString(): string {
    return `[${this.written.join(",")}]`;
  }

  private add(value: unknown): number {
    if (typeof value === "string") return this.texts.get(value) ?? this.writeText(value);
    if (value === null || typeof value === "boolean") return this.write(value);
    if (typeof value === "number") return this.write([JSON.stringify(value)]);
    if (Array.isArray(value)) return this.write(value.map((one: unknown) => this.add(one)));
    const fields = Object.entries(value as object).filter(([, inner]) => inner !== undefined);
    return this.write(Object.fromEntries(fields.map(([name, inner]) => [name, this.add(inner)])));
  }

  private writeText(value: string): number {
    if (this.size + value.length > this.most) throw new Full();
    // Before it is written, so that what does not fit is taken away from both.
    this.texts.set(value, this.written.length);
    return this.write(value);
  }

  private write(entry: Entry): number {
    const text = JSON.stringify(entry);
    const old = this.known.get(text);
    if (old !== undefined) return old;
    this.size += text.length + 1;
    this.written.push(text);
    this.known.set(text, this.written.length - 1);
    if (this.size > this.most) throw new Full();
    return this.written.length - 1;
  }
}

// The values of a pool's entries. Throws Malformed for what is none, and for what would be too large written out.
export function readPool(entries: unknown): unknown[] {
  if (!Array.isArray(entries)) throw new Malformed();
  const values: unknown[] = [];
  const weights: number[] = [];
  for (const entry of entries as unknown[]) {
    let weight = typeof entry === "string" ? entry.length : 1;
    const named = (name: unknown): unknown => {
      if (!Number.isInteger(name) || (name as number) < 0 || (name as number) >= values.length) throw new Malformed();
      weight += weights[name as number]! + 1;
      return values[name as number];
    };
    values.push(valueOf(entry, named));
    if (weight > MAX_WEIGHT) throw new Malformed();
    weights.push(weight);
  }
  return values;
}

function valueOf(entry: unknown, named: (name: unknown) => unknown): unknown {
  if (entry === null || typeof entry === "string" || typeof entry === "boolean") return entry;
  if (Array.isArray(entry)) return typeof entry[0] === "string" ? numberOf(entry[0]) : entry.map(named);
  if (typeof entry !== "object") throw new Malformed();
  // As JSON.parse does it: a field may be called __proto__, and means nothing.
  return Object.fromEntries(Object.entries(entry).map(([name, inner]) => [name, named(inner)]));
}

function numberOf(text: string): number | null {
  if (text === "null") return null; // as JSON tells a number that it has none for
  if (!/^-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?$/.test(text)) throw new Malformed();
  return Number(text);
}
