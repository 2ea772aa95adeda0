// What the view makes of frames: bars keep their lanes, sums become rates, the tree becomes boxes.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { EndedRequest, Frame, LiveRequest, Model, Run } from "./frame";
import { axis, bandLabel, bands, extend, isQuiet, KEPT, NOTHING, type History } from "./history";
import { advance, barAt, describe, EMPTY, justEnded, MAX_BARS, MAX_ENDED, segments, tell, WINDOW_MS, type Timeline } from "./timeline";
import { boxAt, describeTree, lay, warmth } from "./tree";

const TOTALS: Model["totals"] = {
  num_steps: 0, num_sequences: 0, num_tokens: 0, native_ms: 0, prompt_tokens: 0, reused_tokens: 0,
  read_tokens: 0, output_tokens: 0, drafted_tokens: 0, accepted_tokens: 0, num_preempted: 0,
};

function model(totals: Partial<Model["totals"]> = {}, more: Partial<Model> = {}): Model {
  return {
    id: "m", state: "ready", is_pooled: false, num_running: 0, num_waiting: 0, max_running: 8,
    totals: { ...TOTALS, ...totals },
    pages: { page_tokens: 16, total: 0, used: 0, cached: 0, pinned: 0 },
    tree: { num_tokens: 0, rest_tokens: 0, runs: [] }, tenants: [], ...more,
  };
}

function frame(time_ms: number, more: Partial<Frame> = {}): Frame {
  return {
    time_ms, interval_ms: 1000,
    server: { version: "1", phase: "ready", uptime_ms: time_ms, num_open: 1, num_viewers: 1 },
    engine_age_ms: 0, models: [], models_left_out: 0, disk: null, requests: [], requests_left_out: 0, ended: [], ended_left_out: 0,
    latency: { first_token: { bounds_ms: [10], counts: [0, 0] }, between_tokens: { bounds_ms: [10], counts: [0, 0] } },
    ...more,
  };
}

function request(id: string, age_ms: number, more: Partial<LiveRequest> = {}): LiveRequest {
  return {
    id, tenant: "acme", key: "k", model: "m", backend: null, route: "/v1/chat/completions", phase: "queued", age_ms,
    begun_ms: null, first_ms: null, prompt_tokens: 0, computed_tokens: 0, cached_tokens: 0, output_tokens: 0, priority: 0,
    ...more,
  };
}

function ended(id: string, ended_ms: number, duration_ms: number, more: Partial<EndedRequest> = {}): EndedRequest {
  return {
    id, tenant: "acme", key: "k", model: "m", backend: null, route: "/v1/chat/completions", outcome: "ok", status: 200,
    ended_ms, duration_ms, begun_ms: 10, first_ms: 100, prompt_tokens: 5, cached_tokens: 0, output_tokens: 9, ...more,
  };
}

function play(...frames: Frame[]): Timeline {
  return frames.reduce(advance, EMPTY);
}

const lanes = (timeline: Timeline) => Object.fromEntries(timeline.bars.map((bar) => [bar.key, bar.lane]));

test("a request keeps its lane from its first frame to its end, and others take what is free", () => {
  const first = play(frame(10_000, { requests: [request("a", 500), request("b", 100)] }));
  assert.deepEqual(lanes(first), { a: 0, b: 1 });
  const next = advance(first, frame(11_000, { requests: [request("b", 1100), request("c", 50)], ended: [ended("a", 10_400, 900)] }));
  assert.deepEqual(lanes(next), { a: 0, b: 1, c: 0 });
  const third = advance(next, frame(12_000, { requests: [request("b", 2100), request("c", 1050), request("d", 10)] }));
  assert.deepEqual(lanes(third), { a: 0, b: 1, c: 0, d: 2 });
});

test("a request that began and ended between two frames is there with its parts", () => {
  const timeline = play(frame(10_000), frame(11_000, { ended: [ended("s", 10_600, 400)] }));
  const bar = timeline.bars[0]!;
  assert.deepEqual(segments(bar, timeline.nowMs), [
    { kind: "waiting", fromMs: 10_200, toMs: 10_210 },
    { kind: "reading", fromMs: 10_210, toMs: 10_300 },
    { kind: "answering", fromMs: 10_300, toMs: 10_600 },
  ]);
});

test("two that overlap never share a lane, also when both ended between two frames", () => {
  const timeline = play(frame(10_000), frame(11_000, { ended: [ended("a", 10_500, 400), ended("b", 10_600, 300), ended("c", 10_900, 200)] }));
  const at = lanes(timeline);
  assert.notEqual(at.a, at.b);
});

