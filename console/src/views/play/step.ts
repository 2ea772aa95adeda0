// One request and its answer, as far as it has come: what was sent, what was said, how long it took. Written to while the
// answer streams; whoever shows it listens. Knows no network and no document.

import type { ApiError } from "../../api";
import type { Body } from "./verify/request_form";

export interface ToolCall {
  id: string;
  name: string;
  arguments: string;
}

export interface Chance {
  text: string;
  logprob: number;
}

export interface Token extends Chance {
  others: Chance[]; // the likeliest at this place, which may hold the token itself
}

export interface Usage {
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
  reasoningTokens: number;
  cost: number | null; // in the price list's unit
}

// What the response's head said of the way that the request went.
export interface Facts {
  requestId: string | null;
  route: string | null;
  backend: string | null;
  model: string | null;
  reason: string | null;
  attempts: string | null;
  cost: string | null;
  cache: string | null;
  recordId: string | null;
}

// cut: the page was left or reloaded while it came. unkept: it was too long to be kept over a reload.
export type Status = "waiting" | "streaming" | "done" | "stopped" | "failed" | "cut" | "unkept";

export interface Message {
  role: "system" | "user" | "assistant" | "tool";
  content: string | null;
  tool_calls?: { id: string; type: "function"; function: { name: string; arguments: string } }[];
  tool_call_id?: string;
}

// OpenAI's word for a log-probability that is not told.
const UNTOLD = -9999;
// Bytes of a stream that are kept so that its record can be verified byte for byte.
export const MAX_KEPT_BYTES = 128 * 1024 * 1024;

export class Step {
  status: Status = "waiting";
  text = "";
  reasoning = "";
  calls: ToolCall[] = [];
  tokens: Token[] = [];
  finish: string | null = null;
  usage: Usage | null = null;
  facts: Facts | null = null;
  error: ApiError | Error | null = null;
  results: string[] | null = null; // what the tools said, one for each call, once somebody filled it in
  startedMs = 0;
  firstMs: number | null = null; // when the first word came
  lastMs: number | null = null; // when the latest came
  stream: Uint8Array<ArrayBuffer>[] = []; // as it came
  numBytes = 0;
  isStreamGone = false; // not kept over a reload
  areTokensGone = false;
  numUnkept = 0; // characters of an answer that is not there any more
  record: Uint8Array<ArrayBuffer> | null = null; // as the server gave it
  stop: (() => void) | null = null; // while it runs
  revision = 0; // counts its changes
  private readonly listeners = new Set<() => void>();

  constructor(
    readonly id: number,
    readonly model: string,
    readonly body: Body | null, // what was sent, value by value; null: not kept over a reload
  ) {}

  get isRunning(): boolean {
    return this.status === "waiting" || this.status === "streaming";
  }

  get isWholeStreamKept(): boolean {
    return !this.isStreamGone && this.numBytes <= MAX_KEPT_BYTES;
  }

  keep(bytes: Uint8Array<ArrayBuffer>): void {
    this.numBytes += bytes.length;
    if (this.isWholeStreamKept) this.stream.push(bytes);
    else this.stream = [];
  }

  listen(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  }

  changed(): void {
    this.revision += 1;
    for (const listener of this.listeners) listener();
  }
}

interface Chunk {
  choices?: {
    delta?: {
      content?: unknown;
      reasoning_content?: unknown;
      reasoning?: unknown;
      tool_calls?: { index?: number; id?: unknown; function?: { name?: unknown; arguments?: unknown } }[];
    };
    finish_reason?: unknown;
    logprobs?: { content?: LogprobEntry[] | null } | null;
  }[];
  usage?: {
    prompt_tokens?: number;
    completion_tokens?: number;
    prompt_tokens_details?: { cached_tokens?: number } | null;
    completion_tokens_details?: { reasoning_tokens?: number } | null;
    cost?: unknown;
  } | null;
}

interface LogprobEntry {
  token?: unknown;
  logprob?: unknown;
  bytes?: unknown;
  top_logprobs?: { token?: unknown; logprob?: unknown; bytes?: unknown }[];
}

