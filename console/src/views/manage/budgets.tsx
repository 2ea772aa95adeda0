// Budgets and where they stand, and limits.

import { useState } from "preact/hooks";
import { send } from "../../api";
import { Badge, Busy, Button, clockTime, confirm, Meter, money, Plain, Table, toast, tokens, usePolled, useSession, type Column } from "../../kit";
import { may } from "../../session";
import { boundOf } from "./alerts";
import { ErrorBeside, Missing, useChange, type Change } from "./changing";
import { BudgetDialog, LimitDialog } from "./rule_forms";
import type { Budget, Limit, List, Standing } from "./types";

const BUDGETS = "/v1/accounts/budgets";
const LIMITS = "/v1/accounts/limits";
const EVERY_MS = 5_000;

export function Budgets() {
  return (
    <>
      <BudgetList />
      <LimitList />
    </>
  );
}

interface Row {
  budget: Budget;
  standing: Standing | null;
}

// A row for each subject that a budget has counted; one for a budget that has counted nobody yet.
function rowsOf(budgets: readonly Budget[]): Row[] {
  return budgets.flatMap<Row>((budget) => {
    if (budget.standings.length === 0) return [{ budget, standing: null }];
    return budget.standings.map((standing) => ({ budget, standing }));
  });
}

function BudgetList() {
  const changes = may(useSession(), ["accounts"]);
  const { data, error, reload } = usePolled<List<Budget>>(BUDGETS, EVERY_MS);
  const [edited, edit] = useState<Budget | "new" | null>(null);
  const change = useChange();
  if (data === null) return error === null ? <Busy /> : <Missing error={error} what="budgets" />;
  const columns: Column<Row>[] = changes
    ? [...BUDGET_COLUMNS, { key: "change", title: "Change", cell: ({ budget }) => <Buttons kind="budget" of={budget} change={change} reload={reload} onEdit={() => edit(budget)} /> }]
    : [...BUDGET_COLUMNS];
  return (
    <>
      <div class="manage-head">
        <h2>Budgets</h2>
        {changes && <Button kind="main" onPress={() => edit("new")}>Set a budget</Button>}
      </div>
      <ErrorBeside error={change.error} />
      <Table<Row>
        label="Budgets"
        columns={columns}
        rows={rowsOf(data.data)}
        rowKey={({ budget, standing }) => `${budget.name}\n${standing?.subject ?? ""}`}
        filter={({ budget, standing }) => `${budget.name} ${budget.subject} ${standing?.subject ?? ""}`}
        empty="No budgets: nobody is held to what a request costs."
      />
      {edited !== null && <BudgetDialog budget={edited === "new" ? null : edited} onClose={() => edit(null)} onDone={reload} />}
    </>
  );
}

const BUDGET_COLUMNS: readonly Column<Row>[] = [
  { key: "name", title: "Budget", cell: ({ budget }) => <><Plain text={budget.name} /> {budget.is_fixed && <Badge>settings file</Badge>}</>, sort: (a, b) => a.budget.name.localeCompare(b.budget.name) },
  { key: "subject", title: "Of whom", cell: ({ budget, standing }) => <Plain text={standing?.subject ?? budget.subject} /> },
  { key: "bound", title: "Bound", cell: ({ budget }) => `${boundOf(budget)}, ${budget.window === "total" ? "in all" : `each ${budget.window}`}` },
  { key: "use", title: "Spent and reserved", cell: (row) => <Use {...row} /> },
  { key: "resets", title: "Begins anew", cell: ({ standing }) => (standing?.resets_at == null ? "—" : clockTime(standing.resets_at)) },
];

