// The reference's logic: routes in groups, schemas in words, samples, examples that quote whatever is in them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { example, languagesOf, pathOf, pythonLiteral, shellQuoted, type Asked } from "./examples";
import { GROUP_NAMES, groupOf, placeOf, readRoutes, routeAt, searchRoutes, type OpenApi, type Route, type Schema } from "./openapi";
import { isSafe, readable, readBody, run } from "./running";
import { sampleBody, sampleQuery } from "./sample";
import { objectsIn, rowsOf, typeOf, type Schemas } from "./schema";

const text = { type: "string" };
const orNull = (schema: Schema) => ({ anyOf: [schema, { type: "null" }], default: null });
const schemas: Schemas = {
  Chat: {
    title: "Chat",
    type: "object",
    properties: {
      temperature: { ...orNull({ type: "number" }), minimum: 0, maximum: 2 },
      messages: { type: "array", items: { $ref: "#/components/schemas/Message" } },
      model: { ...text, minLength: 1 },
      max_tokens: orNull({ type: "integer" }),
      mode: { enum: ["a", "b"] },
    },
    required: ["model", "messages"],
  },
  Message: { title: "Message", type: "object", properties: { role: text, parts: { type: "array", items: { $ref: "#/components/schemas/Message" } } }, required: ["role"] },
};
const body = { required: true, content: { "application/json": { schema: { $ref: "#/components/schemas/Chat" } } } };
const done = { "200": { content: { "application/json": { schema: text }, "text/event-stream": { schema: text } } } };
const document: OpenApi = {
  paths: {
    "/v1/models/{id}": { get: { summary: "One model.", parameters: [{ name: "id", in: "path", required: true, schema: text }], responses: done } },
    "/health": { get: { summary: "Whether it lives.", responses: done, security: [] } },
    "/v1/chat/completions": { post: { summary: "Answer.", requestBody: body, responses: done }, get: { summary: "Stored.", responses: done } },
    "/v1/files": { post: { summary: "Upload.", requestBody: { content: { "multipart/form-data": { schema: text } } }, responses: done } },
    "/v1/live": { get: { summary: "What runs.", parameters: [{ name: "once", in: "query", schema: text }], responses: done } },
    "/v1/accounts/keys": { post: { summary: "Issue a key.", requestBody: body, responses: done } },
  },
  components: { schemas },
};
const routes = readRoutes(document);
const route = (id: string): Route => routes.find((one) => one.id === id)!;
const chat = route("post /v1/chat/completions");
const asked = (one: Route, more: Partial<Asked> = {}): Asked => ({
  route: one, origin: "http://h:1", values: {}, query: sampleQuery(one), body: sampleBody(one, schemas, "m"), hasKey: true, ...more,
});

test("routes come in groups, answers first, and each has an address of its own", () => {
  assert.deepEqual(routes.map((one) => one.id).slice(0, 2), ["get /v1/chat/completions", "post /v1/chat/completions"]);
  assert.equal(groupOf("/v1/accounts/keys"), "Keys, budgets and usage");
  assert.equal(groupOf("/version"), GROUP_NAMES.at(-1));
  assert.equal(groupOf("/v1/modelsx"), GROUP_NAMES.at(-1));
  for (const one of routes) assert.equal(routeAt(routes, placeOf(one)), one);
  assert.equal(routeAt(routes, "learn/reference/get/v1/models/%7Bid%7D"), route("get /v1/models/{id}"));
  assert.equal(routeAt(routes, "learn/reference/get/%"), undefined);
});

test("a search finds words wherever they stand", () => {
  assert.deepEqual(searchRoutes(routes, "POST answer").map((one) => one.id), ["post /v1/chat/completions"]);
  assert.equal(searchRoutes(routes, "").length, routes.length);
  assert.equal(searchRoutes(routes, "nothing such").length, 0);
});

test("fields are told in words, those that are required first", () => {
  const rows = rowsOf(chat.body!.schema, schemas);
  assert.deepEqual(rows.map((row) => row.name), ["messages", "model", "temperature", "max_tokens", "mode"]);
  assert.equal(rows[0]!.type, "list of Message");
  assert.deepEqual(rows[2]!.rules, ["at least 0", "at most 2"]);
  assert.equal(rows[2]!.type, "number or null");
  assert.equal(rows[4]!.type, '"a" or "b"');
  assert.equal(typeOf({}, schemas), "anything");
});

test("a schema that contains itself is opened step by step and never without end", () => {
  const message = objectsIn({ $ref: "#/components/schemas/Message" }, schemas);
  assert.equal(message.length, 1);
  assert.deepEqual(rowsOf(message[0]!, schemas)[1]!.children, message);
  const around: Schemas = { A: { $ref: "#/components/schemas/B" }, B: { $ref: "#/components/schemas/A" } };
  assert.equal(typeOf({ $ref: "#/components/schemas/A" }, around), "anything");
  const union: Schemas = { A: { anyOf: [{ $ref: "#/components/schemas/A" }, text] } };
  assert.equal(typeof typeOf({ $ref: "#/components/schemas/A" }, union), "string");
});

