// What is kept of a conversation comes back as it was; what is too long is left out and counted; what strangers wrote in
// its place does no harm.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ApiError } from "../../api";
import { NO_SETTINGS } from "./asking";
import { Conversation, exported } from "./conversation";
import { Keeper, MAX_CHARACTERS, type Shelf } from "./keeping";
import { lostOf, pack, sentencesOf, unpack } from "./kept";
import { hear, type Message, type Step } from "./step";
import { utf8 } from "./verify/bytes";

const NOTHING = { numTurns: 0, numAnswers: 0, numRequests: 0, numTokens: 0, numStreams: 0 };

function began(...models: string[]): { conversation: Conversation; steps: Step[] } {
  const steps: Step[] = [];
  const conversation = new Conversation((step) => {
    step.startedMs = 100;
    step.stop = () => undefined;
    steps.push(step);
  });
  if (models.length > 0) conversation.models = models;
  return { conversation, steps };
}

function say(step: Step, text: string, more: object = {}): void {
  const chunk = { choices: [{ delta: { content: text, ...more }, finish_reason: "stop", logprobs: { content: [
    { token: text.slice(0, 3), logprob: -0.25, top_logprobs: [{ token: "x", logprob: -1.5 }] },
  ] } }], usage: { prompt_tokens: 3, completion_tokens: 2, cost: "0.5" } };
  step.keep(utf8(`data: ${JSON.stringify(chunk)}\n\n`));
  hear(step, chunk, 350);
  step.facts = { requestId: "r", route: null, backend: "b", model: "m", reason: null, attempts: "1", cost: null, cache: null, recordId: "rec_1" };
  step.status = "done";
  step.stop = null;
}

function restored(text: string): Conversation {
  const { conversation } = began();
  conversation.restore(unpack(text)!);
  return conversation;
}

function talk(): Conversation {
  const { conversation, steps } = began("a", "b");
  conversation.set({ settings: { ...NO_SETTINGS, system: "Be brief.", temperature: 0.5, tools: "[{", schema: '{"type": "object"}', showsChances: true } });
  conversation.send("one <b>\u202e");
  say(steps[0]!, "of a", { reasoning_content: "hm" });
  say(steps[1]!, "of b", { tool_calls: [{ index: 0, id: "c0", function: { name: "look", arguments: "{}" } }] });
  steps[1]!.record = utf8("a record");
  conversation.answerCalls(0, 1, ["sunny"]);
  steps[2]!.error = new ApiError(503, "overloaded", "busy", "r2");
  steps[2]!.status = "failed";
  steps[2]!.stop = null;
  conversation.set({ draft: "half a sen" });
  return conversation;
}

test("all of it comes back: both sides, settings, tools, schema, numbers, requests, bytes", () => {
  const before = talk();
  const packed = pack(before, 100_000)!;
  assert.deepEqual(packed.lost, NOTHING);
  const after = restored(packed.text);
  assert.deepEqual(exported(after), exported(before));
  assert.equal(JSON.stringify(after.settings), JSON.stringify(before.settings));
  assert.equal(after.draft, "half a sen");
  const [old, now] = [before, after].map((one) => one.turns.flatMap((turn) => turn.lanes.flat()));
  assert.deepEqual(now!.map((step) => JSON.stringify(step.body)), old!.map((step) => JSON.stringify(step.body)));
  assert.deepEqual(now!.map((step) => step.stream), old!.map((step) => step.stream));
  assert.deepEqual(now!.map((step) => [step.error, step.record, step.results]), old!.map((step) => [step.error, step.record, step.results]));
});

test("it can be gone on with, asked again and said anew as before", () => {
  const before = talk();
  const { conversation: after, steps } = began();
  after.restore(unpack(pack(before, 100_000)!.text)!);
  after.send("two");
  const messages = (step: Step) => (step.body!.messages as Message[]).map((message) => message.content);
  assert.deepEqual(messages(steps[0]!), ["Be brief.", "one <b>\u202e", "of a", "two"]);
  assert.deepEqual(messages(steps[1]!), ["Be brief.", "one <b>\u202e", "of b", "sunny", "two"]);
  const ids = after.turns.flatMap((turn) => [turn.id, ...turn.lanes.flat().map((step) => step.id)]);
  assert.equal(new Set(ids).size, ids.length);
  after.retry(0, 0, 0);
  assert.deepEqual(messages(steps.at(-1)!), ["Be brief.", "one <b>\u202e"]);
});

test("an answer that still came is cut off, and nothing of it that was not said is gone on with", () => {
  const { conversation, steps } = began("a");
  conversation.send("one");
  hear(steps[0]!, { choices: [{ delta: { content: "half an ans" } }] }, 200);
  const half = restored(pack(conversation, 10_000)!.text);
  assert.deepEqual(half.turns[0]!.lanes[0]!.map((step) => [step.status, step.text, step.isRunning]), [["cut", "half an ans", false]]);
  assert.deepEqual(half.messages(0, 0).map((message) => message.content), ["one", "half an ans"]);
  const { conversation: other } = began("a");
  other.send("one");
  assert.deepEqual(restored(pack(other, 10_000)!.text).messages(0, 0).map((message) => message.role), ["user"]);
});

