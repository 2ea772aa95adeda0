// Requests as bars on lanes: what begins takes the first lane that is free, and keeps it. Values in, values out; no DOM.

import type { EndedRequest, Frame, LiveRequest, Phase } from "./frame";

export const WINDOW_MS = 60_000;
export const MAX_ENDED = 100;
export const MAX_BARS = 1500;

export interface Bar {
  key: string;
  id: string | null;
  label: string; // who asks for which model
  lane: number;
  startMs: number; // Unix time, as the others
  begunMs: number | null; // its prompt began to be read
  firstMs: number | null; // the first of its answer was there
  endMs: number | null; // null: it runs
  phase: Phase | "ended";
  outcome: string; // ok, cancelled or an error's code; empty while it runs
  outputTokens: number;
}

export interface Segment {
  kind: "waiting" | "reading" | "answering";
  fromMs: number;
  toMs: number;
}

export interface Timeline {
  bars: readonly Bar[];
  numLanes: number;
  nowMs: number;
}

export const EMPTY: Timeline = { bars: [], numLanes: 0, nowMs: 0 };

// The timeline after one more frame. What was there and is not any more has ended, also if the frame does not say how.
export function advance(before: Timeline, frame: Frame): Timeline {
  const nowMs = frame.time_ms;
  const known = new Map(before.bars.map((bar) => [bar.key, bar]));
  const next = new Map<string, Bar>();
  for (const bar of before.bars) {
    if (bar.endMs !== null && bar.endMs > nowMs - WINDOW_MS) next.set(bar.key, bar);
  }
  const lanes = new Lanes(next.values());
  const running = frame.requests.map((one) => ({ one, key: keyOf(one, nowMs) }));
  for (const { key } of running) lanes.hold(known.get(key));
  for (const ended of frame.ended) {
    const bar = known.get(ended.id);
    next.set(ended.id, ofEnded(ended, bar ? bar.lane : lanes.take(ended.ended_ms - ended.duration_ms)));
  }
  for (const { one, key } of running) {
    const bar = known.get(key);
    const lane = bar?.endMs === null ? bar.lane : lanes.take(nowMs - one.age_ms);
    next.set(key, ofRunning(one, key, nowMs, lane));
  }
  for (const bar of before.bars) {
    if (bar.endMs === null && !next.has(bar.key)) next.set(bar.key, { ...bar, endMs: nowMs, phase: "ended" });
  }
  const bars = newest([...next.values()]);
  return { bars, numLanes: bars.reduce((most, bar) => Math.max(most, bar.lane + 1), 0), nowMs };
}

// All that run, and of what has ended as much as can still be told apart.
function newest(bars: Bar[]): Bar[] {
  if (bars.length <= MAX_BARS) return bars;
  const ended = bars.filter((bar) => bar.endMs !== null).sort((a, b) => b.endMs! - a.endMs!);
  const running = bars.filter((bar) => bar.endMs === null);
  return [...running, ...ended.slice(0, Math.max(0, MAX_BARS - running.length))];
}

// Which lanes are taken, and until when.
class Lanes {
  private readonly untilMs: number[] = [];

  constructor(bars: Iterable<Bar>) {
    for (const bar of bars) this.put(bar.lane, bar.endMs ?? Infinity);
  }

  hold(bar: Bar | undefined): void {
    if (bar && bar.endMs === null) this.put(bar.lane, Infinity);
  }

  take(startMs: number): number {
    let lane = 0;
    while ((this.untilMs[lane] ?? -Infinity) > startMs) lane += 1;
    this.put(lane, Infinity);
    return lane;
  }

  private put(lane: number, untilMs: number): void {
    this.untilMs[lane] = Math.max(this.untilMs[lane] ?? -Infinity, untilMs);
  }
}

// Work that no client waits for has no id: it is known by its model and when it came, to a fifth of a second.
function keyOf(one: LiveRequest, nowMs: number): string {
  return one.id ?? `${one.model}\u0000${one.tenant}\u0000${Math.round((nowMs - one.age_ms) / 200)}`;
}

