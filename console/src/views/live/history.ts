// What is drawn over time: rates as differences of sums, and columns of latencies; what the server remembers from before,
// then what frames say, each second of the last minutes and coarser behind them. Bounded; values in, values out.

import type { Frame, Latency, Model, PastSample } from "./frame";

export const KEPT_S = 900; // as long as a server remembers
export const FINE_S = 180;
export const COARSE_S = 5;
export const COLUMNS = KEPT_S / COARSE_S;
const GAP_S = 1.5 * COARSE_S; // for less, nothing is missing: what the server remembers ends before the first frame

// Sums over `spanS` before `timeS`, and what there was at its end.
export interface Sample {
  timeS: number; // Unix time
  spanS: number;
  outputTokens: number;
  readTokens: number;
  promptTokens: number;
  reusedTokens: number;
  steps: number;
  sequences: number; // over all steps
  running: number;
  waiting: number;
  totalPages: number;
  usedPages: number;
  cachedPages: number;
  firstToken: readonly number[];
  betweenTokens: readonly number[];
}

export interface History {
  samples: readonly Sample[]; // the oldest first
  last: Frame | null;
}

export const NOTHING: History = { samples: [], last: null };

export function extend(history: History, frame: Frame): History {
  const { last } = history;
  const nowS = frame.time_ms / 1000;
  if (frame.history) return { samples: thin(fill(history.samples, frame.history.samples.map(fromPast), nowS), nowS), last: frame };
  const elapsedS = last === null ? 0 : (frame.time_ms - last.time_ms) / 1000;
  // A server that began anew, or a clock that was set: there is no rate between the two, and nothing is later than now.
  if (last === null || elapsedS <= 0 || frame.server.uptime_ms < last.server.uptime_ms) {
    return { samples: history.samples.filter((one) => one.timeS <= nowS), last: frame };
  }
  return { samples: thin([...history.samples, sampleOf(last, frame, elapsedS)], nowS), last: frame };
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
  const all = (read: (model: Model) => number) => frame.models.reduce((sum, model) => sum + read(model), 0);
  const { first_token, between_tokens } = frame.latency;
  const hasEngine = frame.models.length > 0;
  return {
    timeS: frame.time_ms / 1000,
    spanS: elapsedS,
    // Without an engine of its own a server knows of tokens what it saw pass.
    outputTokens: hasEngine ? grown("output_tokens") : total(first_token) + total(between_tokens),
    readTokens: grown("read_tokens"),
    promptTokens: grown("prompt_tokens"),
    reusedTokens: grown("reused_tokens"),
    steps: grown("num_steps"),
    sequences: grown("num_sequences"),
    running: hasEngine ? all((model) => model.num_running) : frame.requests.length + frame.requests_left_out,
    waiting: all((model) => model.num_waiting),
    totalPages: all((model) => model.pages.total),
    usedPages: all((model) => model.pages.used),
    cachedPages: all((model) => model.pages.cached),
    firstToken: first_token.counts,
    betweenTokens: between_tokens.counts,
  };
}

function fromPast(past: PastSample): Sample {
  return {
    timeS: past.time_ms / 1000,
    spanS: past.span_ms / 1000,
    outputTokens: past.output_tokens,
    readTokens: past.read_tokens,
    promptTokens: past.prompt_tokens,
    reusedTokens: past.reused_tokens,
    steps: past.num_steps,
    sequences: past.num_sequences,
    running: past.num_running,
    waiting: past.num_waiting,
    totalPages: past.total_pages,
    usedPages: past.used_pages,
    cachedPages: past.cached_pages,
    firstToken: past.first_token,
    betweenTokens: past.between_tokens,
  };
}

// What the server remembers of the time that this page has not seen: before it was opened, or while it was hidden.
function fill(seen: readonly Sample[], past: readonly Sample[], nowS: number): Sample[] {
  // Later than now: the server's clock was set back since.
  const all = seen.filter((one) => one.timeS <= nowS);
  for (const one of past) {
    const unseen = one.timeS <= nowS ? rest(one, seen) : null;
    if (!unseen) continue;
    const place = all.findLastIndex((other) => other.timeS < unseen.timeS);
    const before = all[place];
    // What is short is no rate by itself: some of it is how samples were cut.
    if (unseen.spanS < LEAST_REST_S && before && isNext(before, unseen)) all[place] = join(before, unseen);
    else all.splice(place + 1, 0, unseen);
  }
  return all;
}

