// Whose keys are trusted: kept at the first use, and a change is told.

import assert from "node:assert/strict";
import { test } from "node:test";
import { type Anchor, compare, forgetAnchor, keepAnchor, readAnchor, type Shelf } from "./anchors";

function shelf(): Shelf & { items: Map<string, string> } {
  const items = new Map<string, string>();
  return {
    items,
    getItem: (key) => items.get(key) ?? null,
    setItem: (key, value) => void items.set(key, value),
    removeItem: (key) => void items.delete(key),
  };
}

const KEYS = "node n a\nlog b\nquorum none\n";
const ANCHOR: Anchor = { text: KEYS, source: "first use", name: "", sinceMs: 5 };

test("an anchor is kept, read and forgotten", () => {
  const kept = shelf();
  assert.equal(readAnchor(kept), null);
  assert.ok(keepAnchor(kept, ANCHOR));
  assert.deepEqual(readAnchor(kept), ANCHOR);
  forgetAnchor(kept);
  assert.equal(readAnchor(kept), null);
});

test("what is kept and is no anchor is none", () => {
  const kept = shelf();
  for (const text of ["", "{", "null", "7", '{"text": 7, "source": "file"}', '{"text": "x", "source": "server"}']) {
    kept.items.set("headrace:trust", text);
    assert.equal(readAnchor(kept), null, text);
  }
});

test("a browser that keeps nothing is told from one that does", () => {
  const full: Shelf = {
    getItem: () => {
      throw new Error("denied");
    },
    setItem: () => {
      throw new Error("denied");
    },
    removeItem: () => {
      throw new Error("denied");
    },
  };
  assert.equal(readAnchor(full), null);
  assert.equal(keepAnchor(full, ANCHOR), false);
  forgetAnchor(full);
});

test("any other line than at the first use is a change, and nothing else is", () => {
  assert.equal(compare(null, KEYS), "new");
  assert.equal(compare(ANCHOR, `# a comment\nquorum  none\nlog b\n\nnode\tn a\n`), "same");
  for (const told of [`${KEYS}node m c\n`, "node n a\nlog b\n", KEYS.replace("node n a", "node n x"), ""]) {
    assert.equal(compare(ANCHOR, told), "changed", told);
  }
});

test("a file that was picked may know more than the server tells, and not another key", () => {
  const picked: Anchor = { ...ANCHOR, source: "file", text: `${KEYS}revoked x 5\nwitness w c\n` };
  assert.equal(compare(picked, KEYS), "same");
  assert.equal(compare(picked, KEYS.replace("log b", "log c")), "changed");
});
