// What is sent, and what is said of a person's JSON.

import assert from "node:assert/strict";
import { test } from "node:test";
import { bodyOf, NO_SETTINGS, parseSchema, parseTools, settingsError } from "./asking";

const HI = [{ role: "user" as const, content: "hi" }];

test("nothing is sent that was not set", () => {
  const body = bodyOf("m", HI, NO_SETTINGS);
  assert.deepEqual(Object.keys(body), ["model", "messages", "stream", "stream_options"]);
});

test("zero is a value like another", () => {
  const body = bodyOf("m", HI, { ...NO_SETTINGS, temperature: 0, seed: 0, maxTokens: 0, minP: 0 });
  assert.deepEqual([body.temperature, body.seed, body.max_tokens, body.min_p], [0, 0, 0, 0]);
});

test("an empty line among stop texts is none", () => {
  assert.deepEqual(bodyOf("m", HI, { ...NO_SETTINGS, stop: "\nEND\n\n" }).stop, ["END"]);
});

for (const [text, told] of [
  ["[", "line 1, column 2: It ends too early"],
  ["[\n{,}]", "line 2, column 2"],
  ["{}", "must be a list"],
  ["[1]", "tools[0] must be an object"],
  ['[{"type": "custom"}]', 'tools[0].type must be "function"'],
  ['[{"type": "function"}]', "tools[0].function is missing"],
  ['[{"type": "function", "function": {"name": "a b"}}]', "tools[0].function.name must be 1 to 128"],
  ['[{"type": "function", "function": {"name": "a", "parameters": []}}]', "tools[0].function.parameters must be"],
] as const) {
  test(`tools that are wrong say what and where: ${JSON.stringify(text)}`, () => {
    const { value, error } = parseTools(text);
    assert.equal(value, null);
    assert.ok(error!.includes(told), error!);
    assert.ok(settingsError({ ...NO_SETTINGS, tools: text })!.startsWith("Tools: "));
  });
}

test("no tools and no schema are no error", () => {
  assert.deepEqual(parseTools("  \n"), { value: null, error: null });
  assert.deepEqual(parseTools("[]"), { value: null, error: null });
  assert.deepEqual(parseSchema(""), { value: null, error: null });
  assert.equal(settingsError(NO_SETTINGS), null);
});

test("a schema must be an object", () => {
  assert.equal(parseSchema("[]").error, "must be a JSON schema: an object");
  assert.deepEqual(bodyOf("m", HI, { ...NO_SETTINGS, schema: '{"type": "object"}' }).response_format, {
    type: "json_schema",
    json_schema: { name: "answer", schema: { type: "object" } },
  });
});