function Use({ budget, standing }: Row) {
  const spent = standing?.spent ?? 0;
  const reserved = standing?.reserved ?? 0;
  const used = (standing?.spent_tokens ?? 0) + (standing?.reserved_tokens ?? 0);
  return (
    <div class="manage-use">
      {budget.money !== null && (
        <Meter
          label="Dollars"
          value={spent + reserved}
          max={budget.money}
          text={`${money(spent)} spent, ${money(reserved)} reserved, ${money(standing?.left ?? budget.money)} left`}
        />
      )}
      {budget.tokens !== null && (
        <Meter
          label="Tokens"
          value={used}
          max={budget.tokens}
          text={`${tokens(used)} used, ${tokens(standing?.left_tokens ?? budget.tokens)} left`}
        />
      )}
    </div>
  );
}

function LimitList() {
  const changes = may(useSession(), ["accounts"]);
  const { data, error, reload } = usePolled<List<Limit>>(LIMITS, 3 * EVERY_MS);
  const [edited, edit] = useState<Limit | "new" | null>(null);
  const change = useChange();
  if (data === null) return error === null ? <Busy /> : <Missing error={error} what="limits" />;
  const columns: Column<Limit>[] = changes
    ? [...LIMIT_COLUMNS, { key: "change", title: "Change", cell: (limit) => <Buttons kind="limit" of={limit} change={change} reload={reload} onEdit={() => edit(limit)} /> }]
    : [...LIMIT_COLUMNS];
  return (
    <>
      <div class="manage-head">
        <h2>Limits</h2>
        {changes && <Button kind="main" onPress={() => edit("new")}>Set a limit</Button>}
      </div>
      <ErrorBeside error={change.error} />
      <Table<Limit>
        label="Limits"
        columns={columns}
        rows={data.data}
        rowKey={(limit) => limit.name}
        filter={(limit) => `${limit.name} ${limit.subject}`}
        empty="No limits: nobody is held to a number of requests or tokens a minute."
      />
      {edited !== null && <LimitDialog limit={edited === "new" ? null : edited} onClose={() => edit(null)} onDone={reload} />}
    </>
  );
}

const bound = (value: number | null) => (value === null ? "—" : tokens(value));

const LIMIT_COLUMNS: readonly Column<Limit>[] = [
  { key: "name", title: "Limit", cell: (limit) => <><Plain text={limit.name} /> {limit.is_fixed && <Badge>settings file</Badge>}</>, sort: (a, b) => a.name.localeCompare(b.name) },
  { key: "subject", title: "Of whom", cell: (limit) => <Plain text={limit.subject} /> },
  { key: "requests", title: "Requests a minute", align: "end", cell: (limit) => bound(limit.requests_per_minute) },
  { key: "tokens", title: "Tokens a minute", align: "end", cell: (limit) => bound(limit.tokens_per_minute) },
  { key: "concurrency", title: "At once", align: "end", cell: (limit) => bound(limit.concurrency) },
];

interface ButtonsProps {
  kind: "budget" | "limit";
  of: { name: string; subject: string; is_fixed: boolean };
  change: Change;
  reload: () => void;
  onEdit: () => void;
}

function Buttons({ kind, of: rule, change, reload, onEdit }: ButtonsProps) {
  if (rule.is_fixed) return <span class="hint">in the settings file</span>;

  async function remove(): Promise<void> {
    const body = <p><Plain text={rule.name} /> does not hold <Plain text={rule.subject} /> any more from the next request on.</p>;
    if (!(await confirm({ title: `Remove this ${kind}?`, body, action: "Remove", danger: true }))) return;
    const path = `${kind === "budget" ? BUDGETS : LIMITS}/${encodeURIComponent(rule.name)}`;
    const isDone = await change.run(async () => void (await send(path, { method: "DELETE" })));
    if (isDone) toast(`Removed the ${kind} ${rule.name}.`, "good");
    reload();
  }

  return (
    <span class="manage-buttons">
      <Button label={`Change ${rule.name}`} onPress={onEdit}>Change</Button>
      <Button kind="danger" label={`Remove ${rule.name}`} busy={change.isRunning} onPress={() => void remove()}>Remove</Button>
    </span>
  );
}
