// An answer as it is kept over a reload, in parts that matter less and less: what was said and known of it, the request,
// the record, the tokens' probabilities, the stream. To a step's parts and back; what is read back is hostile.

import { ApiError } from "../../api";
import { Malformed } from "./interning";
import { amount, count, fields, flag, list, oneOf, orNull, text } from "./shape";
import { type Chance, type Facts, type Status, Step, type Token, type ToolCall, type Usage } from "./step";
import { fromBase64, fromUtf8, toBase64, utf8, concat } from "./verify/bytes";
import type { Body } from "./verify/request_form";

type KeptStatus = Exclude<Status, "waiting" | "streaming">;

export interface Core {
  model: string;
  status: KeptStatus;
  text: string;
  reasoning: string;
  calls: ToolCall[];
  results: string[] | null;
  finish: string | null;
  usage: Usage | null;
  facts: Facts | null;
  error: { status: number; code: string; message: string; requestId: string | null } | null;
  firstMs: number | null; // since it was asked
  lastMs: number | null;
  numUnkept: number; // characters of an answer that is too long to be kept
  hadStream: boolean;
  hadTokens: boolean;
}

export interface KeptStep {
  core: Core;
  body: Body | null; // from here on null: not kept
  record: string | null; // base64
  tokens: string | null; // JSON
  stream: string | null;
}

export const PARTS = ["body", "record", "tokens", "stream"] as const;
const STATUSES: readonly KeptStatus[] = ["done", "stopped", "failed", "cut", "unkept"];
const FACTS = ["requestId", "route", "backend", "model", "reason", "attempts", "cost", "cache", "recordId"] as const;
const COUNTS = ["promptTokens", "cachedTokens", "completionTokens", "reasoningTokens"] as const;
const MAX_RECORD_BYTES = 64 * 1024;
const MAX_CALLS = 1001;

// What of an answer comes first. One that still runs is cut off by the reload.
export function coreOf(step: Step): Core {
  const since = (ms: number | null) => (ms === null ? null : Math.max(0, ms - step.startedMs));
  const { error } = step;
  return {
    model: step.model,
    status: step.isRunning ? "cut" : (step.status as KeptStatus),
    text: step.text,
    reasoning: step.reasoning,
    calls: step.calls,
    results: step.results,
    finish: step.finish,
    usage: step.usage,
    facts: step.facts,
    error: error && {
      status: error instanceof ApiError ? error.status : 0,
      code: error instanceof ApiError ? error.code : "failed",
      message: error.message,
      requestId: error instanceof ApiError ? error.requestId : null,
    },
    firstMs: since(step.firstMs),
    lastMs: since(step.lastMs),
    numUnkept: step.numUnkept,
    hadStream: step.numBytes > 0 || step.isStreamGone,
    hadTokens: step.tokens.length > 0 || step.areTokensGone,
  };
}

// What stands for an answer that is too long: that there was one, and how long it was.
export function unkept(core: Core): Core {
  return {
    ...core,
    status: "unkept",
    text: "",
    reasoning: "",
    calls: [],
    results: null,
    error: null,
    numUnkept: core.numUnkept || core.text.length + core.reasoning.length,
    hadStream: false,
    hadTokens: false,
  };
}

// A part by its name, no longer than `most` characters; null: there is none, or it is too long.
export function partOf(step: Step, name: (typeof PARTS)[number], most: number): unknown {
  if (name === "body") return step.body;
  if (name === "record") {
    return step.record === null || step.record.length > MAX_RECORD_BYTES ? null : toBase64(step.record);
  }
  if (name === "tokens") {
    if (step.tokens.length === 0 || step.tokens.length > most) return null;
    return JSON.stringify(step.tokens.map((token) => [...pair(token), ...token.others.map(pair)]));
  }
  if (!step.isWholeStreamKept || step.numBytes === 0 || step.numBytes > most) return null;
  try {
    return fromUtf8(concat(step.stream), "the stream");
  } catch {
    return null; // cut in the middle of a character, or of a backend that sends none
  }
}

