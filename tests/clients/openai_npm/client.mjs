// The OpenAI SDK for Node against Headrace: what it parses and what its helpers make of it.
import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { ResponsesWS } from "openai/resources/responses/ws";
import { z } from "zod";

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

// Responses: whole, streamed, chained, parsed, looked up again.
const first = await client.responses.create({ model, input: "Hello" });
assert.equal(first.output_text, "Hello from the script.");
const again = await client.responses.retrieve(first.id);
assert.deepEqual(again.output, first.output);
const next = await client.responses.create({ model, input: "Hello", previous_response_id: first.id });
assert.ok(next.usage.input_tokens > first.usage.input_tokens);
await client.responses.delete(first.id);
await assert.rejects(client.responses.retrieve(first.id), OpenAI.NotFoundError);
did("responses stored and chained");

let spoken = "";
const responding = client.responses.stream({ model, input: "Hello" });
responding.on("response.output_text.delta", (event) => (spoken += event.delta));
assert.equal((await responding.finalResponse()).output_text, spoken);
assert.equal(spoken, "Hello from the script.");
did("responses streamed");

const Weather = z.object({ city: z.string(), degrees: z.number() });
const parsed = await client.responses.parse({ model, input: "JSON, please", text: { format: zodTextFormat(Weather, "weather") } });
assert.deepEqual(parsed.output_parsed, { city: "Paris", degrees: 21 });
did("responses parsed");

const flat = [{ type: "function", strict: false, ...tools[0].function }];
const asked = [{ role: "user", content: "What is the weather in Paris?" }];
const wants = await client.responses.create({ model, input: asked, tools: flat, store: false });
const call = wants.output.find((item) => item.type === "function_call");
assert.deepEqual(JSON.parse(call.arguments), { city: "Paris" });
const result = { type: "function_call_output", call_id: call.call_id, output: "21 degrees" };
const learned = await client.responses.create({ model, input: [...asked, ...wants.output, result], tools: flat, store: false });
assert.equal(learned.output_text, "It is 21 degrees in Paris.");
did("tool exchange over responses");

const socket = new ResponsesWS(client);
const told = [];
for await (const message of socket.stream()) {
  if (message.type === "open") socket.send({ type: "response.create", model, input: "Hello" });
  if (message.type === "error") throw message.error;
  if (message.type === "message") told.push(message.message);
  if (told.at(-1)?.type === "response.completed") break;
}
assert.equal(told.at(-1).response.output[0].content[0].text, "Hello from the script.");
socket.close();
did("responses over a WebSocket");

// A batch from a file, to its output.
const line = { custom_id: "one", method: "POST", url: "/v1/chat/completions", body: { model, messages: ask("Hello") } };
const upload = await toFile(Buffer.from(`${JSON.stringify(line)}\n`), "batch.jsonl");
const file = await client.files.create({ file: upload, purpose: "batch" });
let batch = await client.batches.create({ input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" });
for (let tries = 0; batch.status !== "completed"; tries += 1) {
  assert.ok(tries < 200 && !["failed", "expired", "cancelled"].includes(batch.status), JSON.stringify(batch));
  await new Promise((resolve) => setTimeout(resolve, 100));
  batch = await client.batches.retrieve(batch.id);
}
const output = JSON.parse(await (await client.files.content(batch.output_file_id)).text());
assert.equal(output.response.body.choices[0].message.content, "Hello from the script.");
did("files and batches");
