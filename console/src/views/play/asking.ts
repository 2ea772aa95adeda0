// What is sent: settings and messages become the body of POST /v1/chat/completions, in which only what was set stands.
// Says what is wrong with a person's JSON, and where. Values in, values out.

import type { Message } from "./step";

export interface Settings {
  system: string;
  temperature: number | null;
  topP: number | null;
  topK: number | null;
  minP: number | null;
  maxTokens: number | null;
  seed: number | null;
  stop: string; // one a line
  presencePenalty: number | null;
  frequencyPenalty: number | null;
  repetitionPenalty: number | null;
  effort: string; // empty: not set
  tools: string; // JSON, as it was typed
  schema: string; // JSON, as it was typed
  showsChances: boolean;
  numAlternatives: number;
}

export const NO_SETTINGS: Settings = {
  system: "",
  temperature: null,
  topP: null,
  topK: null,
  minP: null,
  maxTokens: null,
  seed: null,
  stop: "",
  presencePenalty: null,
  frequencyPenalty: null,
  repetitionPenalty: null,
  effort: "",
  tools: "",
  schema: "",
  showsChances: false,
  numAlternatives: 5,
};

export const EFFORTS = ["none", "minimal", "low", "medium", "high", "xhigh"] as const;

const NUMBERS = {
  temperature: "temperature",
  top_p: "topP",
  top_k: "topK",
  min_p: "minP",
  max_tokens: "maxTokens",
  seed: "seed",
  presence_penalty: "presencePenalty",
  frequency_penalty: "frequencyPenalty",
  repetition_penalty: "repetitionPenalty",
} as const;

export interface ParsedJson<Value> {
  value: Value | null; // null: nothing was typed, or something is wrong
  error: string | null;
}

// The tools of a JSON text: OpenAI's list. What the server would refuse for its form is told here, where it was typed.
export function parseTools(text: string): ParsedJson<unknown[]> {
  const { value, error } = parseJson(text);
  if (error !== null || value === null) return { value: null, error };
  if (!Array.isArray(value)) return wrong('must be a list: [{"type": "function", "function": {"name": …}}]');
  for (const [at, tool] of value.entries()) {
    const path = `tools[${at}]`;
    if (!isObject(tool)) return wrong(`${path} must be an object`);
    if (tool.type !== "function") return wrong(`${path}.type must be "function"`);
    if (!isObject(tool.function)) return wrong(`${path}.function is missing: {"name": …, "parameters": {…}}`);
    const { name, parameters } = tool.function;
    if (typeof name !== "string" || !/^[A-Za-z0-9_.-]{1,128}$/.test(name)) {
      return wrong(`${path}.function.name must be 1 to 128 letters, digits, underscores, dots or dashes`);
    }
    if (parameters !== undefined && !isObject(parameters)) return wrong(`${path}.function.parameters must be a JSON schema`);
  }
  return { value: value.length > 0 ? value : null, error: null };
}

export function parseSchema(text: string): ParsedJson<object> {
  const { value, error } = parseJson(text);
  if (error !== null || value === null) return { value: null, error };
  return isObject(value) ? { value, error: null } : wrong("must be a JSON schema: an object");
}

function parseJson(text: string): ParsedJson<unknown> {
  if (text.trim() === "") return { value: null, error: null };
  try {
    return { value: JSON.parse(text) as unknown, error: null };
  } catch (error) {
    return wrong(placed(text, (error as Error).message));
  }
}

// Engines tell the place as a position; a person looks for a line.
function placed(text: string, message: string): string {
  const position = /at position (\d+)/.exec(message);
  const at = position === null ? text.length : Number(position[1]);
  const before = text.slice(0, at).split("\n");
  const what = message.replace(/ (?:in JSON )?at position .*/, "").replace(/^Unexpected end of JSON input$/, "It ends too early");
  return `line ${before.length}, column ${before.at(-1)!.length + 1}: ${what}`;
}

function wrong(error: string): ParsedJson<never> {
  return { value: null, error };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

// Why nothing can be sent by these settings; null: it can.
export function settingsError(settings: Settings): string | null {
  const tools = parseTools(settings.tools).error;
  if (tools !== null) return `Tools: ${tools}`;
  const schema = parseSchema(settings.schema).error;
  return schema === null ? null : `Schema: ${schema}`;
}

export function bodyOf(model: string, messages: readonly Message[], settings: Settings): Record<string, unknown> {
  const system: Message[] = settings.system === "" ? [] : [{ role: "system", content: settings.system }];
  const body: Record<string, unknown> = {
    model,
    messages: [...system, ...messages],
    stream: true,
    stream_options: { include_usage: true },
  };
  for (const [name, from] of Object.entries(NUMBERS)) {
    const value = settings[from];
    if (value !== null) body[name] = value;
  }
  const stop = settings.stop.split("\n").filter((line) => line !== "");
  if (stop.length > 0) body.stop = stop;
  if (settings.effort !== "") body.reasoning_effort = settings.effort;
  const tools = parseTools(settings.tools).value;
  if (tools !== null) body.tools = tools;
  const schema = parseSchema(settings.schema).value;
  if (schema !== null) body.response_format = { type: "json_schema", json_schema: { name: "answer", schema } };
  if (settings.showsChances) {
    body.logprobs = true;
    body.top_logprobs = settings.numAlternatives;
  }
  return body;
}
