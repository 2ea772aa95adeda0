// What runs now and what has just ended, as a timeline and as a table.

import { useCallback, useState } from "preact/hooks";
import { Badge, clockTime, count, Plain, seconds, Table, tokens, type Column } from "../../kit";
import type { EndedRequest, Frame, LiveRequest } from "./frame";
import { laneAt, MAX_LANES, paintTimeline, timelineHeight } from "./paint";
import { Picture, type Surface } from "./picture";
import { barAt, describe, tell, WINDOW_MS, type Timeline } from "./timeline";

const COLUMNS: readonly Column<LiveRequest>[] = [
  { key: "phase", title: "Phase", cell: (one) => one.phase, sort: (a, b) => a.phase.localeCompare(b.phase) },
  { key: "age", title: "For", align: "end", cell: (one) => seconds(one.age_ms / 1000), sort: (a, b) => a.age_ms - b.age_ms },
  { key: "who", title: "Who", cell: (one) => <Plain text={[one.tenant, one.key].filter(Boolean).join(" / ") || "–"} /> },
  { key: "model", title: "Model", cell: (one) => <Plain text={one.backend ? `${one.model} at ${one.backend}` : one.model ?? "–"} /> },
  { key: "route", title: "Route", cell: (one) => <Plain mono text={one.route || "no client waits"} /> },
  { key: "read", title: "Prompt", align: "end", cell: readOf, sort: (a, b) => a.prompt_tokens - b.prompt_tokens },
  { key: "made", title: "Answer", align: "end", cell: (one) => tokens(one.output_tokens), sort: (a, b) => a.output_tokens - b.output_tokens },
  { key: "id", title: "Request", cell: (one) => (one.id ? <Plain mono text={one.id} /> : "–") },
];

function readOf(one: LiveRequest): string {
  if (one.prompt_tokens === 0) return "–";
  const cached = one.cached_tokens > 0 ? `, ${tokens(one.cached_tokens)} cached` : "";
  const isRead = one.phase !== "prefill" || one.computed_tokens >= one.prompt_tokens;
  return `${isRead ? "" : `${tokens(one.computed_tokens)} of `}${tokens(one.prompt_tokens)}${cached}`;
}

const ENDED: readonly Column<EndedRequest>[] = [
  { key: "time", title: "Ended", cell: (one) => clockTime(one.ended_ms / 1000) },
  { key: "outcome", title: "Outcome", cell: (one) => <Badge kind={one.outcome === "ok" ? "good" : "bad"}>{one.outcome}</Badge> },
  { key: "took", title: "Took", align: "end", cell: (one) => seconds(one.duration_ms / 1000), sort: (a, b) => a.duration_ms - b.duration_ms },
  { key: "first", title: "First token", align: "end", cell: (one) => (one.first_ms === null ? "–" : seconds(one.first_ms / 1000)) },
  { key: "who", title: "Who", cell: (one) => <Plain text={[one.tenant, one.key].filter(Boolean).join(" / ") || "–"} /> },
  { key: "model", title: "Model", cell: (one) => <Plain text={one.backend ? `${one.model} at ${one.backend}` : one.model ?? "–"} /> },
  { key: "read", title: "Prompt", align: "end", cell: (one) => tokens(one.prompt_tokens), sort: (a, b) => a.prompt_tokens - b.prompt_tokens },
  { key: "made", title: "Answer", align: "end", cell: (one) => tokens(one.output_tokens), sort: (a, b) => a.output_tokens - b.output_tokens },
  { key: "id", title: "Request", cell: (one) => <a href={`/console/traffic/requests/${encodeURIComponent(one.id)}`}><Plain mono text={one.id} /></a> },
];

interface RequestsProps {
  frame: Frame;
  timeline: Timeline;
  ended: readonly EndedRequest[];
}

export function Requests({ frame, timeline, ended }: RequestsProps) {
  const [isOpen, open] = useState(false);
  const [at, point] = useState<string | null>(null);
  const draw = useCallback((surface: Surface) => paintTimeline(surface, timeline), [timeline]);
  const hidden = timeline.numLanes - MAX_LANES;
  const height = timelineHeight(timeline);
  const bar = at === null ? undefined : timeline.bars.find((one) => one.key === at);
  return (
    <section aria-labelledby="live-requests">
      <h2 id="live-requests">Requests</h2>
      <Picture
        label={`Timeline of requests: ${describe(timeline)}`}
        height={height}
        draw={draw}
        onPoint={(x, y) => point(x < 0 ? null : pointed(timeline, x, y * height))}
      />
      <ul class="live-key" aria-hidden="true">
        <li class="waiting">waiting</li>
        <li class="reading">reading the prompt</li>
        <li class="answering">answering</li>
        <li class="first">first token</li>
        <li class="failed">ended by an error</li>
      </ul>
      <p class="hint">
        {bar ? <Plain text={tell(bar, seconds)} /> : describe(timeline)}
        {!bar && hidden > 0 && ` ${count(hidden)} more lanes are not drawn.`}
        {!bar && frame.requests_left_out > 0 && ` ${count(frame.requests_left_out)} more requests are open than are told.`}
        {!bar && frame.ended_left_out > 0 && ` ${count(frame.ended_left_out)} more ended in the last second.`}
      </p>
      <details open={isOpen} onToggle={(event) => open(event.currentTarget.open)}>
        <summary>Requests as tables</summary>
        {isOpen && (
          <>
            <h3>In flight</h3>
            <Table label="Requests in flight" columns={COLUMNS} rows={frame.requests} rowKey={rowKey} empty="Nothing runs." />
            <h3>Just ended</h3>
            <Table label="Requests that have just ended" columns={ENDED} rows={ended} rowKey={(one) => `${one.id} ${one.ended_ms}`} empty="Nothing has ended since this view was opened." />
          </>
        )}
      </details>
    </section>
  );
}

function pointed(timeline: Timeline, x: number, y: number): string | null {
  const lane = laneAt(y);
  return lane === null ? null : barAt(timeline, timeline.nowMs - (1 - x) * WINDOW_MS, lane, WINDOW_MS / 300)?.key ?? null;
}

function rowKey(one: LiveRequest): string {
  return one.id ?? `${one.model} ${one.tenant} ${one.age_ms} ${one.prompt_tokens}`;
}