test("what vanishes without a word has ended, and leaves the picture after its window", () => {
  const timeline = play(frame(10_000, { requests: [request("a", 100)] }), frame(11_000));
  assert.equal(timeline.bars[0]!.endMs, 11_000);
  assert.deepEqual(advance(timeline, frame(11_000 + WINDOW_MS)).bars, []);
});

test("a backend that tells of no beginning has waited until its first byte", () => {
  const timeline = play(frame(10_000, { requests: [request("r", 900, { phase: "streaming", first_ms: 600 })] }));
  assert.deepEqual(segments(timeline.bars[0]!, 10_000).map((part) => part.kind), ["waiting", "answering"]);
  const waits = play(frame(10_000, { requests: [request("r", 900, { phase: "waiting" })] }));
  assert.deepEqual(segments(waits.bars[0]!, 10_000).map((part) => part.kind), ["waiting"]);
});

test("of a busy minute all that runs and the newest of what ended is kept", () => {
  let timeline = EMPTY;
  for (let second = 0; second < 20; second += 1) {
    const now = 10_000 + 1000 * second;
    const done = Array.from({ length: 200 }, (_, index) => ended(`e${second}.${index}`, now - index, 300));
    timeline = advance(timeline, frame(now, { requests: [request("long", 1000 * second + 500)], ended: done }));
  }
  assert.equal(timeline.bars.length, MAX_BARS);
  assert.equal(timeline.bars.filter((bar) => bar.key === "long").length, 1);
  assert.equal(Math.max(...timeline.bars.map((bar) => bar.endMs ?? 0)), 29_000);
  assert.ok(Math.min(...timeline.bars.map((bar) => bar.endMs ?? Infinity)) > 20_000);
});

test("a bar is found where it lies, short ones too, and told in words", () => {
  const timeline = play(frame(10_000), frame(11_000, { requests: [request("r", 500, { phase: "decode", begun_ms: 20, first_ms: 100, output_tokens: 3 })], ended: [ended("s", 10_400, 10, { begun_ms: null, first_ms: null, outcome: "overloaded", output_tokens: 0 })] }));
  const lane = timeline.bars.find((bar) => bar.key === "r")!.lane;
  const found = barAt(timeline, 10_700, lane, 0)!;
  assert.equal(found.key, "r");
  assert.equal(tell(found, (s) => `${s} s`), "k · m: read after 0.02 s, first token after 0.1 s, decode, 3 tokens");
  const short = timeline.bars.find((bar) => bar.key === "s")!;
  assert.equal(barAt(timeline, 10_410, short.lane, 0), null);
  assert.equal(barAt(timeline, 10_410, short.lane, 20)?.key, "s");
  assert.equal(tell(short, (s) => `${s} s`), "k · m: overloaded after 0.01 s, 0 tokens");
});

test("of what has ended the newest comes first, and the oldest go", () => {
  const first = justEnded([], frame(1000, { ended: [ended("a", 1, 1), ended("b", 2, 1)] }));
  assert.deepEqual(first.map((one) => one.id), ["b", "a"]);
  assert.equal(justEnded(first, frame(2000)), first);
  const many = Array.from({ length: MAX_ENDED }, (_, index) => ended(`m${index}`, 3, 1));
  const next = justEnded(first, frame(2000, { ended: many }));
  assert.equal(next.length, MAX_ENDED);
  assert.equal(next[0]!.id, `m${MAX_ENDED - 1}`);
});

test("the timeline is told in words", () => {
  const timeline = play(frame(10_000, { requests: [request("a", 1, { phase: "decode" }), request("b", 1)], ended: [ended("c", 9_900, 5)] }));
  assert.equal(describe(timeline), "2 running (1 queued, 1 decode), 1 ended in the last minute.");
});

function sampled(...frames: Frame[]): History {
  return frames.reduce(extend, NOTHING);
}

test("rates are differences of sums over the time between two frames", () => {
  const before = model({ output_tokens: 100, read_tokens: 1000, num_steps: 10, num_sequences: 20 });
  const after = model({ output_tokens: 160, read_tokens: 1000, num_steps: 20, num_sequences: 60 }, { num_running: 4 });
  const { samples } = sampled(frame(1000, { models: [before] }), frame(3000, { models: [after] }));
  assert.equal(samples.length, 1);
  assert.equal(samples[0]!.outputRate, 30);
  assert.equal(samples[0]!.readRate, 0);
  assert.equal(samples[0]!.batch, 4);
  assert.equal(samples[0]!.running, 4);
});