const LEAST_REST_S = 1;
const EQUAL_S = 0.05;

function isNext(before: Sample, one: Sample): boolean {
  return Math.abs(one.timeS - one.spanS - before.timeS) < EQUAL_S;
}

// What of a sample is in none that was seen: its largest hole, and what was not counted there; null: all of it was seen.
function rest(past: Sample, seen: readonly Sample[]): Sample | null {
  const startS = past.timeS - past.spanS;
  const hole = { fromS: startS, toS: startS };
  let atS = startS;
  let left = past;
  for (const one of seen) {
    const fromS = Math.max(startS, one.timeS - one.spanS);
    const toS = Math.min(past.timeS, one.timeS);
    if (toS <= fromS) continue;
    if (fromS - atS > hole.toS - hole.fromS) Object.assign(hole, { fromS: atS, toS: fromS });
    atS = Math.max(atS, toS);
    left = added(left, one, (toS - fromS) / -one.spanS);
  }
  if (past.timeS - atS > hole.toS - hole.fromS) Object.assign(hole, { fromS: atS, toS: past.timeS });
  const spanS = hole.toS - hole.fromS;
  return spanS < EQUAL_S ? null : { ...left, timeS: hole.toS, spanS };
}

// What is recent as it is, what is older in coarse pieces, what is too old not at all.
function thin(samples: readonly Sample[], nowS: number): Sample[] {
  const kept: Sample[] = [];
  for (const one of samples) {
    if (one.timeS <= nowS - KEPT_S) continue;
    const before = kept.at(-1);
    const isOld = one.timeS <= nowS - FINE_S;
    if (before && isOld && before.spanS + one.spanS <= COARSE_S * 1.1 && one.timeS - one.spanS - before.timeS < 0.5) kept[kept.length - 1] = join(before, one);
    else kept.push(one);
  }
  return kept;
}

function join(a: Sample, b: Sample): Sample {
  return { ...added(b, a, 1), spanS: a.spanS + b.spanS };
}

const SUMS = ["outputTokens", "readTokens", "promptTokens", "reusedTokens", "steps", "sequences"] as const;

// A sample whose sums have grown by so many times those of another; they are not less than nothing.
function added(one: Sample, other: Sample, times: number): Sample {
  const sums = Object.fromEntries(SUMS.map((name) => [name, Math.max(0, one[name] + times * other[name])]));
  return { ...one, ...sums, firstToken: addedRow(one.firstToken, other.firstToken, times), betweenTokens: addedRow(one.betweenTokens, other.betweenTokens, times) };
}

function addedRow(a: readonly number[], b: readonly number[], times = 1): readonly number[] {
  return Array.from({ length: Math.max(a.length, b.length) }, (_, index) => Math.max(0, Math.round((a[index] ?? 0) + times * (b[index] ?? 0))));
}

export const outputRate = (one: Sample) => one.outputTokens / one.spanS;
export const readRate = (one: Sample) => one.readTokens / one.spanS;
// Sequences in a step, on average; null: there was no step.
export const batch = (one: Sample) => (one.steps > 0 ? one.sequences / one.steps : null);
export const share = (part: (one: Sample) => number) => (one: Sample) => (one.totalPages > 0 ? part(one) / one.totalPages : null);

const HITS_S = 60;

// The share of prompts' tokens that was found in the minute before each sample; null: nobody asked.
export function hitRates(samples: readonly Sample[]): Map<Sample, number | null> {
  const rates = new Map<Sample, number | null>();
  let from = 0;
  let asked = 0;
  let found = 0;
  for (const one of samples) {
    asked += one.promptTokens;
    found += one.reusedTokens;
    for (; samples[from]!.timeS <= one.timeS - HITS_S; from += 1) {
      asked -= samples[from]!.promptTokens;
      found -= samples[from]!.reusedTokens;
    }
    rates.set(one, asked > 0 ? found / asked : null);
  }
  return rates;
}

function total(latency: Latency): number {
  return latency.counts.reduce((sum, count) => sum + count, 0);
}

