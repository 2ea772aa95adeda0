// What administrators did, as the server remembers it.

import { useEffect, useState } from "preact/hooks";
import { Badge, Busy, Button, clockTime, Dialog, Field, Plain, seconds, Select, Table, TextInput, usePolled, type Column, type Kind } from "../../kit";
import { Missing } from "./changing";
import type { Action, Actions as ActionsAnswer, Outcome } from "./types";

const PAGE = 100;
const EVERY_MS = 10_000;
const OUTCOMES = [
  { value: "", title: "any" },
  { value: "done", title: "done" },
  { value: "refused", title: "refused" },
  { value: "failed", title: "failed" },
  { value: "unknown", title: "unknown" },
  { value: "begun", title: "going on" },
] as const;
const KINDS: Record<Outcome, Kind> = { begun: "info", done: "good", refused: "warn", failed: "bad", unknown: "bad" };

interface Filter {
  who: string;
  action: string;
  target: string;
  outcome: (typeof OUTCOMES)[number]["value"];
}

function pathOf(filter: Filter, after: number | null): string {
  const query = new URLSearchParams({ limit: String(PAGE) });
  for (const [name, value] of Object.entries(filter)) if (value.trim()) query.set(name, value.trim());
  if (after !== null) query.set("after", String(after));
  return `/v1/admin/actions?${query}`;
}

export function Actions() {
  const [filter, put] = useState<Filter>({ who: "", action: "", target: "", outcome: "" });
  const [after, turn] = useState<(number | null)[]>([null]); // where the pages begin, this one's last
  const wanted = useSettled(filter);
  const page = after[after.length - 1]!;
  const { data, error } = usePolled<ActionsAnswer>(pathOf(wanted, page), page === null ? EVERY_MS : Infinity);
  const [opened, open] = useState<Action | null>(null);
  const change = (part: Partial<Filter>) => {
    put({ ...filter, ...part });
    turn([null]);
  };
  return (
    <>
      <div class="manage-head"><h2>What administrators did</h2></div>
      <div class="manage-filter">
        <Field label="Who" hint="a key, subject or tenant"><TextInput value={filter.who} onChange={(who) => change({ who })} /></Field>
        <Field label="Action" hint="its beginning is enough"><TextInput value={filter.action} onChange={(action) => change({ action })} /></Field>
        <Field label="To what"><TextInput value={filter.target} onChange={(target) => change({ target })} /></Field>
        <Select label="Outcome" value={filter.outcome} options={OUTCOMES} onChange={(outcome) => change({ outcome })} />
      </div>
      {data === null ? (error === null ? <Busy /> : <Missing error={error} what="list of actions" />) : (
        <>
          <Table<Action>
            label="Actions"
            columns={COLUMNS}
            rows={data.data}
            rowKey={(one) => one.id}
            onOpen={open}
            openLabel={(one) => `${clockTime(one.begun)}: ${one.action} ${one.target}`}
            empty="Nothing of that kind was done."
          />
          <div class="actions">
            <Button disabled={after.length < 2} onPress={() => turn(after.slice(0, -1))}>Newer</Button>
            <Button disabled={!data.has_more} onPress={() => turn([...after, data.last])}>Older</Button>
          </div>
        </>
      )}
      <Dialog title="An action" open={opened !== null} onClose={() => open(null)}>{opened && <Facts of={opened} />}</Dialog>
    </>
  );
}

const WAIT_MS = 250;

// What was typed, once nothing has been typed for a moment.
function useSettled<T>(value: T): T {
  const [settled, settle] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => settle(value), WAIT_MS);
    return () => clearTimeout(timer);
  }, [value]);
  return settled;
}

const nameOf = (one: Action) => (one.is_erased ? "(erased)" : one.who.key || one.who.subject || one.who.tenant);

const COLUMNS: readonly Column<Action>[] = [
  { key: "begun", title: "Begun", cell: (one) => clockTime(one.begun) },
  { key: "who", title: "Who", cell: (one) => <Plain text={nameOf(one)} /> },
  { key: "through", title: "Through", cell: (one) => one.who.through },
  { key: "action", title: "Action", cell: (one) => <Plain mono text={one.action} /> },
  { key: "target", title: "To what", cell: (one) => <Plain text={one.target} /> },
  { key: "outcome", title: "Outcome", cell: (one) => <><Badge kind={KINDS[one.outcome]}>{one.outcome === "begun" ? "going on" : one.outcome}</Badge> {one.code && <Plain mono text={one.code} />}</> },
];

function Facts({ of: action }: { of: Action }) {
  const entries = [action.begun_index, action.ended_index].filter((one) => one !== null);
  return (
    <dl class="manage-facts">
      <dt>Action</dt><dd><Plain mono text={action.action} /></dd>
      <dt>To what</dt><dd><Plain text={action.target || "—"} /></dd>
      <dt>Who</dt><dd><Plain text={nameOf(action)} /> of <Plain text={action.who.tenant || "—"} />, through {action.who.through}</dd>
      <dt>Begun</dt><dd>{clockTime(action.begun)}</dd>
      <dt>Ended</dt><dd>{action.ended === null ? "not known" : `${clockTime(action.ended)}, after ${seconds(Math.max(0, action.ended - action.begun))}`}</dd>
      <dt>Outcome</dt><dd>{action.outcome}{action.code && <>: <Plain mono text={action.code} /></>}</dd>
      <dt>What was asked</dt><dd><div class="manage-code"><Plain mono text={JSON.stringify(action.asked, null, 2)} /></div></dd>
      <dt>Request</dt><dd><Plain mono text={action.request_id || "—"} /></dd>
      <dt>In the log</dt><dd>{entries.length ? `entries ${entries.join(" and ")}` : "not there, or there is no log"}</dd>
    </dl>
  );
}