test("a sample has what is required and what keeps its answer short", () => {
  const sample = sampleBody(chat, schemas, "a/b") as Record<string, unknown>;
  assert.deepEqual(Object.keys(sample).sort(), ["max_tokens", "messages", "model"]);
  assert.equal(sample["model"], "a/b");
  assert.equal(sampleBody(route("post /v1/files"), schemas, "m"), null);
  assert.deepEqual(sampleQuery(route("get /v1/live")), { once: "true" });
});

test("paths and queries are escaped, and what is not filled in is told", () => {
  const models = route("get /v1/models/{id}");
  assert.equal(pathOf(asked(models)), "/v1/models/ID");
  assert.equal(pathOf(asked(models, { values: { id: "a/b?c" } })), "/v1/models/a%2Fb%3Fc");
  assert.equal(pathOf(asked(route("get /v1/live"), { query: { once: "a b&", none: "" } })), "/v1/live?once=a+b%26");
});

test("whatever is in a value, it stays a value in every language", () => {
  const wild = `'; rm -rf / # "\\ \u2028 $HOME \`x\` \${y} \n</script>`;
  const made = asked(chat, { body: { model: wild, on: true, off: false, no: null, list: [], map: {} } });
  assert.equal(shellQuoted("it's"), `'it'\\''s'`);
  const quoted = example("curl", made);
  assert.ok(quoted.includes(shellQuoted(JSON.stringify(made.body, null, 2))));
  assert.equal(pythonLiteral({ a: [true, null, 1.5] }), '{\n    "a": [\n        True,\n        None,\n        1.5,\n    ],\n}');
  assert.ok(example("python", made).includes(`"model": ${JSON.stringify(wild)}`));
  for (const { id } of languagesOf(chat)) assert.ok(example(id, made).includes("HEADRACE_API_KEY"));
  for (const { id } of languagesOf(chat)) assert.ok(!example(id, asked(chat, { hasKey: false })).includes("HEADRACE_API_KEY"));
});

test("OpenAI's libraries are shown where they have a word for the route", () => {
  assert.deepEqual(languagesOf(route("post /v1/accounts/keys")).map((one) => one.id), ["curl", "python", "typescript"]);
  assert.deepEqual(languagesOf(route("post /v1/files")).map((one) => one.id), ["curl", "python-openai", "typescript", "typescript-openai"]);
  assert.ok(example("python-openai", asked(route("get /v1/models/{id}"), { values: { id: "x" } })).includes('client.models.retrieve(\n    "x",\n)'));
});

test("of a list its data are told, and not what a library keeps beside them", () => {
  const [models] = readRoutes({ paths: { "/v1/models": { get: { summary: "Models.", responses: done } } } });
  assert.ok(example("typescript-openai", asked(models!)).endsWith("console.log(JSON.stringify(answer.data, null, 2));"));
});

test("only what changes nothing is sent from here, and only for short answers", () => {
  assert.ok(isSafe(chat) && isSafe(route("get /health")));
  assert.ok(!isSafe(route("post /v1/accounts/keys")) && !isSafe(route("post /v1/files")));
  const wrong = (given: unknown) => "wrong" in readBody(chat, typeof given === "string" ? given : JSON.stringify(given));
  assert.ok(!wrong({ model: "m", messages: [], max_tokens: 8 }));
  assert.ok(!wrong({ model: "m", max_completion_tokens: 8 }));
  for (const bad of ["{", "[]", "3", { model: "m" }, { max_tokens: 257 }, { max_tokens: "8" }, { max_tokens: 8, n: 100 }, { max_tokens: 8, store: true }]) assert.ok(wrong(bad), JSON.stringify(bad));
  assert.ok(wrong({ max_tokens: 8, padding: "x".repeat(20_000) }));
  assert.ok(wrong({ max_completion_tokens: 9999, max_tokens: 1 }));
});

test("answers are text, whatever they are", () => {
  const bytes = new TextEncoder().encode('{"a":1}');
  assert.equal(readable(bytes, "application/json; charset=utf-8"), '{\n  "a": 1\n}');
  assert.equal(readable(bytes, "text/plain"), '{"a":1}');
  assert.ok(readable(new Uint8Array([0, 255]), "application/octet-stream").startsWith("2 bytes that are no text: 00 ff"));
  assert.equal(readable(new TextEncoder().encode("{"), "application/json"), "{");
});

test("a question that is run may be answered as it was before", async () => {
  const real = globalThis.fetch;
  const caches: (string | undefined)[] = [];
  globalThis.fetch = (_, init) => {
    caches.push(init?.cache);
    return Promise.resolve(new Response("{}"));
  };
  try {
    await run("get", "/v1/models", null, new AbortController().signal);
    await run("post", "/v1/chat/completions", {}, new AbortController().signal);
  } finally {
    globalThis.fetch = real;
  }
  assert.deepEqual(caches, ["no-store", undefined]);
});
