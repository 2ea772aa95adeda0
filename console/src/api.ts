// How every view speaks with the server: JSON in and out, server-sent events, and errors that say what happened.
// Knows no view. The session is a cookie; the header below is what a form of another site cannot send.

export const CONSOLE_HEADER = { "x-headrace-console": "1" } as const;

export class ApiError extends Error {
  constructor(
    readonly status: number, // 0: no answer at all
    readonly code: string,
    message: string,
    readonly requestId: string | null = null,
    readonly param: string | null = null, // the field that the server does not like
  ) {
    super(message);
  }
}

type Listener = (status: "signed-out" | "lost" | "answered") => void;
const listeners = new Set<Listener>();

// The shell listens: an answer 401 asks for a new sign-in, a lost connection is told at the top of the page.
export function onConnection(listener: Listener): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function tell(status: Parameters<Listener>[0]): void {
  for (const listener of listeners) listener(status);
}

export interface Call {
  method?: string;
  body?: unknown; // JSON
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

// The response of a call that succeeded. Throws ApiError, and what `signal` throws.
export async function send(path: string, call: Call = {}): Promise<Response> {
  const init: RequestInit = {
    method: call.method ?? (call.body === undefined ? "GET" : "POST"),
    headers: {
      ...CONSOLE_HEADER,
      ...(call.body === undefined ? {} : { "content-type": "application/json" }),
      ...call.headers,
    },
    credentials: "same-origin",
  };
  // A browser tells the server of it, too: with a question it would ask for an answer that was never given before.
  if (init.method === "GET") init.cache = "no-store";
  if (call.body !== undefined) init.body = JSON.stringify(call.body);
  if (call.signal) init.signal = call.signal;
  let response: Response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (call.signal?.aborted) throw error;
    tell("lost");
    throw new ApiError(0, "unreachable", "The server does not answer. The page tries again by itself.");
  }
  tell(response.status === 401 ? "signed-out" : "answered");
  if (!response.ok) throw await errorOf(response);
  return response;
}

export async function fetchJson<T>(path: string, call: Call = {}): Promise<T> {
  return (await (await send(path, call)).json()) as T;
}

async function errorOf(response: Response): Promise<ApiError> {
  const requestId = response.headers.get("x-request-id");
  let code = `http_${response.status}`;
  let message = `The server answered ${response.status}.`;
  let param: string | null = null;
  try {
    const body: unknown = await response.json();
    const error = (body as { error?: { code?: unknown; message?: unknown; type?: unknown; param?: unknown } }).error;
    if (typeof error === "string") message = error; // as Ollama's clients know it
    if (typeof error?.param === "string") param = error.param;
    if (typeof error?.message === "string") message = error.message;
    if (typeof error?.code === "string") code = error.code;
    else if (typeof error?.type === "string") code = error.type;
  } catch {
    // Not JSON: a proxy's page, perhaps. The status says what there is to say.
  }
  return new ApiError(response.status, code, message, requestId, param);
}

export interface ServerEvent {
  event: string;
  data: string;
  comment: string | null; // the text of comment lines that came with it
}

// Reads on. A connection that breaks in the middle is as lost as one that was never there.
async function readOrTell(reader: ReadableStreamDefaultReader<string>) {
  try {
    return await reader.read();
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    tell("lost");
    throw new ApiError(0, "broken_off", "The connection broke before the answer was whole.");
  }
}

// The events of a stream (the HTML standard's server-sent events), until it ends. Lines may be of any length.
export async function* events(response: Response): AsyncGenerator<ServerEvent> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest: string[] = []; // of a line that has not ended: joined when it does, so that no part is looked at twice
  let event = "";
  let data: string[] = [];
  let comments: string[] = [];
  try {
    for (;;) {
      const { done, value } = await readOrTell(reader);
      if (done) break;
      const lines = value.split("\n");
      if (lines.length > 1) {
        lines[0] = rest.join("") + lines[0]!;
        rest = [];
      }
      rest.push(lines.pop()!);
      for (const ended of lines) {
        const line = ended.endsWith("\r") ? ended.slice(0, -1) : ended;
        if (line === "") {
          if (data.length || comments.length) {
            yield { event: event || "message", data: data.join("\n"), comment: comments.length ? comments.join("\n") : null };
          }
          event = "";
          data = [];
          comments = [];
        } else if (line.startsWith(":")) comments.push(line.slice(1).trimStart());
        else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line.startsWith("event:")) event = line.slice(6).trim();
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
