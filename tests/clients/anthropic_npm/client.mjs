// Anthropic's SDK for Node against Headrace: messages whole and streamed, a tool exchange, counting, errors.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: process.env.HEADRACE_URL, apiKey: "unused", maxRetries: 0, timeout: 20_000 });
const base = { model: "scripted", max_tokens: 200 };
const tools = [
  {
    name: "get_weather",
    description: "The weather in a city.",
    input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
];
const did = (what) => console.log(`did ${what}`);
const ask = (content) => [{ role: "user", content }];

const whole = await client.messages.create({ ...base, messages: ask("Hello"), system: "Be brief." });
assert.deepEqual(whole.content.map((block) => block.text), ["Hello from the script."]);
assert.equal(whole.stop_reason, "end_turn");
assert.equal(whole.usage.output_tokens, 4);
did("messages");

const streamed = client.messages.stream({ ...base, messages: ask("Hello") });
let text = "";
streamed.on("text", (piece) => (text += piece));
const final = await streamed.finalMessage();
assert.equal(text, "Hello from the script.");
assert.equal(final.usage.output_tokens, 4);
did("messages streamed");

const messages = ask("What is the weather in Paris?");
const call = await client.messages.stream({ ...base, messages, tools }).finalMessage();
assert.equal(call.stop_reason, "tool_use");
const use = call.content.find((block) => block.type === "tool_use");
assert.deepEqual(use.input, { city: "Paris" });
messages.push({ role: "assistant", content: call.content });
messages.push({ role: "user", content: [{ type: "tool_result", tool_use_id: use.id, content: "21 degrees" }] });
const answer = await client.messages.create({ ...base, messages, tools });
assert.equal(answer.content.at(-1).text, "It is 21 degrees in Paris.");
did("tool exchange");

const thought = await client.messages.create({
  ...base, max_tokens: 2000, messages: ask("What is the weather in Paris?"), tools, thinking: { type: "enabled", budget_tokens: 1024 },
});
assert.equal(thought.content[0].type, "thinking");
assert.equal(thought.content[0].thinking, "I should look it up.");
did("thinking");

const counted = await client.messages.countTokens({ model: "scripted", messages: ask("Hello there") });
assert.ok(counted.input_tokens > 0);
did("count tokens");

await assert.rejects(client.messages.create({ ...base, messages: ask("Fail") }), Anthropic.RateLimitError);
await assert.rejects(client.messages.create({ ...base, model: "none", messages: ask("Hi") }), Anthropic.NotFoundError);
await assert.rejects(client.messages.stream({ ...base, messages: ask("Break off") }).finalMessage(), Anthropic.APIError);
did("errors");

const models = [];
for await (const one of client.models.list()) models.push(one.id);
assert.deepEqual(models, ["scripted"]);
did("models");

const params = (content) => ({ ...base, messages: ask(content) });
const requests = [
  { custom_id: "good", params: params("Hello") },
  { custom_id: "bad", params: { ...params("Hello"), temperature: 3 } },
];
let batch = await client.messages.batches.create({ requests });
while (batch.processing_status !== "ended") batch = await client.messages.batches.retrieve(batch.id);
const results = {};
for await (const line of await client.messages.batches.results(batch.id)) results[line.custom_id] = line.result;
assert.equal(results.good.message.content[0].text, "Hello from the script.");
assert.equal(results.bad.error.error.type, "invalid_request_error");
const listed = [];
for await (const one of client.messages.batches.list()) listed.push(one.id);
assert.deepEqual(listed, [batch.id]);
await client.messages.batches.delete(batch.id);
await assert.rejects(client.messages.batches.retrieve(batch.id), Anthropic.NotFoundError);
did("message batches");
// What a breakpoint keeps is told, by its time, and read the next time; the three inputs add up to the prompt.
const guide = { type: "text", text: "Be brief. ".repeat(60), cache_control: { type: "ephemeral", ttl: "1h" } };
const kept = await client.messages.create({ ...base, system: [guide], messages: ask("Hello") });
assert.ok(kept.usage.cache_creation.ephemeral_1h_input_tokens > 100, JSON.stringify(kept.usage));
assert.ok(kept.usage.cache_read_input_tokens < 5, JSON.stringify(kept.usage)); // "Be brief." was said before
const found = await client.messages.create({ ...base, system: [guide], messages: ask("Hello again") });
assert.ok(found.usage.cache_read_input_tokens >= kept.usage.cache_creation_input_tokens, JSON.stringify(found.usage));
assert.equal(found.usage.cache_creation_input_tokens, 0);
did("caching");
