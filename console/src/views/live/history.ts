// What frames say over time: rates as differences of sums, and columns of latencies. Bounded; values in, values out.

import type { Frame, Latency, Model } from "./frame";

export const KEPT = 180; // samples, three minutes of frames

export interface Sample {
  timeS: number; // Unix time
  outputRate: number; // tokens a second
  readRate: number;
  batch: number | null; // sequences in a step, on average; null: there was no step
  running: number;
  waiting: number;
  firstToken: readonly number[];
  betweenTokens: readonly number[];
}

export interface History {
  samples: readonly Sample[];
  last: Frame | null;
}

export const NOTHING: History = { samples: [], last: null };

export function extend(history: History, frame: Frame): History {
  const { last } = history;
  const elapsedS = last === null ? 0 : (frame.time_ms - last.time_ms) / 1000;
  // A server that began anew, or a clock that was set: there is no rate between the two.
  if (last === null || elapsedS <= 0 || frame.server.uptime_ms < last.server.uptime_ms) return { samples: history.samples, last: frame };
  const sample = sampleOf(last, frame, elapsedS);
  return { samples: [...history.samples.slice(1 - KEPT), sample], last: frame };
}

function sampleOf(last: Frame, frame: Frame, elapsedS: number): Sample {
  const before = new Map(last.models.map((model) => [model.id, model.totals]));
  const grown = (name: keyof Model["totals"]) => {
    let sum = 0;
    for (const { id, totals } of frame.models) {
      const old = before.get(id)?.[name] ?? 0;
      sum += totals[name] >= old ? totals[name] - old : totals[name]; // less: the model left and came back
    }
    return sum;
  };
  const steps = grown("num_steps");
  const { first_token, between_tokens } = frame.latency;
  // Without an engine of its own a server knows of tokens what it saw pass.
  const seen = total(first_token) + total(between_tokens);
  return {
    timeS: frame.time_ms / 1000,
    outputRate: (frame.models.length ? grown("output_tokens") : seen) / elapsedS,
    readRate: grown("read_tokens") / elapsedS,
    batch: steps > 0 ? grown("num_sequences") / steps : null,
    running: frame.models.length
      ? frame.models.reduce((sum, model) => sum + model.num_running, 0)
      : frame.requests.length + frame.requests_left_out,
    waiting: frame.models.reduce((sum, model) => sum + model.num_waiting, 0),
    firstToken: first_token.counts,
    betweenTokens: between_tokens.counts,
  };
}

function total(latency: Latency): number {
  return latency.counts.reduce((sum, count) => sum + count, 0);
}

// Whether nothing has happened between two frames and nothing is under way: then there is nothing new to draw.
export function isQuiet(last: Frame | null, frame: Frame): boolean {
  if (last === null || frame.requests.length + frame.ended.length + last.requests.length > 0) return false;
  if (frame.server.phase !== last.server.phase || frame.models.length !== last.models.length) return false;
  return frame.models.every((model, index) => {
    const old = last.models[index]!;
    return model.id === old.id && model.state === old.state && model.totals.num_steps === old.totals.num_steps
      && model.tree.num_tokens === old.tree.num_tokens && model.pages.pinned === old.pages.pinned;
  });
}

const LEAST_SPAN_S = 60;

// Seconds before now, a minute at least, and what samples have at each of them.
export function axis(samples: readonly Sample[]): { x: number[]; of: (read: (one: Sample) => number | null) => (number | null)[] } {
  const nowS = samples.at(-1)?.timeS ?? 0;
  const times = samples.map((one) => Math.round((one.timeS - nowS) * 10) / 10);
  const isShort = times.length > 0 && times[0]! > -LEAST_SPAN_S;
  return {
    x: isShort ? [-LEAST_SPAN_S, ...times] : times,
    of: (read) => (isShort ? [null, ...samples.map(read)] : samples.map(read)),
  };
}

// "-30 s", "now"
export function ago(s: number): string {
  return s === 0 ? "now" : `${s < 0 ? "−" : ""}${Math.abs(s)} s`;
}

export interface BandRow {
  label: string; // "50 – 100 ms"
  count: number;
}

// How often each band was met in all samples, the slowest first: the heat map as a table.
export function bands(bounds: readonly number[], columns: readonly (readonly number[])[]): BandRow[] {
  const rows = [...bounds, Infinity].map((bound, index) => ({
    label: bandLabel(index === 0 ? 0 : bounds[index - 1]!, bound),
    count: columns.reduce((sum, counts) => sum + (counts[index] ?? 0), 0),
  }));
  return rows.reverse();
}

export function bandLabel(fromMs: number, toMs: number): string {
  if (fromMs === 0) return `under ${span(toMs)}`;
  return toMs === Infinity ? `over ${span(fromMs)}` : `${span(fromMs)} – ${span(toMs)}`;
}

export function span(ms: number): string {
  return ms < 1000 ? `${ms} ms` : `${ms / 1000} s`;
}