test("a restart and a model that came back make no negative rates", () => {
  const busy = frame(5000, { models: [model({ output_tokens: 900 })] });
  const anew = { ...frame(6000, { models: [model({ output_tokens: 4 })] }) };
  assert.deepEqual(sampled(busy, { ...anew, server: { ...anew.server, uptime_ms: 10 } }).samples, []);
  assert.equal(sampled(busy, anew).samples[0]!.outputRate, 4);
});

test("a server without an engine tells of the tokens that it saw pass", () => {
  const latency = { first_token: { bounds_ms: [10], counts: [1, 0] }, between_tokens: { bounds_ms: [10], counts: [7, 2] } };
  const { samples } = sampled(frame(1000), frame(2000, { latency, requests: [request("r", 10)] }));
  assert.equal(samples[0]!.outputRate, 10);
  assert.equal(samples[0]!.running, 1);
});

test("charts begin a minute ago, also where there is less to show, and end now", () => {
  const { samples } = sampled(frame(1000), frame(2000), frame(3000));
  const { x, of } = axis(samples);
  assert.deepEqual(x, [-60, -1, 0]);
  assert.deepEqual(of((one) => one.running), [null, 0, 0]);
  assert.deepEqual(axis([]).x, []);
  const long = sampled(...Array.from({ length: 100 }, (_, index) => frame(1000 * index + 1)));
  assert.equal(axis(long.samples).x[0], -98);
});

test("a server at rest has nothing new to draw, and every change is drawn at once", () => {
  const rest = frame(1000, { models: [model()] });
  assert.equal(isQuiet(null, rest), false);
  assert.equal(isQuiet(rest, frame(2000, { models: [model()] })), true);
  assert.equal(isQuiet(rest, frame(2000, { models: [model({ num_steps: 1 })] })), false);
  assert.equal(isQuiet(rest, frame(2000, { models: [model({}, { state: "leaving" })] })), false);
  assert.equal(isQuiet(rest, frame(2000, { models: [] })), false);
  assert.equal(isQuiet(rest, frame(2000, { models: [model()], requests: [request("a", 1)] })), false);
  assert.equal(isQuiet(rest, frame(2000, { models: [model()], ended: [ended("a", 1900, 5)] })), false);
  assert.equal(isQuiet(frame(1000, { models: [model()], requests: [request("a", 1)] }), frame(2000, { models: [model()] })), false);
});

test("history is bounded", () => {
  let history = NOTHING;
  for (let index = 0; index < KEPT + 50; index += 1) history = extend(history, frame(1000 * index + 1));
  assert.equal(history.samples.length, KEPT);
});

test("bands of latency read as what they are", () => {
  assert.deepEqual(bands([10, 1000], [[1, 2, 3], [4, 0, 0]]), [
    { label: "over 1 s", count: 3 },
    { label: "10 ms – 1 s", count: 2 },
    { label: "under 10 ms", count: 5 },
  ]);
  assert.equal(bandLabel(100, 200), "100 ms – 200 ms");
});

function run(parent: number, num_tokens: number, more: Partial<Run> = {}): Run {
  return { parent, tenant: "acme", num_tokens, num_users: 0, num_uses: 0, idle_ms: 0, is_pinned: false, ...more };
}

test("a run is as wide as it and what follows it, and children lie side by side under their parent", () => {
  const icicle = lay({ num_tokens: 200, rest_tokens: 20, runs: [run(-1, 60), run(-1, 40), run(0, 50), run(0, 30)] });
  assert.deepEqual(
    icicle.boxes.map(({ depth, from, to }) => [depth, Math.round(from * 200), Math.round(to * 200)]),
    [[0, 0, 140], [0, 140, 180], [1, 0, 50], [1, 50, 80]],
  );
  assert.equal(icicle.depth, 2);
  assert.equal(Math.round(icicle.restFrom * 200), 180);
  assert.equal(boxAt(icicle, 0.3, 1)?.run, 3);
  assert.equal(boxAt(icicle, 0.95, 0), null);
});

test("a tree is told in words, and a run by who uses it", () => {
  assert.equal(describeTree({ num_tokens: 0, rest_tokens: 0, runs: [] }), "The tree is empty.");
  assert.equal(describeTree({ num_tokens: 90, rest_tokens: 0, runs: [run(-1, 60, { num_users: 1 }), run(0, 30)] }), "90 tokens in the tree, 60 of them in use, in 2 runs.");
  assert.equal(warmth(run(-1, 1, { num_users: 1 })), "used");
  assert.equal(warmth(run(-1, 1, { num_users: 1, is_pinned: true })), "pinned");
  assert.equal(warmth(run(-1, 1)), "warm");
  assert.equal(warmth(run(-1, 1, { idle_ms: 600_000 })), "cold");
});
