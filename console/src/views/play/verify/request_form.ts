// The canonical forms that a chat request can have: as the values of its body, byte for byte, and as what it means, with
// every field that has its default left out. Made from the very body that the page sent.

import { type Bytes, utf8 } from "./bytes";
import { canonicalBytes, type Json, type Table, toJson } from "./json";
import { textForm } from "./answer_form";

export type Body = Readonly<Record<string, unknown>>; // what JSON.stringify was given

export function requestForms(body: Body): Bytes[] {
  return [bodyForm(body), canonicalBytes(neutralForm(body))];
}

// Of a body that passed unread: the bytes of each top-level value under its name, in canonical order.
function bodyForm(body: Body): Bytes {
  const names = Object.keys(body).filter((name) => body[name] !== undefined).sort();
  const fields = names.map((name) => `${textForm(name)}:${JSON.stringify(body[name])}`);
  return utf8(`{"body":{${fields.join(",")}},"dialect":"chat"}`);
}

const NEUTRAL: Record<string, number> = {
  temperature: 1,
  top_p: 1,
  top_k: 0,
  min_p: 0,
  repetition_penalty: 1,
  presence_penalty: 0,
  frequency_penalty: 0,
};

function neutralForm(body: Body): Table {
  const told = toJson(body) as Table;
  const sampling = new Map<string, Json>();
  for (const [name, neutral] of Object.entries(NEUTRAL)) {
    const value = told.get(name) ?? null;
    if (value !== null && value !== neutral) sampling.set(name, value);
  }
  if ((told.get("seed") ?? null) !== null) sampling.set("seed", exact(told.get("seed")!));
  const limits = new Map<string, Json>();
  const most = told.get("max_completion_tokens") ?? told.get("max_tokens") ?? null;
  if (most !== null) limits.set("max_tokens", most);
  const stop = told.get("stop") ?? [];
  if (typeof stop === "string") limits.set("stop", [stop]);
  else if (Array.isArray(stop) && stop.length > 0) limits.set("stop", stop);
  const form: Table = new Map<string, Json>([
    ["model", told.get("model") ?? null],
    ["messages", (told.get("messages") as Json[]).map((message) => messageForm(message as Table))],
  ]);
  const tools = (told.get("tools") ?? []) as Json[];
  if (tools.length > 0) form.set("tools", tools.map((tool) => toolForm((tool as Table).get("function") as Table)));
  for (const [name, given] of [
    ["sampling", sampling],
    ["limits", limits],
    ["tool_choice", toolChoiceForm(told)],
    ["reasoning", reasoningForm(told.get("reasoning_effort") ?? null)],
    ["response_format", formatForm(told.get("response_format") ?? null)],
  ] as const) {
    if (given.size > 0) form.set(name, given);
  }
  if (told.get("logprobs") === true) form.set("logprobs", told.get("top_logprobs") ?? 0);
  return form;
}

function messageForm(message: Table): Table {
  const form: Table = new Map();
  form.set("role", message.get("role") ?? null);
  form.set("text", message.get("content") ?? "");
  if (message.has("tool_call_id")) form.set("tool_call_id", message.get("tool_call_id")!);
  const calls = (message.get("tool_calls") ?? []) as Table[];
  if (calls.length > 0) {
    form.set(
      "tool_calls",
      calls.map((call) => {
        const made = call.get("function") as Table;
        return new Map<string, Json>([
          ["arguments", made.get("arguments")!],
          ["id", call.get("id")!],
          ["name", made.get("name")!],
        ]);
      }),
    );
  }
  return form;
}

function toolForm(made: Table): Table {
  const form: Table = new Map([["name", made.get("name") ?? null]]);
  if (made.get("description")) form.set("description", made.get("description")!);
  const parameters = made.get("parameters");
  if (parameters instanceof Map && parameters.size > 0) form.set("parameters", exact(parameters));
  if (made.get("strict") === true) form.set("strict", true);
  return form;
}

function toolChoiceForm(told: Table): Table {
  const given = told.get("tool_choice") ?? "auto";
  const form: Table = new Map();
  if (given instanceof Map) {
    const name = (given.get("function") as Table).get("name")!;
    return new Map<string, Json>([["mode", "required"], ["names", [name]], ["max_calls", 1]]);
  }
  if (given !== "auto") form.set("mode", given);
  if (told.get("parallel_tool_calls") === false) form.set("max_calls", 1);
  return form;
}

function reasoningForm(effort: Json): Table {
  return effort === null ? new Map() : new Map([["effort", effort === "max" ? "xhigh" : effort]]);
}

function formatForm(given: Json): Table {
  const form: Table = new Map();
  if (!(given instanceof Map) || given.get("type") === "text") return form;
  form.set("kind", given.get("type")!);
  if (given.get("type") === "json_schema") form.set("schema", exact((given.get("json_schema") as Table).get("schema")!));
  return form;
}

// A whole number that doubles do not hold exactly is told as a text.
function exact(value: Json): Json {
  if (typeof value === "bigint") return String(value);
  if (Array.isArray(value)) return value.map(exact);
  return value instanceof Map ? new Map([...value].map(([name, inner]) => [name, exact(inner)])) : value;
}
