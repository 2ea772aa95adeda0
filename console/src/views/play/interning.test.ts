// Whatever goes into a pool comes out of it; what does not fit leaves nothing; what strangers wrote is refused.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Malformed, Pool, readPool } from "./interning";

function through(value: unknown): unknown {
  const pool = new Pool();
  const name = pool.put(value, Infinity)!;
  return readPool(JSON.parse(String(pool)))[name];
}

const AWKWARD: unknown[] = [
  null,
  true,
  "",
  "\ud800 half",
  "__proto__",
  0,
  -0.5,
  1e300,
  [],
  {},
  [[[]]],
  ["1"],
  [1],
  ["a", 1, null],
  { a: "a", "": [{ a: "a" }] },
  JSON.parse('{"__proto__": {"polluted": true}, "constructor": 1}'),
];

test("values come out as they went in", () => {
  for (const value of AWKWARD) assert.equal(JSON.stringify(through(value)), JSON.stringify(value));
  assert.equal(({} as { polluted?: unknown }).polluted, undefined);
});

test("made up values come out as they went in", () => {
  let state = 7;
  const random = (below: number) => (state = (state * 48271) % 2147483647) % below;
  const make = (depth: number): unknown => {
    const kind = random(depth > 3 ? 4 : 6);
    if (kind === 0) return random(3) - 1.5;
    if (kind === 1) return "ab\n\"".repeat(random(3));
    if (kind === 2) return random(2) === 0;
    if (kind === 3) return null;
    const items = Array.from({ length: random(4) }, () => make(depth + 1));
    return kind === 4 ? items : Object.fromEntries(items.map((item, at) => [`k${at}`, item]));
  };
  for (let times = 0; times < 500; times++) {
    const value = make(0);
    assert.equal(JSON.stringify(through(value)), JSON.stringify(value));
  }
});

test("what comes twice is written once", () => {
  const pool = new Pool();
  const said = { role: "user", content: "x".repeat(10_000) };
  pool.put([said], Infinity);
  const once = String(pool).length;
  pool.put([said, { role: "assistant", content: "yes" }, said], Infinity);
  assert.ok(String(pool).length < once + 200);
});

test("what does not fit, or is too deep, leaves nothing", () => {
  const pool = new Pool();
  assert.notEqual(pool.put({ a: "small" }, 100), null);
  const before = String(pool);
  assert.equal(pool.put({ b: "small", c: "x".repeat(100) }, 100), null);
  assert.equal(pool.put(["y".repeat(40), "z".repeat(40)], 100), null);
  let deep: unknown = [];
  for (let depth = 0; depth < 200_000; depth++) deep = [deep];
  assert.equal(pool.put(deep, Infinity), null);
  assert.equal(String(pool), before);
  const late = { b: "small", c: "y".repeat(40) }; // a part of it was in what did not fit
  const name = pool.put(late, 200)!;
  assert.deepEqual(readPool(JSON.parse(String(pool)))[name], late);
});

test("a pool that nothing wrote is refused", () => {
  const doubling: unknown[] = ["x"];
  for (let at = 0; at < 60; at++) doubling.push([at, at]); // 2^60 characters, written out
  const bad = [{}, null, "a", [[0]], [[1], "a"], ["a", [-1]], ["a", [0.5]], ["a", { b: "c" }], [["x"]], [["1e999x"]], [5], doubling];
  for (const entries of bad) assert.throws(() => readPool(entries), undefined);
  assert.throws(() => readPool([["1..2"]]), Malformed);
});
