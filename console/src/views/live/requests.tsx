// What runs now and what has just ended, as a timeline and as a table.

import { useCallback, useState } from "preact/hooks";
import { count, Plain, seconds, Table, tokens, type Column } from "../../kit";
import type { Frame, LiveRequest } from "./frame";
import { MAX_LANES, paintTimeline, timelineHeight } from "./paint";
import { Picture, type Surface } from "./picture";
import { describe, type Timeline } from "./timeline";

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

export function Requests({ frame, timeline }: { frame: Frame; timeline: Timeline }) {
  const [isOpen, open] = useState(false);
  const draw = useCallback((surface: Surface) => paintTimeline(surface, timeline), [timeline]);
  const hidden = timeline.numLanes - MAX_LANES;
  return (
    <section aria-labelledby="live-requests">
      <h2 id="live-requests">Requests</h2>
      <Picture label={`Timeline of requests: ${describe(timeline)}`} height={timelineHeight(timeline)} draw={draw} />
      <ul class="live-key" aria-hidden="true">
        <li class="waiting">waiting</li>
        <li class="reading">reading the prompt</li>
        <li class="answering">answering</li>
        <li class="first">first token</li>
        <li class="failed">ended by an error</li>
      </ul>
      <p class="hint">
        {describe(timeline)}
        {hidden > 0 && ` ${count(hidden)} more lanes are not drawn.`}
        {frame.requests_left_out > 0 && ` ${count(frame.requests_left_out)} more requests are open than are told.`}
      </p>
      <details open={isOpen} onToggle={(event) => open(event.currentTarget.open)}>
        <summary>Requests in flight as a table</summary>
        {isOpen && (
          <Table label="Requests in flight" columns={COLUMNS} rows={frame.requests} rowKey={rowKey} empty="Nothing runs." />
        )}
      </details>
    </section>
  );
}

function rowKey(one: LiveRequest): string {
  return one.id ?? `${one.model} ${one.tenant} ${one.age_ms} ${one.prompt_tokens}`;
}
