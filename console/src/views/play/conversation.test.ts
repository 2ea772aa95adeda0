// What a conversation sends from turn to turn, and what is forgotten when something is said anew.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Conversation, exported } from "./conversation";
import { hear, type Message, type Step } from "./step";

interface Talk {
  conversation: Conversation;
  steps: Step[];
}

function talk(...models: string[]): Talk {
  const steps: Step[] = [];
  const conversation = new Conversation((step) => void steps.push(step));
  conversation.models = models;
  return { conversation, steps };
}

function say(step: Step, text: string): void {
  hear(step, { choices: [{ delta: { content: text }, finish_reason: "stop" }] }, 1);
  step.status = "done";
}

function sent(step: Step): (string | null)[] {
  return (step.body!.messages as Message[]).map((message) => message.content);
}

test("each lane goes on from its own answers", () => {
  const { conversation, steps } = talk("a", "b");
  conversation.send("one");
  say(steps[0]!, "of a");
  say(steps[1]!, "of b");
  conversation.send("two");
  assert.deepEqual(sent(steps[2]!), ["one", "of a", "two"]);
  assert.deepEqual(sent(steps[3]!), ["one", "of b", "two"]);
  assert.deepEqual([steps[2]!.model, steps[3]!.model], ["a", "b"]);
});

test("a second lane begins with what was said so far, and goes when it is taken away", () => {
  const { conversation, steps } = talk("a");
  conversation.send("one");
  say(steps[0]!, "first");
  conversation.setLanes(["a", "b"]);
  conversation.send("two");
  assert.deepEqual(sent(steps[2]!), ["one", "first", "two"]);
  let isStopped = false;
  steps[2]!.stop = () => (isStopped = true);
  conversation.setLanes(["a"]);
  assert.ok(isStopped);
  assert.equal(conversation.turns[1]!.lanes.length, 1);
});

test("what is said anew forgets what came after it, and stops it", () => {
  const { conversation, steps } = talk("a");
  for (const text of ["one", "two"]) {
    conversation.send(text);
    say(steps.at(-1)!, `answer to ${text}`);
  }
  conversation.send("three");
  let isStopped = false;
  steps[2]!.stop = () => (isStopped = true);
  conversation.resend(1, "other");
  assert.ok(isStopped);
  assert.deepEqual(sent(steps[3]!), ["one", "answer to one", "other"]);
  assert.equal(conversation.turns.length, 2);
});

test("a failed answer is no part of what comes after it", () => {
  const { conversation, steps } = talk("a");
  conversation.send("one");
  steps[0]!.status = "failed";
  conversation.send("two");
  assert.deepEqual(sent(steps[1]!), ["one", "two"]);
  conversation.retry(1, 0, 0);
  assert.deepEqual(sent(steps[2]!), ["one", "two"]);
  assert.deepEqual(conversation.turns[1]!.lanes[0], [steps[2]]);
});

test("results of tools go back with the ids of their calls", () => {
  const { conversation, steps } = talk("a");
  conversation.send("weather?");
  const step = steps[0]!;
  const call = (id: string) => ({ id, function: { name: "look", arguments: "{" } });
  hear(step, { choices: [{ delta: { tool_calls: [{ index: 0, ...call("c0") }, { index: 1, ...call("c1") }] } }] }, 1);
  hear(step, { choices: [{ delta: { tool_calls: [{ index: 1, function: { arguments: "}" } }] }, finish_reason: "tool_calls" }] }, 2);
  step.status = "done";
  conversation.answerCalls(0, 0, ["sunny", "warm"]);
  const messages = steps[1]!.body!.messages as Message[];
  assert.deepEqual(messages.map((message) => message.role), ["user", "assistant", "tool", "tool"]);
  assert.deepEqual(messages[1]!.tool_calls!.map((made) => [made.id, made.function.arguments]), [["c0", "{"], ["c1", "{}"]]);
  assert.deepEqual(messages.slice(2).map((message) => [message.tool_call_id, message.content]), [["c0", "sunny"], ["c1", "warm"]]);
});

test("somebody else begins with an empty page", () => {
  const { conversation } = talk("a");
  conversation.belongTo("acme/laptop");
  conversation.send("secret");
  conversation.draft = "more";
  conversation.belongTo("acme/laptop");
  assert.equal(conversation.turns.length, 1);
  conversation.belongTo("acme/other");
  assert.deepEqual([conversation.turns.length, conversation.draft], [0, ""]);
});

test("what a backend sends in another form than it should is left out", () => {
  const { conversation, steps } = talk("a");
  conversation.send("x");
  const step = steps[0]!;
  for (const odd of [
    null, 7, "x", [], { choices: null }, { choices: [null] }, { choices: [{ delta: { content: 7, tool_calls: "x" } }] },
    { choices: [{ delta: { tool_calls: [{ index: -1 }, { index: 1e9 }, { index: "x" }] } }] }, { usage: { cost: {} } },
    { choices: [{ delta: null, logprobs: { content: null } }] }, { choices: [{ delta: {}, finish_reason: 3 }] },
  ]) {
    if (odd !== null) hear(step, odd, 1);
  }
  assert.deepEqual([step.text, step.finish, step.calls.length], ["", null, 1]);
  assert.ok(JSON.stringify(exported(conversation)).includes("headrace-conversation-v1"));
});
