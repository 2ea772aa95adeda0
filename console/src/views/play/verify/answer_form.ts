// The canonical form of an answer: what its stream said, whatever protocol it was told in. Text, tool calls and how each
// choice ended; reasoning has a form of its own. Read again from the bytes, strictly, and not from what the page shows.

import { type Bytes, concat, fromUtf8, isWellFormed, toBase64, utf8 } from "./bytes";
import { demand } from "./fault";
import { asList, asTable, asText, asWhole, canonicalText, type Json, readJson, readJsonText, type Table } from "./json";
import { framesOf } from "./transcript";

const MAX_ARGUMENTS = 65_536;
// Protocols tell apart a stop and a tool call, or do not; empty: the choice has not ended.
const ENDINGS: Record<string, string> = {
  stop: "whole",
  tool_calls: "whole",
  function_call: "whole",
  length: "length",
  content_filter: "filtered",
};

interface Call {
  name: string;
  arguments: string;
}

interface Choice {
  text: string;
  reasoning: string;
  calls: Map<number, Call>;
  ending: string;
}

export interface Said {
  form: Bytes;
  reasoning: Bytes | null;
  model: string | null;
  texts: string[]; // of each choice
  calls: Call[]; // of the first choice, in order
}

const AT_ONCE = 2000; // events that are read before the page gets its turn

// What a stream of chat completion chunks says; null: it cannot be read.
export async function readStream(data: Bytes): Promise<Said | null> {
  try {
    const frames = framesOf(data).filter((frame) => frame.length > 0 && !isDone(frame));
    const values: Json[] = [];
    for (const frame of frames) {
      values.push(readJson(frame, "an event"));
      if (values.length % AT_ONCE === 0) await new Promise((resolve) => setTimeout(resolve));
    }
    if (!(values[0] instanceof Map)) return null;
    return said(values);
  } catch {
    return null;
  }
}

function isDone(frame: Bytes): boolean {
  return frame.length === 6 && fromUtf8(frame, "an event") === "[DONE]";
}

function said(values: Json[]): Said {
  const choices = new Map<number, Choice>();
  let model: string | null = null;
  for (const value of values) {
    const chunk = asTable(value, "an event");
    const told = chunk.get("model");
    if (model === null && typeof told === "string") model = told;
    for (const one of asList(chunk.get("choices") ?? [], "the choices")) hear(asTable(one, "a choice"), choices);
  }
  const indices = [...choices.keys()].sort((one, other) => one - other);
  const all = indices.map((index) => choices.get(index)!);
  const hasReasoning = all.some((choice) => choice.reasoning !== "");
  const forms = all.map((choice, at) => choiceForm(indices[at]!, choice));
  return {
    form: utf8(`{"choices":[${forms.join(",")}]}`),
    reasoning: hasReasoning ? utf8(`[${all.map((choice) => textForm(choice.reasoning)).join(",")}]`) : null,
    model,
    texts: all.map((choice) => choice.text),
    calls: all.length > 0 ? inOrder(all[0]!) : [],
  };
}

// The same of an answer that is known by what it said, and no more by its bytes.
interface Shown {
  text: string;
  reasoning: string;
  calls: readonly Call[];
  finish: string | null;
}

export function formOf(shown: Shown): Bytes {
  const calls = shown.calls.filter((call) => call.name !== "" || call.arguments !== "");
  const ending = shown.finish !== null && Object.hasOwn(ENDINGS, shown.finish) ? ENDINGS[shown.finish]! : "";
  const isOne = shown.text !== "" || shown.reasoning !== "" || calls.length > 0 || ending !== "";
  const choice = { text: shown.text, reasoning: shown.reasoning, calls: new Map(calls.entries()), ending };
  return utf8(`{"choices":[${isOne ? choiceForm(0, choice) : ""}]}`);
}

export function reasoningOf(shown: Shown): Bytes | null {
  return shown.reasoning === "" ? null : utf8(`[${textForm(shown.reasoning)}]`);
}

function hear(told: Table, choices: Map<number, Choice>): void {
  const index = asWhole(told.get("index"), "a choice's index");
  const choice = choices.get(index) ?? { text: "", reasoning: "", calls: new Map(), ending: "" };
  const delta = asTable(told.has("delta") ? told.get("delta") : new Map(), "a delta"); // null says nothing that is defined
  const reasoning = delta.get("reasoning_content") || delta.get("reasoning") || "";
  const text = delta.get("content") || "";
  const calls = asList(delta.get("tool_calls") ?? [], "the tool calls");
  const reason = told.get("finish_reason");
  const ending = typeof reason === "string" && Object.hasOwn(ENDINGS, reason) ? ENDINGS[reason]! : "";
  // A choice that says nothing is none.
  if (reasoning !== "" || text !== "" || calls.length > 0 || ending !== "") choices.set(index, choice);
  choice.reasoning += asText(reasoning, "the reasoning");
  choice.text += asText(text, "the text");
  for (const one of calls) hearCall(asTable(one, "a tool call"), choice);
  if (ending !== "") choice.ending = ending;
}

function hearCall(told: Table, choice: Choice): void {
  const index = asWhole(told.get("index"), "a call's index");
  const made = asTable(told.get("function") ?? told.get("custom") ?? new Map(), "a call's function");
  const given = made.get("arguments") ?? made.get("input") ?? "";
  const call = choice.calls.get(index) ?? { name: "", arguments: "" };
  choice.calls.set(index, call);
  const name = made.get("name") ?? null;
  if (name !== null) call.name = asText(name, "the name of a tool") || call.name;
  demand(typeof given === "string", "the arguments of a tool call in a stream are no text.");
  call.arguments += given;
}

function inOrder(choice: Choice): Call[] {
  const indices = [...choice.calls.keys()].sort((one, other) => one - other);
  return indices.map((index) => choice.calls.get(index)!);
}

function choiceForm(index: number, choice: Choice): string {
  const calls = inOrder(choice).map(
    (call) => `{"arguments":${textForm(argumentsForm(call.arguments))},"name":${textForm(call.name)}}`,
  );
  const ending = JSON.stringify(choice.ending);
  return `{"ending":${ending},"index":${index},"text":${textForm(choice.text)},"tool_calls":[${calls.join(",")}]}`;
}

// A tool call's arguments as every protocol tells them: canonical JSON; what is no JSON, or very long, stays as it is.
export function argumentsForm(text: string): string {
  if (text === "") return "{}";
  if ([...text].length > MAX_ARGUMENTS || !isWellFormed(text)) return text;
  try {
    return canonicalText(readJsonText(text, "the arguments"));
  } catch {
    return text;
  }
}

// A text in canonical form; one with halves of surrogate pairs, which has none, as an object that tells it.
export function textForm(text: string): string {
  return isWellFormed(text) ? JSON.stringify(text) : `{"utf8_surrogatepass":"${toBase64(withHalves(text))}"}`;
}

// UTF-8 in which halves of surrogate pairs are written like other characters (Python's "surrogatepass").
function withHalves(text: string): Bytes {
  const parts = [...text].map((one) => {
    const code = one.codePointAt(0)!;
    const isHalf = code >= 0xd800 && code <= 0xdfff;
    return isHalf ? Uint8Array.of(0xe0 | (code >> 12), 0x80 | ((code >> 6) & 63), 0x80 | (code & 63)) : utf8(one);
  });
  return concat(parts);
}
