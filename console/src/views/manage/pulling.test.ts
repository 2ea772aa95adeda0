import assert from "node:assert/strict";
import { test } from "node:test";
import { ApiError } from "../../api";
import { pull, type PullStep } from "./pulling";

// A server's answer, in pieces that end anywhere.
function answering(text: string, status = 200): void {
  const pieces = text.match(/[\s\S]{1,7}/g) ?? [];
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const piece of pieces) controller.enqueue(new TextEncoder().encode(piece));
      controller.close();
    },
  });
  globalThis.fetch = () => Promise.resolve(new Response(body, { status }));
}

test("every step of a pull is told, wherever its lines are cut", async () => {
  answering('{"status":"downloading","completed":5,"total":10}\n\n{"status":"verifying"}\n{"status":"success"}');
  const steps: PullStep[] = [];
  await pull("small", (step) => steps.push(step));
  assert.deepEqual(steps, [
    { status: "downloading", completed: 5, total: 10 },
    { status: "verifying", completed: 0, total: 0 },
    { status: "success", completed: 0, total: 0 },
  ]);
});

test("a pull that fails halfway, or is refused, says so in the server's words", async () => {
  answering('{"status":"downloading"}\n{"error":"the connection broke"}\n');
  await assert.rejects(pull("small", () => undefined), (error: unknown) => error instanceof ApiError && error.message === "the connection broke");
  answering('{"error":"model: \\"x\\" is not in the catalog"}', 400);
  await assert.rejects(pull("x", () => undefined), (error: unknown) => error instanceof ApiError && error.status === 400 && error.message.includes("not in the catalog"));
});
