// The view "Live": what the server does at this moment, from one frame a second.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { Badge, Busy, Button, Chart, clockTime, count, ErrorNotice, Notice, percent, seconds, Select, tokens } from "../../kit";
import { openFeed, type Status } from "./feed";
import type { EndedRequest, Frame, Model } from "./frame";
import { Heat } from "./heat";
import { ago, axis, batch, columns, extend, hitRates, isQuiet, MARKS_S, NOTHING, outputRate, readRate, share, since, type History } from "./history";
import "./live.css";
import { Memory } from "./memory";
import { Requests } from "./requests";
import { advance, EMPTY, justEnded, type Timeline } from "./timeline";

interface Seen {
  frame: Frame | null;
  ended: readonly EndedRequest[];
  history: History;
  timeline: Timeline;
}

const QUIET_FRAMES = 10;
const UNSEEN: Seen = { frame: null, ended: [], history: NOTHING, timeline: EMPTY };

export default function Live() {
  const [isPaused, pause] = useState(false);
  const { seen, status, error } = useFeed(isPaused);
  return (
    <div class="live">
      <header class="live-head">
        <h1>Live</h1>
        {seen.frame && <State frame={seen.frame} status={isPaused ? "paused" : status} />}
        <Button onPress={() => pause(!isPaused)}>{isPaused ? "Go on" : "Pause"}</Button>
      </header>
      {status === "refused" && <ErrorNotice error={error} />}
      {status === "lost" && !isPaused && (
        <Notice kind="warn" title="The feed was cut off">
          <p>{seen.frame ? "What you see is what it said last. " : ""}It is opened again by itself.</p>
        </Notice>
      )}
      {seen.frame ? <Panels frame={seen.frame} seen={seen} /> : status !== "refused" && <Busy label="Waiting for the first frame" />}
    </div>
  );
}

function useFeed(isPaused: boolean): { seen: Seen; status: Status; error: unknown } {
  const [seen, see] = useState<Seen>(UNSEEN);
  const [{ status, error }, tell] = useState<{ status: Status; error: unknown }>({ status: "opening", error: null });
  const latest = useRef(UNSEEN);
  useEffect(() => {
    if (isPaused) return undefined;
    let numQuiet = 0;
    return openFeed({
      onFrame: (frame) => {
        const { frame: last, ended, history, timeline } = latest.current;
        latest.current = { frame, ended: justEnded(ended, frame), history: extend(history, frame), timeline: advance(timeline, frame) };
        // A server at rest is drawn now and then, so that a page that is left open costs next to nothing.
        numQuiet = isQuiet(last, frame) ? numQuiet + 1 : 0;
        if (numQuiet % QUIET_FRAMES === 0) see(latest.current);
      },
      onStatus: (next, failure) => tell((now) => (now.status === next && next === "live" ? now : { status: next, error: failure })),
    });
  }, [isPaused]);
  return { seen, status, error };
}

function State({ frame, status }: { frame: Frame; status: Status | "paused" }) {
  const { server, engine_age_ms: age } = frame;
  const kind = status === "live" ? "good" : status === "lost" ? "bad" : "warn";
  return (
    <p class="live-state">
      <Badge kind={kind}>{status}</Badge>
      <span>Headrace {server.version}, {server.phase}, up {seconds(Math.floor(server.uptime_ms / 1000))}</span>
      {age !== null && age > 2 * frame.interval_ms && <Badge kind="warn">a step has taken {seconds(age / 1000)}</Badge>}
    </p>
  );
}