test("an answer that is too long is not kept, is counted, and can be asked again", () => {
  const { conversation, steps } = began("a");
  for (const text of ["short", "y".repeat(50_000), "last"]) {
    conversation.send(`ask ${text.length}`);
    say(steps.at(-1)!, text);
  }
  const packed = pack(conversation, 20_000)!;
  // What came after it was asked with it: that request is too long as well.
  assert.deepEqual(packed.lost, { ...NOTHING, numAnswers: 1, numRequests: 1 });
  const after = restored(packed.text);
  const found = after.turns.map((turn) => turn.lanes[0]![0]!);
  assert.deepEqual(found.map((step) => [step.status, step.text, step.numUnkept]), [["done", "short", 0], ["unkept", "", 50_000], ["done", "last", 0]]);
  assert.deepEqual(after.lost, packed.lost);
  // A second reload knows as much.
  assert.deepEqual(pack(after, 20_000)!.lost, packed.lost);
  assert.equal(restored(pack(after, 20_000)!.text).turns[1]!.lanes[0]![0]!.numUnkept, 50_000);
  assert.equal(sentencesOf(packed.lost).length, 2);
});

test("bytes and probabilities go before what was said, the older first", () => {
  const { conversation, steps } = began("a");
  for (let at = 0; at < 3; at++) {
    conversation.send(`question ${at}`);
    steps[at]!.keep(utf8(`: ${"z".repeat(3000)}${at}\n\n`));
    say(steps[at]!, `answer ${at}`);
  }
  const packed = pack(conversation, 10_000)!;
  assert.deepEqual(packed.lost, { ...NOTHING, numStreams: 1 });
  const found = restored(packed.text).turns.map((turn) => turn.lanes[0]![0]!);
  assert.deepEqual(found.map((step) => [step.isStreamGone, step.isWholeStreamKept, step.text]), [[true, false, "answer 0"], [false, true, "answer 1"], [false, true, "answer 2"]]);
});

test("a turn that is too long goes as a whole", () => {
  const { conversation, steps } = began("a");
  for (const text of ["x".repeat(30_000), "short"]) {
    conversation.send(text);
    say(steps.at(-1)!, "yes");
  }
  const packed = pack(conversation, 10_000)!;
  assert.equal(packed.lost.numTurns, 1);
  const after = restored(packed.text);
  assert.deepEqual(after.turns.map((turn) => turn.text), ["short"]);
  assert.equal(pack(after, 10_000)!.lost.numTurns, 1);
  after.clear();
  assert.equal(pack(after, 10_000)!.lost.numTurns, 0);
});

let state = 3;
const random = (below: number) => (state = (state * 48271) % 2147483647) % below;

test("it is never longer than it may be, and always reads back", () => {
  for (let times = 0; times < 150; times++) {
    const { conversation, steps } = began(..."ab".slice(random(2)));
    for (let turn = random(12); turn > 0; turn--) {
      conversation.send("\"ask\\\n".repeat(random(60)));
      for (const step of steps.filter((one) => one.isRunning)) if (random(5) > 0) say(step, "\u0000é\ud800".repeat(random(400)));
    }
    const most = 1200 + random(30_000);
    const packed = pack(conversation, most);
    if (packed === null) continue;
    assert.ok(packed.text.length <= most);
    const kept = unpack(packed.text)!;
    assert.deepEqual(lostOf(kept), packed.lost);
    const after = restored(packed.text);
    assert.equal(after.turns.length + packed.lost.numTurns, conversation.turns.length);
    if (JSON.stringify(packed.lost) === JSON.stringify(NOTHING) && !conversation.isRunning) assert.deepEqual(exported(after), exported(conversation));
  }
});

test("what is changed on the shelf is refused or read, and never breaks the page", () => {
  const text = pack(talk(), 100_000)!.text;
  const odd = ['"', "[", "{", "null", "-1", "9", "}", "__proto__", "\u202e", "true"];
  let numRead = 0;
  for (let times = 0; times < 3000; times++) {
    const at = random(text.length);
    const changed = text.slice(0, at) + odd[random(odd.length)]! + text.slice(at + random(3));
    const kept = unpack(changed);
    if (kept === null) continue;
    const { conversation } = began();
    try {
      conversation.restore(kept);
    } catch {
      assert.equal(conversation.turns.length, 0);
      continue;
    }
    numRead += 1;
    JSON.stringify(exported(conversation));
  }
  assert.ok(numRead > 0);
});

