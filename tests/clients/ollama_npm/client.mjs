// Ollama's client for JavaScript against Headrace: chat whole and streamed, a tool exchange, generate, embed, models.
import assert from "node:assert/strict";
import { Ollama } from "ollama";

const client = new Ollama({ host: process.env.HEADRACE_URL });
const model = "scripted";
const did = (what) => console.log(`did ${what}`);
const tools = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "The weather in a city.",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
];

assert.ok((await client.list()).models.some((one) => one.name.split(":")[0] === model));
did("list");
const messages = [{ role: "user", content: "Hello" }];
assert.equal((await client.chat({ model, messages })).message.content, "Hello from the script.");
did("chat");
let text = "";
for await (const part of await client.chat({ model, messages, stream: true })) text += part.message.content;
assert.equal(text, "Hello from the script.");
did("chat streamed");

const talk = [{ role: "user", content: "What is the weather in Paris?" }];
const called = await client.chat({ model, messages: talk, tools });
const call = called.message.tool_calls[0];
assert.deepEqual(call.function.arguments, { city: "Paris" });
talk.push(called.message, { role: "tool", tool_name: call.function.name, content: "21 degrees in Paris" });
assert.equal((await client.chat({ model, messages: talk, tools })).message.content, "It is 21 degrees in Paris.");
did("tool exchange");

assert.equal((await client.generate({ model, prompt: "Hello" })).response, "Hello from the script.");
did("generate");
assert.deepEqual((await client.embed({ model, input: ["a", "b"] })).embeddings.map((one) => one.length), [16, 16]);
did("embed");
await assert.rejects(client.chat({ model: "none", messages }), { status_code: 404 });
did("errors");