function Panels({ frame, seen }: { frame: Frame; seen: Seen }) {
  const [chosen, choose] = useState<string | null>(null);
  const model = frame.models.find((one) => one.id === chosen) ?? busiest(frame.models);
  const { samples } = seen.history;
  const { first_token, between_tokens } = frame.latency;
  const first = useMemo(() => columns(samples, (one) => one.firstToken, first_token.counts.length), [samples]);
  const between = useMemo(() => columns(samples, (one) => one.betweenTokens, between_tokens.counts.length), [samples]);
  return (
    <>
      <Requests frame={frame} timeline={seen.timeline} ended={seen.ended} />
      <Throughput history={seen.history} frame={frame} />
      {model && (
        <>
          {frame.models.length > 1 && (
            <div class="live-choice">
              <Select label="Model" value={model.id} options={frame.models.map(optionOf)} onChange={choose} />
              {frame.models_left_out > 0 && <p class="hint">{count(frame.models_left_out)} more models are served.</p>}
            </div>
          )}
          <Numbers model={model} />
          <Memory model={model} disk={frame.disk} />
        </>
      )}
      <section aria-labelledby="live-latency">
        <h2 id="live-latency">Latency</h2>
        <div class="live-pair">
          <Heat title="Time to the first token" bounds={first_token.bounds_ms} columns={first} />
          <Heat title="Time between two tokens" bounds={between_tokens.bounds_ms} columns={between} />
        </div>
      </section>
    </>
  );
}

function optionOf(model: Model): { value: string; title: string } {
  return { value: model.id, title: model.state === "ready" ? model.id : `${model.id} (${model.state})` };
}

// What somebody wants to see who has chosen nothing: where the most is going on.
function busiest(models: readonly Model[]): Model | undefined {
  let best: Model | undefined;
  for (const model of models) {
    if (!best || weight(model) > weight(best)) best = model;
  }
  return best;
}

function weight(model: Model): number {
  return (model.num_running + model.num_waiting) * 1e12 + model.totals.num_tokens;
}

function Throughput({ history, frame }: { history: History; frame: Frame }) {
  const { samples } = history;
  const hasEngine = frame.models.length > 0;
  const { rates, batches, memory } = useMemo(() => {
    const { x, of } = axis(samples);
    const hits = hitRates(samples);
    return {
      rates: [x, of(outputRate), of(readRate)],
      batches: [x, of(batch), of((one) => one.running), of((one) => one.waiting)],
      memory: [x, of(share((one) => one.usedPages)), of(share((one) => one.cachedPages)), of((one) => hits.get(one) ?? null)],
    };
  }, [samples]);
  const rate = (value: number) => `${tokens(value)} tok/s`;
  return (
    <section aria-labelledby="live-rates">
      <h2 id="live-rates">Throughput and batches</h2>
      <p class="hint">{since(frame, clockTime)}</p>
      <div class="live-pair">
        <Chart
          label="Tokens per second"
          x="number"
          formatX={ago}
          marksX={MARKS_S}
          series={[{ label: "answers", colour: "good", format: rate }, ...(hasEngine ? [{ label: "prompts", colour: "accent", format: rate }] : [])]}
          data={hasEngine ? rates : rates.slice(0, 2)}
        />
        <Chart
          label="Sequences"
          x="number"
          formatX={ago}
          marksX={MARKS_S}
          series={[{ label: "in a step, on average", colour: "accent" }, { label: "running", colour: "good" }, { label: "waiting", colour: "warn" }]}
          data={batches}
        />
        {hasEngine && <Chart label="Pages, and prompts found in the cache" x="number" formatX={ago} marksX={MARKS_S} series={MEMORY} data={memory} />}
      </div>
    </section>
  );
}

const MEMORY = [
  { label: "pages used", colour: "accent", format: percent },
  { label: "pages cached", colour: "good", format: percent },
  { label: "found, by minute", colour: "warn", format: percent },
];

function Numbers({ model }: { model: Model }) {
  const { totals } = model;
  const rows: [string, string][] = [
    ["State", model.state],
    ["Running", `${count(model.num_running)} of ${count(model.max_running)}`],
    ["Waiting", count(model.num_waiting)],
    ["Tokens answered", tokens(totals.output_tokens)],
    ["Prompt tokens", `${tokens(totals.prompt_tokens)}, ${tokens(totals.reused_tokens)} of them found`],
    ["Steps", `${tokens(totals.num_steps)}, ${seconds(totals.native_ms / 1000)} in kernels`],
    ["Preempted", count(totals.num_preempted)],
  ];
  return <dl class="live-numbers">{rows.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}</dl>;
}