// Takes in one event of the stream. What it has of other forms than it should is left out: backends are strangers.
export function hear(step: Step, chunk: unknown, nowMs: number): void {
  const told = chunk as Chunk;
  if (told.usage) step.usage = usageOf(told.usage);
  const choice = Array.isArray(told.choices) ? told.choices[0] : undefined;
  if (choice === undefined || choice === null) return;
  const delta = choice.delta ?? {};
  const before = step.text.length + step.reasoning.length;
  step.text += textOf(delta.content);
  step.reasoning += textOf(delta.reasoning_content) || textOf(delta.reasoning);
  const calls = Array.isArray(delta.tool_calls) ? delta.tool_calls : [];
  for (const call of calls) hearCall(step, call);
  if (step.text.length + step.reasoning.length > before || calls.length > 0) {
    step.firstMs ??= nowMs;
    step.lastMs = nowMs;
  }
  for (const entry of choice.logprobs?.content ?? []) step.tokens.push(tokenOf(entry));
  if (typeof choice.finish_reason === "string") step.finish = choice.finish_reason;
}

function hearCall(step: Step, call: { index?: number; id?: unknown; function?: { name?: unknown; arguments?: unknown } }) {
  const index = Number.isInteger(call.index) ? call.index! : 0;
  if (index < 0 || index > 1000) return;
  while (step.calls.length <= index) step.calls.push({ id: "", name: "", arguments: "" });
  const made = step.calls[index]!;
  made.id = textOf(call.id) || made.id;
  made.name = textOf(call.function?.name) || made.name;
  made.arguments += textOf(call.function?.arguments);
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function chanceOf(entry: { token?: unknown; logprob?: unknown; bytes?: unknown }): Chance {
  const logprob = typeof entry.logprob === "number" ? entry.logprob : UNTOLD;
  const text = textOf(entry.token);
  // A token that is a part of a character is told by its bytes.
  const isPart = text.includes("\ufffd") && Array.isArray(entry.bytes);
  return { text: isPart ? hexOf(entry.bytes as unknown[]) : text, logprob };
}

function hexOf(bytes: unknown[]): string {
  return bytes.map((byte) => `‹${Number(byte).toString(16).padStart(2, "0")}›`).join("");
}

function tokenOf(entry: LogprobEntry): Token {
  return { ...chanceOf(entry), others: (entry.top_logprobs ?? []).map(chanceOf) };
}

export function isTold(chance: Chance): boolean {
  return chance.logprob > UNTOLD + 1;
}

function usageOf(told: NonNullable<Chunk["usage"]>): Usage {
  const cost = typeof told.cost === "number" ? told.cost : Number.parseFloat(String(told.cost));
  return {
    promptTokens: told.prompt_tokens ?? 0,
    cachedTokens: told.prompt_tokens_details?.cached_tokens ?? 0,
    completionTokens: told.completion_tokens ?? 0,
    reasoningTokens: told.completion_tokens_details?.reasoning_tokens ?? 0,
    cost: Number.isFinite(cost) ? cost : null,
  };
}

export function factsOf(headers: Headers): Facts {
  const told = (name: string) => {
    const value = headers.get(name);
    if (value === null) return null;
    try {
      return decodeURIComponent(value); // names are told percent-encoded
    } catch {
      return value;
    }
  };
  return {
    requestId: headers.get("x-request-id"),
    route: told("x-headrace-route"),
    backend: told("x-headrace-backend"),
    model: told("x-headrace-model"),
    reason: told("x-headrace-reason"),
    attempts: told("x-headrace-attempts"),
    cost: headers.get("x-headrace-cost"),
    cache: told("x-headrace-cache"),
    recordId: headers.get("x-headrace-record"),
  };
}

// Seconds until the first word, and tokens a second from then on; null: not known.
export function firstS(step: Step): number | null {
  return step.firstMs === null ? null : (step.firstMs - step.startedMs) / 1000;
}

export function tokensPerS(step: Step): number | null {
  const num = step.usage?.completionTokens ?? 0;
  if (num < 2 || step.firstMs === null || step.lastMs === null || step.lastMs <= step.firstMs) return null;
  return ((num - 1) * 1000) / (step.lastMs - step.firstMs);
}

// Whether there is nothing of it that could be gone on with.
export function saysNothing(step: Step): boolean {
  return step.text === "" && ["failed", "cut", "unkept"].includes(step.status);
}

// The messages that an answer adds to its conversation.
export function messagesOf(step: Step): Message[] {
  const said: Message = { role: "assistant", content: step.text };
  if (step.calls.length > 0) {
    said.tool_calls = step.calls.map((call) => ({
      id: call.id,
      type: "function",
      function: { name: call.name, arguments: call.arguments },
    }));
  }
  const results = step.results ?? [];
  return [said, ...results.map((text, at): Message => ({ role: "tool", tool_call_id: step.calls[at]!.id, content: text }))];
}
