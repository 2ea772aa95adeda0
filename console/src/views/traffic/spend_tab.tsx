// Budgets and what is spent: where each stands now, and the usage of the last days.

import { useMemo, useState } from "preact/hooks";
import {
  Badge, Chart, clockTime, count, Meter, money, Notice, Plain, Select, Table, tokens, usePolled, type Column,
} from "../../kit";
import { Cards } from "./cards";
import { filtersOf, requestsOf } from "./filters";
import { Read } from "./read";
import type { Budget, BudgetStanding, List, UsageSum } from "./shapes";
import { daily, firstDay, GROUPS, isSpent, largestOf, measures, PERIODS, type Group, type Measure, type Period } from "./spend";

const EVERY_MS = 10_000;

export function Spend() {
  return (
    <>
      <Budgets />
      <Usage />
    </>
  );
}

function Budgets() {
  const read = usePolled<List<Budget>>("/v1/accounts/budgets", EVERY_MS);
  return (
    <section aria-label="Budgets">
      <h2>Budgets</h2>
      <Read of={read} what="the budgets">
        {({ data }) => (data.length === 0 ? <NoBudgets /> : (
          <Cards what="budgets" items={data} name={(one) => `${one.name} ${one.subject}`}>
            {(one) => <BudgetCard key={one.name} budget={one} />}
          </Cards>
        ))}
      </Read>
    </section>
  );
}

function NoBudgets() {
  return (
    <Notice title="No budgets are set">
      <p>
        Nobody is held back by what they spend. A budget is made under <a href="/console/manage">Manage</a>, or in the settings
        file: <code>[[budgets]]</code> with a subject such as <code>key:*</code>, a window such as <code>month</code>, and money
        or tokens.
      </p>
    </Notice>
  );
}

function BudgetCard({ budget }: { budget: Budget }) {
  return (
    <article class="card" aria-label={`Budget ${budget.name}`}>
      <header>
        <h3><Plain text={budget.name} /></h3>
        <Badge><Plain text={budget.subject} /></Badge>
        <Badge>{budget.window === "total" ? "in all" : `each ${budget.window}`}</Badge>
        {budget.is_fixed && <Badge>of the settings file</Badge>}
      </header>
      {budget.standings.length === 0 && <p class="empty">Nothing was spent in this window.</p>}
      {budget.standings.map((one) => <Standing key={one.subject} budget={budget} standing={one} />)}
      {budget.has_more && <p class="hint">These have spent most; there are more.</p>}
    </article>
  );
}

// Requests that a budget of somebody refused are among those of its subject.
function Refused({ subject }: { subject: string }) {
  const of = filtersOf(subject);
  return of && <a href={requestsOf({ ...of, which: "failed" })}>What was refused</a>;
}

function Standing({ budget, standing }: { budget: Budget; standing: BudgetStanding }) {
  return (
    <div class="standing">
      {measures(budget, standing).map((one) => (
        <Meter key={one.kind} label={standing.subject} value={one.spent + one.reserved} max={one.limit} text={stands(one)} warnAt={0.8} />
      ))}
      <p class="hint">
        {isSpent(standing) && <><Badge kind="bad">used up: requests are refused</Badge> </>}
        {standing.resets_at === null ? "Never begins anew." : `Begins anew ${clockTime(standing.resets_at)}.`}{" "}
        <Refused subject={standing.subject} />
      </p>
    </div>
  );
}

function stands({ kind, spent, reserved, limit }: Measure): string {
  const format = kind === "money" ? money : (value: number) => `${tokens(value)} tokens`;
  const held = reserved > 0 ? `, ${format(reserved)} set aside` : "";
  return `${format(spent)} of ${format(limit)}${held}`;
}

const PERIOD_TITLES = PERIODS.map((value) => ({ value, title: `${value} days` }));

