// The last requests, newest first: followed as they end, filtered, and each one opened.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { fetchJson } from "../../api";
import {
  Badge, Button, Checkbox, clockTime, ErrorNotice, money, navigate, Notice, Plain, seconds, Select, Table, TextInput, tokens,
  usePolled, type Column, Field,
} from "../../kit";
import { addressOf, apiPath, joined, NONE, readFilters, TEXTS, WHICH, type Filters, type Which } from "./filters";
import { Read } from "./read";
import type { Brief, Briefs } from "./shapes";
import { orDash, outcomeOf, toneOf, wayOf } from "./words";

const EVERY_MS = 2000;
const PAGE = 100;
const SETTLE_MS = 300;

const TITLES: Record<Which, string> = {
  all: "All", ok: "Answered", failed: "Failed or refused", cancelled: "Left by their reader", slow: "Slow",
};

export function Requests() {
  const [filters, change] = useState<Filters>(() => readFilters(location.search));
  const [settled, settle] = useState(filters);
  const [isLive, setLive] = useState(true);
  useEffect(() => {
    const timer = setTimeout(() => {
      settle(filters);
      // Only where something was changed: rewriting the address takes back a step back that is on its way.
      const address = `/console/${addressOf(filters)}`;
      if (address !== location.pathname + location.search) navigate(addressOf(filters), { replace: true });
    }, SETTLE_MS);
    return () => clearTimeout(timer);
  }, [filters]);
  // Whoever comes back finds what was filled in, even if it had not settled.
  const latest = useRef(filters);
  latest.current = filters;
  const open = (one: Brief) => {
    navigate(addressOf(latest.current), { replace: true });
    navigate(`traffic/requests/${encodeURIComponent(one.id)}`);
  };
  return (
    <>
      <form class="row-form" role="search" aria-label="Which requests" onSubmit={(event) => event.preventDefault()}>
        <Select
          label="Show"
          value={filters.which}
          options={WHICH.map((value) => ({ value, title: TITLES[value] }))}
          onChange={(which) => change({ ...filters, which })}
        />
        {TEXTS.map((name) => (
          <Field key={name} label={name[0]!.toUpperCase() + name.slice(1)}>
            <TextInput type="search" value={filters[name]} onChange={(value) => change({ ...filters, [name]: value })} />
          </Field>
        ))}
        <Checkbox label="Follow" checked={isLive} onChange={setLive} />
        <Button onPress={() => change(NONE)}>Clear</Button>
      </form>
      <List key={JSON.stringify(settled)} filters={settled} isLive={isLive} onOpen={open} />
    </>
  );
}

interface ListProps {
  filters: Filters;
  isLive: boolean;
  onOpen: (one: Brief) => void;
}

function List({ filters, isLive, onOpen }: ListProps) {
  const read = usePolled<Briefs>(apiPath(filters, { limit: PAGE }), isLive ? EVERY_MS : Infinity);
  const [rows, setRows] = useState<Brief[]>([]);
  const [older, setOlder] = useState<{ isBusy: boolean; error: unknown; hasMore: boolean | null }>({ isBusy: false, error: null, hasMore: null });
  const page = read.data;
  useEffect(() => {
    if (page) setRows((known) => joined(page.data, known, page.has_more));
  }, [page]);

  async function more(): Promise<void> {
    const after = rows.at(-1)?.number ?? null;
    setOlder({ ...older, isBusy: true });
    try {
      const next = await fetchJson<Briefs>(apiPath(filters, { limit: PAGE, after }));
      setRows((known) => [...known, ...next.data.filter((one) => one.number < (known.at(-1)?.number ?? Infinity))]);
      setOlder({ isBusy: false, error: null, hasMore: next.has_more });
    } catch (error) {
      setOlder({ ...older, isBusy: false, error });
    }
  }

  // Drawn again where there is something new, and not with every look.
  const noneText = page?.num_kept === 0 ? "No request was made yet." : "None of the requests that are kept is like this.";
  const table = useMemo(
    () => (
      <Table
        label="Requests"
        columns={COLUMNS}
        rows={rows}
        rowKey={(one) => String(one.number)}
        onOpen={onOpen}
        openLabel={(one) => `Open the request of ${clockTime(one.started)}, ${outcomeOf(one.outcome)}`}
        empty={noneText}
      />
    ),
    [rows, noneText],
  );
  return (
    <Read of={read} what="the requests">
      {(data) => (data.max_kept === 0 ? <NoneKept /> : (
        <>
          {table}
          {older.error !== null && <ErrorNotice error={older.error} />}
          {(older.hasMore ?? data.has_more) && <div class="actions"><Button onPress={() => void more()} busy={older.isBusy}>Older ones</Button></div>}
          <p class="hint">
            {data.num_kept} are kept: the newest {data.max_kept}, and failed ones and slow ones (from {seconds(data.slow_s)} on) a
            while longer. Their prompts and answers are not.
          </p>
        </>
      ))}
    </Read>
  );
}

function NoneKept() {
  return (
    <Notice title="No requests are kept">
      <p>The settings say <code>kept_requests = 0</code>. Set how many to keep, and have the settings read again.</p>
    </Notice>
  );
}

const COLUMNS: readonly Column<Brief>[] = [
  { key: "time", title: "Began", cell: (one) => clockTime(one.started) },
  { key: "outcome", title: "Outcome", cell: (one) => <Outcome one={one} /> },
  { key: "asked", title: "Asked for", cell: (one) => <Plain mono text={one.asked_model} /> },
  { key: "way", title: "Went to", cell: (one) => <Plain text={wayOf(one)} /> },
  { key: "who", title: "Who", cell: (one) => <Plain text={whoOf(one)} /> },
  { key: "first", title: "First token", align: "end", cell: (one) => orDash(one.first_s, seconds) },
  { key: "whole", title: "In all", align: "end", cell: (one) => seconds(one.whole_s) },
  { key: "tokens", title: "Tokens", align: "end", cell: (one) => `${tokens(one.prompt_tokens)} + ${tokens(one.completion_tokens)}` },
  { key: "cost", title: "Cost", align: "end", cell: (one) => money(one.cost) },
];

export function whoOf(one: Brief): string {
  return [one.tenant, one.key, one.user].filter(Boolean).join(" · ");
}

export function Outcome({ one }: { one: Brief }) {
  return (
    <>
      <Badge kind={toneOf(one.outcome)}>{outcomeOf(one.outcome)}</Badge>
      {one.is_slow && <> <Badge kind="warn">slow</Badge></>}
      {one.cache && <> <Badge kind="good">cached</Badge></>}
    </>
  );
}
