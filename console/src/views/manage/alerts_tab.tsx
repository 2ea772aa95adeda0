// Alerts: what an operator should look at, and the flags that monitors raised, which can be taken back.

import { useEffect, useState } from "preact/hooks";
import { send } from "../../api";
import { Badge, Busy, Button, clockTime, confirm, navigate, percent, Plain, Table, toast, usePolled, useSession, type Column } from "../../kit";
import { may } from "../../session";
import { alertsOf, readMetrics, type Alert } from "./alerts";
import { ErrorBeside, Missing, useChange } from "./changing";
import type { Backend, Budget, Flag, List, Monitors } from "./types";

const EVERY_MS = 10_000;

export function Alerts() {
  const session = useSession();
  const monitors = usePolled<Monitors>("/v1/monitors", EVERY_MS);
  const backends = usePolled<List<Backend>>("/v1/gateway/backends", EVERY_MS);
  const budgets = usePolled<List<Budget>>(may(session, ["accounts", "observe"]) ? "/v1/accounts/budgets" : null, EVERY_MS);
  const metrics = useMetrics(may(session, ["metrics", "observe"]));
  const isReading = [monitors, backends].some((one) => one.data === null && one.error === null);
  const alerts = alertsOf({ monitors: monitors.data, backends: backends.data?.data ?? null, budgets: budgets.data?.data ?? null, metrics });
  return (
    <>
      <div class="manage-head"><h2>Alerts</h2></div>
      <div role="status">
        {isReading ? <Busy /> : alerts.length === 0 && <p>Nothing asks for attention.</p>}
      </div>
      {alerts.length > 0 && <ul class="manage-alerts" aria-label="Alerts">{alerts.map((one) => <Item key={one.id} of={one} />)}</ul>}
      <Flags monitors={monitors.data} error={monitors.error} reload={monitors.reload} />
    </>
  );
}

// Read as text while this is open: most of it is for other programs.
function useMetrics(isWanted: boolean): ReadonlyMap<string, number> | null {
  const [metrics, put] = useState<ReadonlyMap<string, number> | null>(null);
  useEffect(() => {
    if (!isWanted) return undefined;
    const own = new AbortController();
    send("/metrics", { signal: own.signal })
      .then((response) => response.text())
      .then((text) => put(readMetrics(text)), () => undefined); // what is lost is told by the other routes
    return () => own.abort();
  }, [isWanted]);
  return metrics;
}

function Item({ of: alert }: { of: Alert }) {
  return (
    <li class={alert.kind}>
      <strong>{alert.what}</strong>{alert.who && <>: <Plain text={alert.who} /></>}
      {alert.detail && <p class="hint"><Plain text={alert.detail} /></p>}
      {alert.tab === "budgets" && <p><Button onPress={() => navigate("manage/budgets")}>Look at budgets</Button></p>}
    </li>
  );
}

function Flags({ monitors, error, reload }: { monitors: Monitors | null; error: unknown; reload: () => void }) {
  const changes = may(useSession(), ["admin"]);
  const change = useChange();

  async function clear(flag: Flag): Promise<void> {
    const body = <p>All that monitors have against <Plain text={flag.account} /> is taken back, and they begin to count anew. That you did so is recorded.</p>;
    if (!(await confirm({ title: "Take these flags back?", body, action: "Take back", danger: true, typed: flag.account }))) return;
    const isDone = await change.run(async () => void (await send("/v1/monitors/clear", { body: { account: flag.account } })));
    if (isDone) toast(`Nothing is held against ${flag.account} any more.`, "good");
    reload();
  }

  const columns: Column<Flag>[] = [...FLAG_COLUMNS];
  if (changes) {
    columns.push({
      key: "change", title: "Change",
      cell: (one) => <span class="manage-buttons"><Button kind="danger" label={`Clear ${one.account}`} busy={change.isRunning} onPress={() => void clear(one)}>Clear</Button></span>,
    });
  }
  return (
    <>
      <div class="manage-head"><h2>Flags of monitors</h2></div>
      <ErrorBeside error={change.error} />
      {monitors === null ? error !== null && <Missing error={error} what="monitors: [theft] is off in its settings" /> : (
        <Table<Flag> label="Flags" columns={columns} rows={monitors.data} rowKey={(one) => `${one.account}\n${one.monitor}`} filter={(one) => `${one.account} ${one.monitor} ${one.reason}`} empty="No account is flagged." />
      )}
    </>
  );
}

const FLAG_COLUMNS: readonly Column<Flag>[] = [
  { key: "account", title: "Account", cell: (one) => <Plain text={one.account} />, sort: (a, b) => a.account.localeCompare(b.account) },
  { key: "monitor", title: "Monitor", cell: (one) => <Plain mono text={one.monitor} /> },
  { key: "action", title: "What follows", cell: (one) => (one.is_shadow ? <Badge>{one.action}, if enforced</Badge> : <Badge kind="warn">{one.action}</Badge>) },
  { key: "score", title: "Score", align: "end", cell: (one) => percent(one.score), sort: (a, b) => a.score - b.score },
  { key: "count", title: "Times", align: "end", cell: (one) => one.count, sort: (a, b) => a.count - b.count },
  { key: "last", title: "Last", cell: (one) => clockTime(one.last), sort: (a, b) => a.last - b.last },
  { key: "reason", title: "Why", cell: (one) => <Plain text={one.reason} /> },
];
