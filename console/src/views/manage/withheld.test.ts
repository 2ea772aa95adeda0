import assert from "node:assert/strict";
import { test } from "node:test";
import { FormError } from "./orders";
import type { Endorsement, Withheld } from "./types";
import { ALLOW_ONCE, askerOf, endorsable, indented, isAllowed, orderBody, timesText, valueText } from "./withheld";

const call: Withheld = {
  tool: "send_mail", call: "sha256:ab", arguments: '{"to":"eve@evil.example"}',
  in_doubt: [{ argument: "to", value: "eve@evil.example" }, { argument: "n", value: 5 }, { argument: "*", value: null }],
  session: "s1", subject: "key:agent", request: "r", policies: ["p"], reason: "why", withheld_at: 1,
};
const endorsement: Endorsement = {
  id: "end_1", tool: "send_mail", call: "sha256:ab", argument: null, value: null, session: null, subject: null,
  by: "key:boss", reason: "", created_at: 1, expires_at: 601, uses_left: 1, num_used: 0,
};

test("unless said otherwise one very call passes once, soon, for who asked for it", () => {
  assert.deepEqual(orderBody(call, ALLOW_ONCE), {
    tool: "send_mail", call: "sha256:ab", uses: 1, expires_in: 600, subject: "key:agent", session: "s1",
  });
});

test("a value is endorsed as it stands, a number as a number, and without the call", () => {
  const form = { ...ALLOW_ONCE, doubt: call.in_doubt[1]!, uses: 3, seconds: 60, isForAsker: false, reason: " ok " };
  assert.deepEqual(orderBody(call, form), { tool: "send_mail", argument: "n", value: 5, uses: 3, expires_in: 60, reason: "ok" });
  assert.deepEqual(endorsable(call).map((one) => one.argument), ["to", "n"]);
});

test("a number that is not filled in or out of bounds never becomes any number of uses", () => {
  for (const [form, field] of [
    [{ ...ALLOW_ONCE, uses: null }, "uses"],
    [{ ...ALLOW_ONCE, uses: 0 }, "uses"],
    [{ ...ALLOW_ONCE, uses: 1.5 }, "uses"],
    [{ ...ALLOW_ONCE, uses: 1_000_001 }, "uses"],
    [{ ...ALLOW_ONCE, seconds: null }, "expires_in"],
    [{ ...ALLOW_ONCE, seconds: 30 * 86_400 + 1 }, "expires_in"],
  ] as const) {
    assert.throws(() => orderBody(call, form), (error: unknown) => error instanceof FormError && error.param === field);
  }
});

test("who is not known is not named", () => {
  assert.deepEqual(askerOf({ ...call, subject: "", session: null }), {});
});

test("a call passes again only by an endorsement of the very call, for who asked, where it was asked", () => {
  assert.equal(isAllowed(call, [endorsement]), true);
  assert.equal(isAllowed(call, [{ ...endorsement, subject: "key:agent", session: "s1" }]), true);
  for (const other of [{ call: "sha256:cd" }, { call: null }, { tool: "pay" }, { subject: "key:other" }, { session: "s2" }]) {
    assert.equal(isAllowed(call, [{ ...endorsement, ...other }]), false, JSON.stringify(other));
  }
  assert.equal(isAllowed(call, []), false);
});

test("how often, and a value, are told without doubt", () => {
  assert.deepEqual([timesText(1), timesText(2000), timesText(null)], ["once", "2,000 times", "any number of times"]);
  assert.deepEqual([valueText("5"), valueText(5), valueText(null)], ['"5"', "5", "—"]);
});

test("JSON is put on lines, with nothing of it lost or read", () => {
  assert.equal(indented('{"to":"bob", "to":"eve",\n\n\n"n":[1,{}, []],"t":"a, {b}: \\" \\u202e"}'), [
    "{", '  "to": "bob",', '  "to": "eve",', '  "n": [', "    1,", "    {},", "    []", "  ],", '  "t": "a, {b}: \\" \\u202e"', "}",
  ].join("\n"));
  assert.equal(indented(""), "");
  for (const broken of ['"abc\\', '{"a', "]]}{:,", '{"a" 1 2}', "\u00a0x"]) {
    const bare = (text: string) => text.replace(/[ \n]/g, "");
    assert.equal(bare(indented(broken)), bare(broken));
  }
  const deep = indented("[".repeat(16_000));
  assert.ok(deep.length < 16_000 * 50);
});