function Usage() {
  const [period, setPeriod] = useState<Period>("30");
  const [group, setGroup] = useState<Group>("key");
  const now_s = Date.now() / 1000;
  const since = firstDay(period, now_s);
  const days = usePolled<List<UsageSum>>(`/v1/accounts/usage?by=day&since=${since}`, EVERY_MS);
  const groups = usePolled<List<UsageSum>>(`/v1/accounts/usage?by=${group}&since=${since}`, EVERY_MS);
  const largest = usePolled<List<UsageSum>>(`/v1/accounts/usage?by=day,${group}&since=${since}`, EVERY_MS);
  return (
    <section aria-label="Usage">
      <h2>Spend</h2>
      <div class="row-form">
        <Select label="Period" value={period} options={PERIOD_TITLES} onChange={setPeriod} />
        <Select label="Sums by" value={group} options={GROUPS} onChange={setGroup} />
      </div>
      <Read of={days} what="the usage">{({ data }) => <Days sums={data} period={period} />}</Read>
      {largest.data && largest.data.data.length > 0 && <Largest sums={largest.data.data} period={period} group={group} />}
      <Read of={groups} what="the sums">{({ data }) => <Groups sums={data} group={group} />}</Read>
    </section>
  );
}

const COST = [{ label: "Cost in dollars", format: money }];
const TOKENS = [{ label: "Input", format: tokens }, { label: "Output", colour: "good", format: tokens }];
const REQUESTS = [{ label: "Requests", format: count }, { label: "Failed", colour: "bad", format: count }];

const asDay = (unixS: number) => new Date(unixS * 1000).toISOString().slice(5, 10);

function Days({ sums, period }: { sums: readonly UsageSum[]; period: Period }) {
  const days = useMemo(() => daily(sums, period, Date.now() / 1000), [sums, period]);
  const cost = useMemo(() => [days.at, days.cost], [days]);
  const both = useMemo(() => [days.at, days.prompt, days.completion], [days]);
  const requests = useMemo(() => [days.at, days.requests, days.failed], [days]);
  return (
    <div class="charts">
      <Chart label="Cost a day (UTC)" kind="bars" series={COST} data={cost} formatX={asDay} />
      <Chart label="Tokens a day" series={TOKENS} data={both} formatX={asDay} />
      <Chart label="Requests a day" series={REQUESTS} data={requests} formatX={asDay} />
    </div>
  );
}

function Largest({ sums, period, group }: { sums: readonly UsageSum[]; period: Period; group: Group }) {
  const { at, names, costs } = useMemo(() => largestOf(sums, period, group, Date.now() / 1000), [sums, period, group]);
  const series = useMemo(() => names.map((label) => ({ label, format: money })), [names]);
  const data = useMemo(() => [at, ...costs], [at, costs]);
  return <Chart label={`Cost a day by ${group}, the largest`} series={series} data={data} formatX={asDay} />;
}

function Groups({ sums, group }: { sums: readonly UsageSum[]; group: Group }) {
  const all = sums.reduce((total, one) => total + one.cost, 0);
  const columns: readonly Column<UsageSum>[] = [
    { key: "name", title: group, cell: (one) => <Plain text={one.group[group] || "–"} />, sort: (a, b) => (a.group[group] ?? "").localeCompare(b.group[group] ?? "") },
    { key: "cost", title: "Cost", align: "end", cell: (one) => money(one.cost), sort: (a, b) => a.cost - b.cost },
    { key: "share", title: "Of all", align: "end", cell: (one) => (all > 0 ? `${Math.round((100 * one.cost) / all)} %` : "–") },
    { key: "requests", title: "Requests", align: "end", cell: (one) => count(one.num_requests), sort: (a, b) => a.num_requests - b.num_requests },
    { key: "failed", title: "Failed", align: "end", cell: (one) => count(one.num_failed), sort: (a, b) => a.num_failed - b.num_failed },
    { key: "input", title: "Input", align: "end", cell: (one) => tokens(one.prompt_tokens), sort: (a, b) => a.prompt_tokens - b.prompt_tokens },
    { key: "cached", title: "Cached", align: "end", cell: (one) => tokens(one.cached_tokens), sort: (a, b) => a.cached_tokens - b.cached_tokens },
    { key: "output", title: "Output", align: "end", cell: (one) => tokens(one.completion_tokens), sort: (a, b) => a.completion_tokens - b.completion_tokens },
    { key: "saved", title: "Saved", align: "end", cell: (one) => money(one.saved), sort: (a, b) => a.saved - b.saved },
  ];
  return (
    <Table
      label={`Usage by ${group}`}
      columns={columns}
      rows={sums}
      rowKey={(one) => one.group[group] ?? ""}
      filter={(one) => one.group[group] ?? ""}
      empty="Nothing was used in this time."
    />
  );
}