const DIGITS = 1e6;

function pair(chance: Chance): [string, number] {
  return [chance.text, Math.round(chance.logprob * DIGITS) / DIGITS];
}

// A kept step of unknown origin. Throws Malformed, or what a part of it throws.
export function readStep(value: unknown): KeptStep {
  const told = fields(value);
  return {
    core: readCore(told.core),
    body: orNull(told.body, readBody),
    record: orNull(told.record, text),
    tokens: orNull(told.tokens, text),
    stream: orNull(told.stream, text),
  };
}

function readCore(value: unknown): Core {
  const told = fields(value);
  const calls = list(told.calls, readCall, MAX_CALLS);
  const results = orNull(told.results, (all) => list(all, text));
  if (results !== null && results.length !== calls.length) throw new Malformed();
  return {
    model: text(told.model),
    status: oneOf(told.status, STATUSES),
    text: text(told.text),
    reasoning: text(told.reasoning),
    calls,
    results,
    finish: orNull(told.finish, text),
    usage: orNull(told.usage, readUsage),
    facts: orNull(told.facts, readFacts),
    error: orNull(told.error, readError),
    firstMs: orNull(told.firstMs, amount),
    lastMs: orNull(told.lastMs, amount),
    numUnkept: count(told.numUnkept),
    hadStream: flag(told.hadStream),
    hadTokens: flag(told.hadTokens),
  };
}

function readCall(value: unknown): ToolCall {
  const told = fields(value);
  return { id: text(told.id), name: text(told.name), arguments: text(told.arguments) };
}

function readUsage(value: unknown): Usage {
  const told = fields(value);
  const [promptTokens, cachedTokens, completionTokens, reasoningTokens] = COUNTS.map((name) => amount(told[name]));
  return {
    promptTokens: promptTokens!,
    cachedTokens: cachedTokens!,
    completionTokens: completionTokens!,
    reasoningTokens: reasoningTokens!,
    cost: orNull(told.cost, amount),
  };
}

function readFacts(value: unknown): Facts {
  const told = fields(value);
  return Object.fromEntries(FACTS.map((name) => [name, orNull(told[name], text)])) as unknown as Facts;
}

function readError(value: unknown): NonNullable<Core["error"]> {
  const told = fields(value);
  return {
    status: amount(told.status),
    code: text(told.code),
    message: text(told.message),
    requestId: orNull(told.requestId, text),
  };
}

function readBody(value: unknown): Body {
  const told = fields(value);
  text(told.model);
  list(told.messages, fields);
  return told;
}

function readTokens(written: string): Token[] {
  return list(JSON.parse(written), (value) => {
    if (!Array.isArray(value)) throw new Malformed();
    const [shown, logprob, ...others] = value as unknown[];
    return { text: text(shown), logprob: amount(logprob), others: list(others, readPair) };
  });
}

function readPair(value: unknown): Chance {
  if (!Array.isArray(value)) throw new Malformed();
  return { text: text(value[0]), logprob: amount(value[1]) };
}

// The step that was kept, with what is missing of it said by itself. Throws Malformed, or what a part of it throws.
export function stepOf(kept: KeptStep, id: number): Step {
  const { core } = kept;
  const step = new Step(id, core.model, kept.body);
  const { status, calls, results, finish, usage, facts, firstMs, lastMs, numUnkept } = core;
  Object.assign(step, { status, calls, results, finish, usage, facts, firstMs, lastMs, numUnkept });
  step.text = core.text;
  step.reasoning = core.reasoning;
  if (core.error !== null) {
    step.error = new ApiError(core.error.status, core.error.code, core.error.message, core.error.requestId);
  }
  if (kept.record !== null) step.record = fromBase64(kept.record, "the record");
  if (kept.tokens !== null) step.tokens = readTokens(kept.tokens);
  if (kept.stream !== null) step.keep(utf8(kept.stream));
  step.isStreamGone = core.hadStream && kept.stream === null;
  step.areTokensGone = core.hadTokens && kept.tokens === null;
  return step;
}

