// What is hostile about text, one by one: nothing of it stays unseen, and no block loses a character.

import assert from "node:assert/strict";
import { test } from "node:test";
import { blocks, pieces } from "./plain_text";

const odd = (text: string) => pieces(text).filter((one) => one.isOdd).map((one) => one.text);
const seen = (text: string) => pieces(text).map((one) => one.text).join("");

test("what turns the direction of writing is named", () => {
  assert.deepEqual(odd("access\u202e \u2066admin\u2069"), ["U+202E", "U+2066", "U+2069"]);
});

test("a message hidden in tags is named, character by character", () => {
  assert.deepEqual(odd("x\u{e0041}\u{e0042}"), ["U+E0041", "U+E0042"]);
});

test("controls are named, line ends and tabs are not", () => {
  assert.deepEqual(odd("a\u0000b\u001b[31m\tc\n"), ["U+0000", "U+001B"]);
  assert.equal(seen("a\r\nb"), "a\nb");
  assert.deepEqual(odd("hidden\rshown"), ["U+000D"]);
});

test("a joiner within a script or an emoji is a part of it, beside plain letters it hides", () => {
  assert.deepEqual(odd("👩\u200d🚀 می\u200cخواهم"), []);
  assert.deepEqual(odd("pass\u200dword"), ["U+200D"]);
});

test("half a pair is named", () => {
  assert.deepEqual(odd("a\ud83d!"), ["U+D83D"]);
  assert.deepEqual(odd("🚀"), []);
});

test("plain text is one piece", () => {
  assert.deepEqual(pieces("<script>alert(1)</script>"), [{ text: "<script>alert(1)</script>", isOdd: false }]);
  assert.deepEqual(pieces(""), []);
});

test("blocks join to what they were cut from, and cut no pair in two", () => {
  for (const text of ["", "short", "line\n".repeat(20_000), "x".repeat(100_001), "🚀".repeat(40_000), `${"y".repeat(15_999)}🚀${"z".repeat(9000)}`]) {
    const cut = blocks(text);
    assert.equal(cut.join(""), text);
    for (const block of cut) {
      assert.ok(block.length <= 16_000);
      assert.ok(block.isWellFormed());
    }
  }
});

test("a growing text keeps the blocks it has", () => {
  const whole = Array.from({ length: 30_000 }, (_, index) => (index % 17 ? "word " : "word\n")).join("");
  let before: string[] = [];
  for (let length = 0; length <= whole.length; length += 997) {
    const now = blocks(whole.slice(0, length));
    assert.deepEqual(now.slice(0, Math.max(0, before.length - 1)), before.slice(0, -1));
    before = now;
  }
});