// Whether nothing has happened between two frames and nothing is under way: then there is nothing new to draw.
export function isQuiet(last: Frame | null, frame: Frame): boolean {
  if (last === null || frame.history || frame.requests.length + frame.ended.length + last.requests.length > 0) return false;
  if (frame.server.phase !== last.server.phase || frame.models.length !== last.models.length) return false;
  return frame.models.every((model, index) => {
    const old = last.models[index]!;
    return model.id === old.id && model.state === old.state && model.totals.num_steps === old.totals.num_steps
      && model.tree.num_tokens === old.tree.num_tokens && model.pages.pinned === old.pages.pinned;
  });
}

const LEAST_SPAN_S = 60;
const STEP_S = 0.1;

interface Axis {
  x: number[];
  of: (read: (one: Sample) => number | null) => (number | null)[];
}

// Seconds before now, a minute at least, and what samples have at each of them. A coarse sample is a level over all of its
// time, and where nothing is known the line has a hole.
export function axis(samples: readonly Sample[]): Axis {
  const nowS = samples.at(-1)?.timeS ?? 0;
  const points: [number, Sample | null][] = [];
  const put = (timeS: number, sample: Sample | null) => {
    const x = Math.round((timeS - nowS) * 10) / 10;
    if (points.length === 0 || x > points.at(-1)![0]) points.push([x, sample]);
  };
  samples.forEach((one, index) => {
    const startS = one.timeS - one.spanS;
    const before = samples[index - 1];
    if (before && startS - before.timeS > GAP_S) put(before.timeS + STEP_S, null);
    if (one.spanS > COARSE_S / 2) put(startS + STEP_S, one);
    put(one.timeS, one);
  });
  if (points.length > 0 && points[0]![0] > -LEAST_SPAN_S) points.unshift([-LEAST_SPAN_S, null]);
  return { x: points.map(([x]) => x), of: (read) => points.map(([, one]) => (one === null ? null : read(one))) };
}

export const MARKS_S = [1, 2, 5, 10, 15, 30, 60, 120, 180, 300];

// "-30 s", "-5 min", "now"
export function ago(s: number): string {
  const whole = Math.abs(s) < 120 ? Math.abs(s) : Math.round(Math.abs(s));
  const told = whole < 120 ? `${whole} s` : whole % 60 === 0 ? `${whole / 60} min` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return s === 0 ? "now" : `${s < 0 ? "−" : ""}${told}`;
}

// How latencies were spread in each piece of the time that is kept, the oldest first; null: not known.
export function columns(samples: readonly Sample[], read: (one: Sample) => readonly number[], numBands: number): (readonly number[] | null)[] {
  const nowPlace = Math.floor((samples.at(-1)?.timeS ?? 0) / COARSE_S);
  const found: (readonly number[] | null)[] = Array.from({ length: COLUMNS }, () => null);
  const nothing: readonly number[] = Array.from({ length: numBands }, () => 0);
  const place = (timeS: number) => COLUMNS - 1 - nowPlace + Math.floor(timeS / COARSE_S);
  for (const one of samples) {
    const startS = one.timeS - one.spanS;
    for (let at = Math.max(0, place(startS)); at <= place(one.timeS); at += 1) found[at] ??= nothing;
    const middle = place(one.timeS - one.spanS / 2);
    if (middle >= 0) found[middle] = addedRow(found[middle] ?? nothing, read(one));
  }
  return found;
}

// Since when there is something to see.
export function since(frame: Frame, clock: (unixS: number) => string): string {
  const begunS = (frame.time_ms - frame.server.uptime_ms) / 1000;
  const window = frame.server.uptime_ms / 1000 < KEPT_S ? `The server began at ${clock(begunS)}` : `The last ${KEPT_S / 60} minutes`;
  return `${window}. Where nobody watched on this page, and beyond ${FINE_S / 60} minutes, lines are means of ${COARSE_S} s.`;
}

export interface BandRow {
  label: string; // "50 – 100 ms"
  count: number;
}

// How often each band was met in all samples, the slowest first: the heat map as a table.
export function bands(bounds: readonly number[], columns: readonly (readonly number[] | null)[]): BandRow[] {
  const rows = [...bounds, Infinity].map((bound, index) => ({
    label: bandLabel(index === 0 ? 0 : bounds[index - 1]!, bound),
    count: columns.reduce((sum, counts) => sum + (counts?.[index] ?? 0), 0),
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
