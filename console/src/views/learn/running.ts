// Which requests this page sends by itself, and what it holds them to: they only read, or ask for a short answer. What
// comes back is read up to a bound and kept as text. Knows no markup.

import { ApiError, CONSOLE_HEADER } from "../../api";
import type { Route } from "./openapi";

export const MAX_BODY_CHARS = 16_384;
export const MAX_TOKENS = 256;
export const MAX_ANSWER_BYTES = 256 * 1024;
export const MAX_SECONDS = 120;

// What a POST may be sent to, and the field that bounds its answer. Nothing here is stored or changes the server.
const SAFE: Readonly<Record<string, string | null>> = {
  "post /v1/chat/completions": "max_tokens",
  "post /v1/completions": "max_tokens",
  "post /v1/responses": "max_output_tokens",
  "post /v1/messages": "max_tokens",
  "post /v1/messages/count_tokens": null,
  "post /v1/responses/input_tokens": null,
  "post /v1/embeddings": null,
  "post /tokenize": null,
  "post /detokenize": null,
  "post /rerank": null,
  "post /v1/rerank": null,
  "post /v2/rerank": null,
  "post /score": null,
  "post /v1/score": null,
  "post /v1/gateway/explain": null,
  "post /v1/policy/decide": null,
};

// Choices and lists that would multiply an answer.
const MULTIPLIES: readonly string[] = ["n", "best_of"];

export function isSafe(route: Route): boolean {
  return route.method === "get" || route.id in SAFE;
}

// The body that is sent, or why it is not.
export function readBody(route: Route, text: string): { body: unknown } | { wrong: string } {
  if (route.method === "get") return { body: null };
  if (text.length > MAX_BODY_CHARS) return { wrong: `It has more than ${MAX_BODY_CHARS.toLocaleString()} characters: send it by a program of your own.` };
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch (error) {
    return { wrong: `This is no JSON: ${error instanceof Error ? error.message : String(error)}` };
  }
  if (typeof body !== "object" || body === null || Array.isArray(body)) return { wrong: "The body must be an object, such as {}." };
  const wrong = wrongBound(route, body as Record<string, unknown>);
  return wrong ? { wrong } : { body };
}

function wrongBound(route: Route, body: Record<string, unknown>): string | null {
  const field = SAFE[route.id];
  if (!field) return null;
  const bound = field === "max_tokens" && "max_completion_tokens" in body ? "max_completion_tokens" : field;
  const value = body[bound];
  if (typeof value !== "number" || value > MAX_TOKENS) return `Set ${bound} to at most ${MAX_TOKENS}: from here only short answers are asked for.`;
  const many = MULTIPLIES.find((name) => typeof body[name] === "number" && (body[name] as number) > 4);
  if (many) return `Set ${many} to at most 4.`;
  if (body["store"] === true || body["background"] === true) return "Leave out store and background: nothing that is sent from here is kept.";
  if (route.id === "post /v1/responses" && body["store"] !== false) return 'Set "store": false: nothing that is sent from here is kept.';
  return null;
}

export interface Answered {
  status: number;
  statusText: string;
  headers: [string, string][];
  text: string;
  isCut: boolean; // there was more than is shown
  ms: number;
}

// Sends a request as whoever is signed in. Throws ApiError, which says that nobody answered, or not in time.
export async function run(method: string, path: string, body: unknown, signal: AbortSignal): Promise<Answered> {
  try {
    return await send(method, path, body, signal);
  } catch (error) {
    const isLate = error instanceof DOMException && error.name === "TimeoutError";
    const told = isLate ? `The answer took longer than ${MAX_SECONDS} s.` : "The server does not answer, or broke off.";
    throw new ApiError(0, isLate ? "too_late" : "unreachable", told);
  }
}

async function send(method: string, path: string, body: unknown, signal: AbortSignal): Promise<Answered> {
  const began = performance.now();
  const init: RequestInit = {
    method: method.toUpperCase(),
    headers: { ...CONSOLE_HEADER, ...(body === null ? {} : { "content-type": "application/json" }) },
    credentials: "same-origin",
    // With a question it would ask the server for an answer that was never given before.
    ...(body === null ? { cache: "no-store" } : {}),
    redirect: "manual",
    signal,
  };
  if (body !== null) init.body = JSON.stringify(body);
  const answer = await fetch(path, init);
  const { bytes, isCut } = await readSome(answer);
  const headers = [...answer.headers].sort(([a], [b]) => (a < b ? -1 : 1)) as [string, string][];
  const text = readable(bytes, answer.headers.get("content-type") ?? "");
  return { status: answer.status, statusText: answer.statusText, headers, text, isCut, ms: performance.now() - began };
}

async function readSome(answer: Response): Promise<{ bytes: Uint8Array; isCut: boolean }> {
  const reader = answer.body?.getReader();
  const pieces: Uint8Array[] = [];
  let size = 0;
  let isCut = false;
  while (reader) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    size += value.length;
    if (size > MAX_ANSWER_BYTES) {
      isCut = true;
      await reader.cancel();
      break;
    }
  }
  const bytes = new Uint8Array(size);
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return { bytes: bytes.subarray(0, MAX_ANSWER_BYTES), isCut };
}

// JSON in lines; bytes that are no text as such.
export function readable(bytes: Uint8Array, kind: string): string {
  if (kind.startsWith("application/octet-stream")) {
    const shown = [...bytes.subarray(0, 64)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    return `${bytes.length} bytes that are no text: ${shown}${bytes.length > 64 ? " …" : ""}`;
  }
  const text = new TextDecoder().decode(bytes);
  if (!kind.startsWith("application/json")) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
