// What is sent, and how a stream of events is read.

import assert from "node:assert/strict";
import { test } from "node:test";
import { events, send, type ServerEvent } from "./api";

async function sent(body?: unknown): Promise<RequestInit> {
  const real = globalThis.fetch;
  let init: RequestInit = {};
  globalThis.fetch = (_, given) => {
    init = given!;
    return Promise.resolve(new Response("{}"));
  };
  try {
    await send("/v1/somewhere", body === undefined ? {} : { body });
  } finally {
    globalThis.fetch = real;
  }
  return init;
}

test("what is read is read anew, and a question may be answered as it was before", async () => {
  assert.equal((await sent()).cache, "no-store");
  assert.equal((await sent({ model: "chat" })).cache, undefined);
});

async function read(chunks: Iterable<string>): Promise<ServerEvent[]> {
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const text of chunks) controller.enqueue(new TextEncoder().encode(text));
      controller.close();
    },
  });
  const found: ServerEvent[] = [];
  for await (const event of events(new Response(body))) found.push(event);
  return found;
}

test("events are the same however their bytes were cut", async () => {
  const text = ": hello\r\nevent: a\r\ndata: 1\ndata: 2\n\ndata:\n\n\ndata: \u{1f600}\n\ndata: lost";
  const whole = await read([text]);
  assert.deepEqual(whole, [
    { event: "a", data: "1\n2", comment: "hello" },
    { event: "message", data: "", comment: null },
    { event: "message", data: "\u{1f600}", comment: null },
  ]);
  for (let size = 1; size < 8; size += 1) {
    const cut = Array.from({ length: Math.ceil(text.length / size) }, (_, at) => text.slice(at * size, (at + 1) * size));
    if (size === 1) cut.splice(0, cut.length, ...text); // a character of two halves is sent whole
    else if (cut.some((one) => /[\ud800-\udbff]$/.test(one))) continue;
    assert.deepEqual(await read(cut), whole);
  }
});

test("a line of any length is read in the time of its length", async () => {
  const piece = "x".repeat(4096);
  let looked = 0;
  const real = String.prototype.split;
  // What is looked at again and again would be looked at a thousand times.
  String.prototype.split = function (this: string, ...given: [never]) {
    looked += this.length;
    return real.apply(this, given);
  };
  try {
    const [event] = await read(["data: ", ...Array<string>(1000).fill(piece), "\n\n"]);
    assert.equal(event!.data.length, 4096 * 1000);
  } finally {
    String.prototype.split = real;
  }
  assert(looked < 2 * 4096 * 1000, `${looked} characters were looked at`);
});