function labelOf(one: LiveRequest | EndedRequest): string {
  const who = one.key ?? one.tenant ?? "somebody";
  return `${who} · ${one.model ?? "?"}`;
}

function ofRunning(one: LiveRequest, key: string, nowMs: number, lane: number): Bar {
  const startMs = nowMs - one.age_ms;
  return {
    key,
    id: one.id,
    label: labelOf(one),
    lane,
    startMs,
    begunMs: one.begun_ms === null ? null : startMs + one.begun_ms,
    firstMs: one.first_ms === null ? null : startMs + one.first_ms,
    endMs: null,
    phase: one.phase,
    outcome: "",
    outputTokens: one.output_tokens,
  };
}

function ofEnded(one: EndedRequest, lane: number): Bar {
  const startMs = one.ended_ms - one.duration_ms;
  return {
    key: one.id,
    id: one.id,
    label: labelOf(one),
    lane,
    startMs,
    begunMs: one.begun_ms === null ? null : startMs + one.begun_ms,
    firstMs: one.first_ms === null ? null : startMs + one.first_ms,
    endMs: one.ended_ms,
    phase: "ended",
    outcome: one.outcome,
    outputTokens: one.output_tokens,
  };
}

// A bar in its parts. A backend that does not say when it began to read has waited until its first byte.
export function segments(bar: Bar, nowMs: number): Segment[] {
  const endMs = bar.endMs ?? nowMs;
  const isRead = bar.phase === "prefill" || bar.phase === "decode";
  const firstMs = bar.firstMs ?? endMs;
  const begunMs = bar.begunMs ?? (isRead ? bar.startMs : firstMs);
  const parts: Segment[] = [
    { kind: "waiting", fromMs: bar.startMs, toMs: Math.min(begunMs, endMs) },
    { kind: "reading", fromMs: begunMs, toMs: Math.min(firstMs, endMs) },
    { kind: "answering", fromMs: firstMs, toMs: endMs },
  ];
  return parts.filter((part) => part.toMs > part.fromMs);
}

// Which bar is at a moment on a lane; a short one counts as so long that it can be hit.
export function barAt(timeline: Timeline, ms: number, lane: number, slackMs: number): Bar | null {
  let best: Bar | null = null;
  for (const bar of timeline.bars) {
    if (bar.lane !== lane || ms < bar.startMs - slackMs || ms > (bar.endMs ?? timeline.nowMs) + slackMs) continue;
    if (!best || Math.abs(ms - bar.startMs) < Math.abs(ms - best.startMs)) best = bar;
  }
  return best;
}

// A bar in words: "acme · m: read after 12 ms, first token after 80 ms, ended after 1.2 s, 30 tokens".
export function tell(bar: Bar, span: (s: number) => string): string {
  const after = (moment: number) => span((moment - bar.startMs) / 1000);
  const parts = [
    bar.begunMs === null ? null : `read after ${after(bar.begunMs)}`,
    bar.firstMs === null ? null : `first token after ${after(bar.firstMs)}`,
    bar.endMs === null ? bar.phase : `${bar.outcome || "ended"} after ${after(bar.endMs)}`,
    `${bar.outputTokens} tokens`,
  ];
  return `${bar.label}: ${parts.filter((part) => part !== null).join(", ")}`;
}

// The requests that ended last, the newest first.
export function justEnded(before: readonly EndedRequest[], frame: Frame): readonly EndedRequest[] {
  return frame.ended.length === 0 ? before : [...[...frame.ended].reverse(), ...before].slice(0, MAX_ENDED);
}

// In words, for who does not see the picture.
export function describe(timeline: Timeline): string {
  const running = timeline.bars.filter((bar) => bar.endMs === null);
  const ended = timeline.bars.length - running.length;
  const by = (phase: Phase) => running.filter((bar) => bar.phase === phase).length;
  const told = (["waiting", "queued", "prefill", "decode", "streaming"] as const)
    .map((phase) => [phase, by(phase)] as const)
    .filter(([, count]) => count > 0)
    .map(([phase, count]) => `${count} ${phase}`);
  return `${running.length} running${told.length ? ` (${told.join(", ")})` : ""}, ${ended} ended in the last minute.`;
}
