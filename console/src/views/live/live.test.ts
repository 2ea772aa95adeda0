// What the view makes of frames: bars keep their lanes, sums become rates, the tree becomes boxes.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { EndedRequest, Frame, LiveRequest, Model, PastSample, Run } from "./frame";
import {
  ago, axis, bandLabel, bands, batch, COLUMNS, columns, extend, FINE_S, hitRates, isQuiet, KEPT_S, NOTHING, outputRate, readRate, share, since, type History,
} from "./history";
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
  assert.equal(outputRate(samples[0]!), 30);
  assert.equal(readRate(samples[0]!), 0);
  assert.equal(batch(samples[0]!), 4);
  assert.equal(samples[0]!.running, 4);
});

test("a restart and a model that came back make no negative rates", () => {
  const busy = frame(5000, { models: [model({ output_tokens: 900 })] });
  const anew = { ...frame(6000, { models: [model({ output_tokens: 4 })] }) };
  assert.deepEqual(sampled(busy, { ...anew, server: { ...anew.server, uptime_ms: 10 } }).samples, []);
  assert.equal(outputRate(sampled(busy, anew).samples[0]!), 4);
});

test("a server without an engine tells of the tokens that it saw pass", () => {
  const latency = { first_token: { bounds_ms: [10], counts: [1, 0] }, between_tokens: { bounds_ms: [10], counts: [7, 2] } };
  const { samples } = sampled(frame(1000), frame(2000, { latency, requests: [request("r", 10)] }));
  assert.equal(outputRate(samples[0]!), 10);
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
  assert.deepEqual([0, -30, -119.5, -300, -200.1].map(ago), ["now", "−30 s", "−119.5 s", "−5 min", "−3 min 20 s"]);
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

test("what is older is kept coarser, nothing of it is lost, and all of it is bounded", () => {
  let history = NOTHING;
  let tokens = 0;
  for (let s = 0; s <= 2 * KEPT_S; s += 1) {
    history = extend(history, frame(1000 * s + 1000, { models: [model({ output_tokens: (tokens += s % 7) })] }));
  }
  const { samples } = history;
  assert.ok(samples.length <= FINE_S + (KEPT_S - FINE_S) / 5 + 2, `${samples.length}`);
  const spanS = samples.reduce((sum, one) => sum + one.spanS, 0);
  assert.ok(Math.abs(spanS - KEPT_S) <= 5, `${spanS}`);
  assert.ok(Math.abs(samples.reduce((sum, one) => sum + one.outputTokens, 0) - 3 * KEPT_S) < 40);
  for (const rate of samples.map(outputRate)) assert.ok(rate >= 0 && rate <= 6);
});

function past(endS: number, more: Partial<PastSample> = {}): PastSample {
  return {
    time_ms: 1000 * endS, span_ms: 5000, output_tokens: 0, read_tokens: 0, prompt_tokens: 0, reused_tokens: 0, num_steps: 0, num_sequences: 0,
    num_running: 0, num_waiting: 0, total_pages: 0, used_pages: 0, cached_pages: 0, first_token: [], between_tokens: [], ...more,
  };
}

function remembered(timeS: number, samples: PastSample[], more: Partial<Frame> = {}): Frame {
  return frame(1000 * timeS, { history: { since_ms: 0, interval_ms: 5000, samples }, ...more });
}

test("charts begin with what the server remembers, as rates, and its means are levels", () => {
  const samples = [past(290, { output_tokens: 100, num_steps: 5, num_sequences: 15 }), past(295, { output_tokens: 50 })];
  const before = remembered(297, samples, { models: [model({ output_tokens: 1000 })] });
  const history = sampled(before, frame(298_000, { models: [model({ output_tokens: 1007 })] }));
  const { x, of } = axis(history.samples);
  assert.deepEqual(x, [-60, -12.9, -8, -7.9, -3, 0]);
  assert.deepEqual(of(outputRate), [null, 20, 20, 10, 10, 7]);
  assert.deepEqual(of(batch), [null, 3, 3, null, null, null]);
});

test("where nothing is known the line has a hole", () => {
  const history = sampled(remembered(297, [past(200, { output_tokens: 5 }), past(260, { output_tokens: 10 })]));
  const { x, of } = axis(history.samples);
  assert.deepEqual(x, [-64.9, -60, -59.9, -4.9, 0]);
  assert.deepEqual(of(outputRate), [1, 1, null, 2, 2]);
});

test("a page that was hidden gets the time that it missed from the server, once, and keeps what it saw", () => {
  const own = (s: number, output_tokens: number) => frame(1000 * s, { models: [model({ output_tokens })] });
  const seen = sampled(own(98, 0), own(101, 3), own(102, 8));
  // Of the second the last second was missed, the third wholly.
  const samples = [past(98), past(103, { output_tokens: 10, first_token: [0, 3] }), past(108, { output_tokens: 20 })];
  const back = extend(seen, remembered(109, samples));
  const told = (history: History) => history.samples.map((one) => [one.timeS, one.spanS, one.outputTokens]);
  assert.deepEqual(told(back), [[98, 5, 0], [101, 3, 3], [102, 1, 5], [103, 1, 2], [108, 5, 20]]);
  assert.deepEqual(back.samples[3]!.firstToken, [0, 3]);
  assert.deepEqual(told(extend(back, remembered(109, samples))), told(back));
});

test("what was missed of a second alone is told with the second before", () => {
  const seen = sampled(...[0, 1, 2, 3, 4].map((s) => frame(100_000 + 1100 * s, { models: [model({ output_tokens: 10 * s })] })));
  const { samples } = extend(seen, remembered(106, [past(105, { output_tokens: 46, first_token: [1, 0] })]));
  assert.deepEqual(samples.map((one) => [one.timeS, Math.round(one.outputTokens)]), [[101.1, 10], [102.2, 10], [103.3, 10], [105, 16]]);
  assert.ok(Math.abs(outputRate(samples.at(-1)!) - 16 / 1.7) < 1e-9);
  assert.deepEqual(samples.at(-1)!.firstToken, [1, 0]);
});

test("what is remembered from later than now is of a clock that was set, and not drawn", () => {
  assert.deepEqual(sampled(remembered(100, [past(95), past(4000)])).samples.map((one) => one.timeS), [95]);
});

test("a clock that is set back while the page watches leaves nothing later than now, and charts go on", () => {
  const before = sampled(frame(9_000_000), frame(9_001_000), frame(9_002_000));
  const { samples } = [100_000, 101_000, 102_000].reduce((told, ms, at) => {
    return extend(told, frame(ms, { server: { ...frame(0).server, uptime_ms: 9_003_000 + 1000 * at } }));
  }, before);
  assert.deepEqual(samples.map((one) => one.timeS), [101, 102]);
  assert.equal(axis(samples).x.at(-1), 0);
  assert.equal(columns(samples, (one) => one.firstToken, 2).length, COLUMNS);
});

test("a restart is told with its time, and what the page saw before it stays behind a hole", () => {
  const old = sampled(frame(100_000), frame(101_000));
  const server = { ...frame(0).server, uptime_ms: 30_000 };
  const anew = remembered(150, [past(125, { output_tokens: 5 }), past(130)], { server });
  const { samples } = extend(old, anew);
  assert.deepEqual(samples.map((one) => one.timeS), [101, 125, 130]);
  assert.ok(axis(samples).of(outputRate).slice(1).includes(null));
  assert.match(since(anew, (unixS) => `at ${unixS}`), /^The server began at at 120\./);
  assert.match(since({ ...anew, server: { ...server, uptime_ms: 1e9 } }, String), /^The last 15 minutes\./);
});

test("latencies are spread over columns of five seconds, and a time that is not known is no time without answers", () => {
  const history = sampled(remembered(1000, [past(905, { first_token: [2, 0] }), past(995, { first_token: [0, 1] })]));
  const found = columns(history.samples, (one) => one.firstToken, 2);
  assert.equal(found.length, COLUMNS);
  const known = found.flatMap((counts, index) => (counts ? [[COLUMNS - 1 - index, counts]] : []));
  assert.deepEqual(known, [[19, [2, 0]], [18, [0, 0]], [1, [0, 1]], [0, [0, 0]]]);
  assert.deepEqual(bands([10], found).map((row) => row.count), [1, 2]);
});

test("pages and what is found are shares; who asked nothing found nothing to tell of", () => {
  const samples = [past(100), past(105, { prompt_tokens: 30, reused_tokens: 15, total_pages: 8, used_pages: 2 }), past(110), past(170)];
  const history = sampled(remembered(172, samples));
  const rates = hitRates(history.samples);
  assert.deepEqual(history.samples.map((one) => rates.get(one)), [null, 0.5, 0.5, null]);
  assert.deepEqual(history.samples.map(share((one) => one.usedPages)), [null, 0.25, null, null]);
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