test("an answer whose parts contradict each other is none", () => {
  const changes: ((step: Step) => void)[] = [
    (step) => (step.results = ["of a tool", "that was not called"]),
    (step) => (step.usage = { ...step.usage!, promptTokens: "<b>" as never }),
    (step) => (step.facts = { ...step.facts!, recordId: 5 as never }),
    (step) => (step.status = "won" as never),
    (step) => (step.calls = [{ id: "", name: null as never, arguments: "" }]),
  ];
  for (const change of changes) {
    const conversation = talk();
    change(conversation.turns[0]!.lanes[0]![0]!);
    assert.equal(unpack(pack(conversation, 100_000)!.text), null);
  }
  assert.notEqual(unpack(pack(talk(), 100_000)!.text), null);
});

test("what is of another version, or something else, is none", () => {
  const text = pack(talk(), 100_000)!.text;
  assert.equal(unpack(text.replace('"version":1', '"version":0')), null);
  for (const other of ["", "null", "[]", "{}", '{"version":1}', '{"version":1,"root":0,"pool":[{}]}', "<script>"]) assert.equal(unpack(other), null);
});

test("settings that another version knew otherwise are unset", () => {
  const { conversation } = began("a");
  conversation.set({ settings: { ...NO_SETTINGS, system: "s", effort: "much", numAlternatives: 1e9, temperature: "hot" as never } });
  const { settings } = unpack(pack(conversation, 10_000)!.text)!;
  assert.deepEqual([settings.system, settings.effort, settings.numAlternatives, settings.temperature], ["s", "", 20, null]);
});

class Drawer implements Shelf {
  items = new Map<string, string>();
  numWrites = 0;
  most = Infinity;
  keep(name: string, text: string): boolean {
    this.numWrites += 1;
    if (text.length > this.most) return false;
    this.items.set(name, text);
    return true;
  }
  kept(name: string): string | null {
    return this.items.get(name) ?? null;
  }
  drop(name: string): void {
    this.items.delete(name);
  }
}

test("nothing is written while nothing changes, nor before what was kept is read", () => {
  const shelf = new Drawer();
  const { conversation, steps } = began("a");
  const keeper = new Keeper(conversation, shelf);
  conversation.belongTo("a");
  conversation.send("one");
  keeper.save();
  assert.equal(shelf.numWrites, 0);
  keeper.read();
  keeper.save();
  assert.equal(shelf.numWrites, 1);
  for (let times = 0; times < 3; times++) keeper.save();
  assert.equal(shelf.numWrites, 1);
  for (const word of ["a", "b"]) {
    hear(steps[0]!, { choices: [{ delta: { content: word } }] }, 200);
    steps[0]!.changed();
  }
  assert.equal(shelf.numWrites, 1);
  keeper.leave();
  assert.equal(shelf.numWrites, 2);
  conversation.set({ draft: "of a page that goes away" });
  keeper.save();
  assert.equal(shelf.numWrites, 2);
  keeper.stay();
  keeper.save();
  assert.equal(shelf.numWrites, 3);
});

test("a browser that keeps less gets less, and one that keeps nothing is told of", () => {
  const shelf = new Drawer();
  const { conversation, steps } = began("a");
  const keeper = new Keeper(conversation, shelf);
  conversation.belongTo("a");
  keeper.read();
  conversation.send("one");
  say(steps[0]!, "y".repeat(800_000));
  shelf.most = MAX_CHARACTERS / 4;
  keeper.save();
  assert.equal(keeper.standing!.isKept, true);
  assert.equal(keeper.standing!.lost!.numAnswers, 1);
  shelf.most = 0;
  conversation.set({ draft: "x" });
  keeper.save();
  assert.deepEqual(keeper.standing, { isKept: false, lost: null });
  assert.equal(shelf.items.size, 0);
});

test("when whoever it was kept for is gone nothing is written, and the next finds no word of it", () => {
  const shelf = new Drawer();
  const { conversation, steps } = began("a");
  const keeper = new Keeper(conversation, shelf);
  conversation.belongTo("a");
  keeper.read();
  conversation.send("a secret");
  keeper.save();
  let isStopped = false;
  steps[0]!.stop = () => (isStopped = true);
  keeper.forget();
  assert.ok(isStopped);
  keeper.leave();
  assert.equal(shelf.numWrites, 1);
  conversation.belongTo("a");
  assert.deepEqual([keeper.standing, conversation.turns.length], [null, 0]);
});

test("what cannot be read is taken away, and the page begins anew", () => {
  for (const text of ["<b>", "x".repeat(MAX_CHARACTERS + 1), pack(talk(), 100_000)!.text.replace('"version":1', '"version":7')]) {
    const shelf = new Drawer();
    shelf.items.set("play", text);
    const { conversation } = began("a");
    new Keeper(conversation, shelf).read();
    assert.equal(conversation.turns.length, 0);
    assert.equal(shelf.items.size, 0);
  }
});
