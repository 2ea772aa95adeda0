// Fetching a model: lines of JSON, one for each step, the last of which says how it ended.

import { ApiError, send } from "../../api";

export interface PullStep {
  status: string;
  completed: number;
  total: number; // bytes; 0 where nobody knows
}

interface Line {
  status?: string;
  completed?: number;
  total?: number;
  error?: string;
}

// Tells every step. Throws ApiError, also for an error that comes when the answer has begun.
export async function pull(model: string, tell: (step: PullStep) => void): Promise<void> {
  const response = await send("/api/pull", { body: { model } });
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    const lines = (rest + (value ?? "")).split("\n");
    rest = done ? "" : lines.pop()!;
    for (const line of lines) if (line.trim()) step(JSON.parse(line) as Line, tell);
    if (done) return;
  }
}

function step(line: Line, tell: (step: PullStep) => void): void {
  if (line.error !== undefined) throw new ApiError(200, "pull_failed", line.error);
  tell({ status: line.status ?? "", completed: line.completed ?? 0, total: line.total ?? 0 });
}
