// Whose what is kept is, and when it goes.

import assert from "node:assert/strict";
import { test } from "node:test";
import { TabShelf } from "./tab_shelf";

class Memory implements Storage {
  [name: string]: unknown;
  private readonly items = new Map<string, string>();
  numWrites = 0;
  get length(): number {
    return this.items.size;
  }
  clear(): void {
    this.items.clear();
  }
  key(at: number): string | null {
    return [...this.items.keys()][at] ?? null;
  }
  getItem(name: string): string | null {
    return this.items.get(name) ?? null;
  }
  setItem(name: string, text: string): void {
    this.numWrites += 1;
    this.items.set(name, text);
  }
  removeItem(name: string): void {
    this.items.delete(name);
  }
}

const browser = () => new Memory();

function shelf(tab: Storage | null, all: Storage | null): TabShelf {
  return new TabShelf({ tab, browser: all }, () => 1000);
}

test("what is kept is there after a reload, for the same person", () => {
  const [tab, all] = [new Memory(), browser()];
  const before = shelf(tab, all);
  assert.equal(before.keep("play", "text"), false); // nobody is known yet
  before.settle("a");
  assert.ok(before.keep("play", "text"));
  const after = shelf(tab, all);
  assert.equal(after.kept("play"), null);
  after.settle("a");
  assert.equal(after.kept("play"), "text");
});

test("nothing is written for somebody who keeps nothing", () => {
  const [tab, all] = [new Memory(), browser()];
  shelf(tab, all).settle("a");
  assert.equal(tab.numWrites + all.numWrites, 0);
});

test("somebody else finds nothing, and nothing lies there any more", () => {
  const [tab, all] = [new Memory(), browser()];
  const one = shelf(tab, all);
  one.settle("a");
  one.keep("play", "secret");
  tab.setItem("another's", "stays");
  const other = shelf(tab, all);
  other.settle("b");
  assert.equal(other.kept("play"), null);
  assert.equal(tab.length, 1);
});

test("somebody else in the same page is told of, once", () => {
  const one = shelf(new Memory(), browser());
  let times = 0;
  one.onForget(() => (times += 1));
  one.settle("a");
  one.settle("a");
  assert.equal(times, 0);
  one.settle("b");
  assert.equal(times, 1);
});

test("a sign-out leaves nothing, here and in the other tabs", () => {
  const [tab, other, all] = [new Memory(), new Memory(), browser()];
  const [here, there] = [shelf(tab, all), shelf(other, all)];
  for (const one of [here, there]) {
    one.settle("a");
    one.keep("play", "secret");
  }
  let isTold = false;
  there.onForget(() => (isTold = true));
  here.signOut();
  assert.equal(tab.length, 0);
  assert.ok(there.hasEnded() && isTold);
  assert.equal(other.length, 0);
  assert.ok(!there.keep("play", "late"));
  assert.equal(other.length, 0);
});

test("a tab that slept over the sign-out of the same person gives nothing back", () => {
  const [tab, other, all] = [new Memory(), new Memory(), browser()];
  const here = shelf(tab, all);
  here.settle("a");
  here.signOut();
  const there = shelf(other, all);
  there.settle("a");
  there.keep("play", "secret");
  here.settle("a");
  here.signOut(); // in the same millisecond
  const woken = shelf(other, all);
  woken.settle("a");
  assert.equal(woken.kept("play"), null);
  assert.equal(other.length, 0);
});

test("a tab that has not noticed the sign-out yet keeps nothing more", () => {
  const [tab, all] = [new Memory(), browser()];
  const there = shelf(tab, all);
  there.settle("a");
  shelf(new Memory(), all).signOut();
  assert.equal(there.keep("play", "secret"), false);
  assert.equal(there.kept("play"), null);
  assert.equal(tab.length, 0);
});

test("a browser that keeps nothing, or is full, says so and leaves nothing older", () => {
  const none = shelf(null, null);
  none.settle("a");
  assert.equal(none.keep("play", "text"), false);
  assert.equal(none.kept("play"), null);
  const tab = new Memory();
  const full = shelf(tab, browser());
  full.settle("a");
  full.keep("play", "old");
  tab.setItem = () => {
    throw new Error("QuotaExceededError");
  };
  assert.equal(full.keep("play", "new"), false);
  assert.equal(full.kept("play"), null);
});
