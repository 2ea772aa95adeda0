// Sends a step's request and takes in its answer as it streams. Keeps the bytes as they came, so that its record can be
// verified. What is stopped here ends at the server too: a client that goes away cancels its answer.

import { ApiError, events, send } from "../../api";
import { factsOf, hear, type Step } from "./step";

const PATH = "/v1/chat/completions";

export async function receive(step: Step): Promise<void> {
  const control = new AbortController();
  step.startedMs = performance.now();
  step.stop = () => control.abort();
  step.changed();
  try {
    const response = await send(PATH, { body: step.body, signal: control.signal });
    step.facts = factsOf(response.headers);
    step.status = "streaming";
    step.changed();
    await takeIn(step, response);
    if (step.finish === null) throw new ApiError(0, "ended_early", "The answer ended before it was complete.");
    step.status = "done";
  } catch (error) {
    step.status = control.signal.aborted ? "stopped" : "failed";
    if (step.status === "failed") step.error = asError(error);
  } finally {
    step.stop = null;
    step.changed();
  }
}

async function takeIn(step: Step, response: Response): Promise<void> {
  const tap = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
    transform(bytes, controller) {
      step.keep(bytes.slice());
      controller.enqueue(bytes);
    },
  });
  for await (const event of events(new Response(response.body!.pipeThrough(tap)))) {
    if (event.data === "" || event.data === "[DONE]") continue;
    const told: unknown = JSON.parse(event.data);
    const error = (told as { error?: { message?: unknown; code?: unknown; type?: unknown } | null } | null)?.error;
    if (error) {
      const code = String(error.code ?? error.type ?? "failed");
      throw new ApiError(response.status, code, String(error.message), step.facts?.requestId ?? null);
    }
    hear(step, told, performance.now());
    step.changed();
  }
}

function asError(error: unknown): Error {
  if (error instanceof ApiError) return error;
  if (error instanceof SyntaxError) return new ApiError(0, "not_json", "The answer's stream cannot be read: it is no JSON.");
  return new ApiError(0, "connection_lost", "The connection was lost while the answer came. What came is kept; try again.");
}
