// What a model holds in its pages: who uses them, the prefix tree in them, and whose prompts were found there.

import { useCallback, useMemo, useState } from "preact/hooks";
import { bytes, count, percent, Plain, seconds, Table, tokens, type Column } from "../../kit";
import type { Frame, Model, Run } from "./frame";
import { paintTree, ROW_PX, treeHeight } from "./paint";
import { Picture, type Surface } from "./picture";
import { boxAt, describeTree, lay, warmth } from "./tree";

type Tenant = Model["tenants"][number];

const TENANTS: readonly Column<Tenant>[] = [
  { key: "tenant", title: "Tenant", cell: (one) => (one.tenant ? <Plain text={one.tenant} /> : "all others"), sort: (a, b) => a.tenant.localeCompare(b.tenant) },
  { key: "prompt", title: "Prompt tokens", align: "end", cell: (one) => tokens(one.prompt_tokens), sort: (a, b) => a.prompt_tokens - b.prompt_tokens },
  { key: "found", title: "Found", align: "end", cell: (one) => tokens(one.reused_tokens), sort: (a, b) => a.reused_tokens - b.reused_tokens },
  { key: "rate", title: "Hit rate", align: "end", cell: (one) => percent(hitRate(one)), sort: (a, b) => hitRate(a) - hitRate(b) },
];

function hitRate(one: Tenant): number {
  return one.prompt_tokens > 0 ? one.reused_tokens / one.prompt_tokens : 0;
}

const RUNS: readonly Column<Run & { place: number }>[] = [
  { key: "place", title: "Run", cell: (one) => `${one.place + 1}` },
  { key: "parent", title: "After", cell: (one) => (one.parent < 0 ? "the beginning" : `run ${one.parent + 1}`) },
  { key: "tenant", title: "Tenant", cell: (one) => <Plain text={one.tenant || "–"} /> },
  { key: "tokens", title: "Tokens", align: "end", cell: (one) => tokens(one.num_tokens), sort: (a, b) => a.num_tokens - b.num_tokens },
  { key: "users", title: "Used by", align: "end", cell: (one) => count(one.num_users), sort: (a, b) => a.num_users - b.num_users },
  { key: "uses", title: "Found", align: "end", cell: (one) => count(one.num_uses), sort: (a, b) => a.num_uses - b.num_uses },
  { key: "idle", title: "Last used", align: "end", cell: (one) => ago(one), sort: (a, b) => a.idle_ms - b.idle_ms },
];

function ago(run: Run): string {
  return run.num_users > 0 ? (run.is_pinned ? "kept by a session" : "now") : `${seconds(Math.round(run.idle_ms / 1000))} ago`;
}

export function Memory({ model, disk }: { model: Model; disk: Frame["disk"] }) {
  const [isOpen, open] = useState(false);
  const { tree, totals } = model;
  return (
    <section aria-labelledby="live-memory">
      <h2 id="live-memory">Pages and prefixes</h2>
      <Pages pages={model.pages} />
      {disk && <p class="hint">On disk: {bytes(disk.num_bytes)} of {bytes(disk.max_bytes)}, {count(disk.num_pages)} pages.</p>}
      <h3>Prefix tree</h3>
      <TreePicture model={model} />
      <details open={isOpen} onToggle={(event) => open(event.currentTarget.open)}>
        <summary>Prefix tree as a table</summary>
        {isOpen && (
          <Table label="Runs of the prefix tree" columns={RUNS} rows={tree.runs.map((run, place) => ({ ...run, place }))} rowKey={(run) => `${run.place}`} empty="The tree is empty." />
        )}
      </details>
      <h3>Cache hits by tenant</h3>
      <Table label="Cache hits by tenant" columns={TENANTS} rows={model.tenants} rowKey={(one) => one.tenant} empty="No prompt was read yet." />
      {totals.drafted_tokens > 0 && (
        <p class="hint">Drafts: {percent(totals.accepted_tokens / totals.drafted_tokens)} of {tokens(totals.drafted_tokens)} guessed tokens were right.</p>
      )}
    </section>
  );
}

function Pages({ pages }: { pages: Model["pages"] }) {
  const { total, used, cached, pinned, page_tokens } = pages;
  const parts = [
    { name: "in use", kind: "used", number: used - Math.min(pinned, used) },
    { name: "kept by sessions", kind: "pinned", number: Math.min(pinned, used) },
    { name: "cached", kind: "cached", number: cached },
    { name: "free", kind: "free", number: Math.max(0, total - used - cached) },
  ];
  const told = parts.map((part) => `${count(part.number)} ${part.name}`).join(", ");
  return (
    <>
      <div class="live-pages" role="img" aria-label={`${count(total)} pages of ${page_tokens} tokens: ${told}.`}>
        {parts.map((part) => (
          <div key={part.kind} class={part.kind} style={{ width: `${total > 0 ? (100 * part.number) / total : 0}%` }} />
        ))}
      </div>
      <ul class="live-key" aria-hidden="true">
        {parts.map((part) => <li key={part.kind} class={part.kind}>{count(part.number)} {part.name}</li>)}
      </ul>
    </>
  );
}

function TreePicture({ model }: { model: Model }) {
  const { tree } = model;
  const icicle = useMemo(() => lay(tree), [tree]);
  const [at, point] = useState<number | null>(null);
  const height = treeHeight(icicle);
  const draw = useCallback((surface: Surface) => paintTree(surface, tree, icicle, at), [tree, icicle, at]);
  if (tree.num_tokens === 0) return <p class="empty">Nothing is cached yet. What prompts have in common will show here.</p>;
  const run = at === null ? undefined : tree.runs[at];
  return (
    <>
      <Picture
        label={`Prefix tree: ${describeTree(tree)}`}
        height={height}
        draw={draw}
        onPoint={(x, y) => point(x < 0 ? null : boxAt(icicle, x, Math.floor((y * height) / ROW_PX))?.run ?? null)}
      />
      <ul class="live-key" aria-hidden="true">
        <li class="used">in use</li>
        <li class="pinned">kept by a session</li>
        <li class="warm">used in the last minute</li>
        <li class="cold">older</li>
      </ul>
      <p class="hint">
        {run ? (
          <>{tokens(run.num_tokens)} tokens of <Plain text={run.tenant || "–"} />, {warmth(run)}, found {count(run.num_uses)} times, last used {ago(run)}.</>
        ) : (
          <>{describeTree(tree)}{tree.rest_tokens > 0 && ` ${tokens(tree.rest_tokens)} tokens are not drawn.`}</>
        )}
      </p>
    </>
  );
}
