// The OpenAI SDK for Node against Headrace: what it parses and what its helpers make of it.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.HEADRACE_URL}/v1`, apiKey: "unused", maxRetries: 0, timeout: 20_000 });
const model = "scripted";
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
const did = (what) => console.log(`did ${what}`);
const ask = (content) => [{ role: "user", content }];

const models = [];
for await (const one of client.models.list()) models.push(one.id);
assert.deepEqual(models, ["scripted"]);
did("models");

const whole = await client.chat.completions.create({ model, messages: ask("Hello") });
assert.equal(whole.choices[0].message.content, "Hello from the script.");
assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);
did("chat");

let text = "";
let usage;
const options = { stream: true, stream_options: { include_usage: true } };
for await (const chunk of await client.chat.completions.create({ model, messages: ask("Hello"), ...options })) {
  text += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, "Hello from the script.");
assert.equal(usage.completion_tokens, 4);
did("chat streamed");

const called = await client.chat.completions.create({ model, messages: ask("Weather in both cities?"), tools });
assert.equal(called.choices[0].finish_reason, "tool_calls");
assert.deepEqual(called.choices[0].message.tool_calls.map((call) => JSON.parse(call.function.arguments).city), ["Paris", "Oslo"]);
did("parallel tool calls");

const runner = client.chat.completions.runTools({
  model,
  stream: true,
  messages: ask("What is the weather in Paris?"),
  tools: [
    {
      type: "function",
      function: { ...tools[0].function, function: ({ city }) => `21 degrees in ${city}`, parse: JSON.parse },
    },
  ],
});
assert.equal(await runner.finalContent(), "It is 21 degrees in Paris.");
did("tool loop streamed");

await assert.rejects(client.chat.completions.create({ model, messages: ask("Fail") }), (error) => {
  assert.ok(error instanceof OpenAI.RateLimitError, String(error));
  assert.ok(error.requestID);
  return true;
});
await assert.rejects(client.chat.completions.create({ model: "none", messages: ask("Hi") }), OpenAI.NotFoundError);
await assert.rejects(async () => {
  for await (const _ of await client.chat.completions.create({ model, messages: ask("Break off"), stream: true }));
}, OpenAI.APIError);
did("errors");

const vectors = await client.embeddings.create({ model, input: ["a", "b"], dimensions: 4 });
assert.deepEqual(vectors.data.map((one) => one.embedding.length), [4, 4]);
did("embeddings");
