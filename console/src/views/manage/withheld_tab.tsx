// Calls that the guard of tools withheld, each of which whoever may endorse can let pass, and what is let pass now.

import { useState } from "preact/hooks";
import { send } from "../../api";
import { Badge, Busy, Button, clockTime, confirm, Plain, Table, toast, usePolled, type Column } from "../../kit";
import { AllowDialog } from "./allow_form";
import { ErrorBeside, Missing, useChange } from "./changing";
import type { Endorsement, List, Withheld } from "./types";
import { isAllowed, PATH, timesText, valueText } from "./withheld";

const EVERY_MS = 5000;

export function WithheldCalls() {
  const calls = usePolled<List<Withheld>>(`${PATH}/withheld`, EVERY_MS);
  const inForce = usePolled<List<Endorsement>>(PATH, EVERY_MS);
  const [opened, open] = useState<Withheld | null>(null);
  const reload = () => {
    calls.reload();
    inForce.reload();
  };
  if (calls.data === null) return calls.error === null ? <Busy /> : <Missing error={calls.error} what="guard of tools: [flow] is off in its settings" />;
  const known = inForce.data?.data ?? [];
  const columns: Column<Withheld>[] = [
    ...COLUMNS,
    { key: "state", title: "State", cell: (one) => (isAllowed(one, known) ? <Badge kind="warn">the next passes</Badge> : <Badge>withheld</Badge>) },
  ];
  return (
    <>
      <div class="manage-head"><h2>Withheld calls</h2></div>
      <p class="hint">Calls of tools that the guard kept back in the last hour, because nobody trusted has said what they do. Their texts are a model’s: read them before you let one pass.</p>
      <Table<Withheld>
        label="Withheld calls"
        columns={columns}
        rows={[...calls.data.data].reverse()}
        rowKey={(one) => `${one.call}\n${one.subject}\n${one.session ?? ""}`}
        onOpen={open}
        openLabel={(one) => `${clockTime(one.withheld_at)}: ${one.tool}`}
        filter={(one) => `${one.tool} ${one.arguments} ${one.subject} ${one.session ?? ""} ${one.policies.join(" ")}`}
        empty="No call was withheld in the last hour."
      />
      {opened !== null && <AllowDialog call={opened} onClose={() => open(null)} onDone={reload} />}
      {inForce.data === null ? (inForce.error === null ? <Busy /> : <Missing error={inForce.error} what="endorsements" />) : <InForce rows={known} reload={reload} />}
    </>
  );
}

const COLUMNS: readonly Column<Withheld>[] = [
  { key: "when", title: "When", cell: (one) => clockTime(one.withheld_at), sort: (a, b) => a.withheld_at - b.withheld_at },
  { key: "tool", title: "Tool", cell: (one) => <Plain mono text={one.tool} />, sort: (a, b) => a.tool.localeCompare(b.tool) },
  { key: "doubt", title: "In doubt", cell: (one) => <Plain mono text={one.in_doubt.map((doubt) => doubt.argument).join(", ") || "—"} /> },
  { key: "why", title: "Why", cell: (one) => <><Plain text={one.reason || "—"} />{one.policies.length > 0 && <span class="hint"> <Plain mono text={one.policies.join(", ")} /></span>}</> },
  { key: "who", title: "Who asked", cell: (one) => <><Plain text={one.subject || "—"} />{one.session !== null && <>, session <Plain text={one.session} /></>}</> },
];

function InForce({ rows, reload }: { rows: readonly Endorsement[]; reload: () => void }) {
  const change = useChange();

  async function withdraw(one: Endorsement): Promise<void> {
    const body = <p>Calls of <Plain mono text={one.tool} /> that it let pass are withheld again, from the next one on. What has passed stays done.</p>;
    if (!(await confirm({ title: "Withdraw this endorsement?", body, action: "Withdraw", danger: true }))) return;
    const isDone = await change.run(async () => void (await send(`${PATH}/${encodeURIComponent(one.id)}`, { method: "DELETE" })));
    if (isDone) toast(`Withdrawn: ${one.tool} is let pass by it no more.`, "good");
    reload();
  }

  const columns: Column<Endorsement>[] = [
    ...IN_FORCE_COLUMNS,
    {
      key: "change", title: "Change",
      cell: (one) => <span class="manage-buttons"><Button kind="danger" label={`Withdraw ${one.tool}, ${one.id}`} busy={change.isRunning} onPress={() => void withdraw(one)}>Withdraw</Button></span>,
    },
  ];
  return (
    <>
      <div class="manage-head"><h2>What is let pass</h2></div>
      <ErrorBeside error={change.error} />
      <Table<Endorsement> label="Endorsements" columns={columns} rows={rows} rowKey={(one) => one.id} filter={(one) => `${one.tool} ${one.by} ${one.subject ?? ""} ${one.reason}`} empty="No endorsement is in force." />
    </>
  );
}

const IN_FORCE_COLUMNS: readonly Column<Endorsement>[] = [
  { key: "tool", title: "Tool", cell: (one) => <Plain mono text={one.tool} />, sort: (a, b) => a.tool.localeCompare(b.tool) },
  { key: "what", title: "What", cell: (one) => (one.call === null ? <><Plain mono text={one.argument ?? ""} />: <Plain mono text={valueText(one.value)} /></> : <>one call, <Plain mono text={one.call} /></>) },
  { key: "whom", title: "For whom", cell: (one) => <>{one.subject === null ? "everybody" : <Plain text={one.subject} />}{one.session !== null && <>, session <Plain text={one.session} /></>}</> },
  { key: "left", title: "Uses left", cell: (one) => timesText(one.uses_left) },
  { key: "used", title: "Used", align: "end", cell: (one) => one.num_used },
  { key: "ends", title: "Ends", cell: (one) => clockTime(one.expires_at), sort: (a, b) => a.expires_at - b.expires_at },
  { key: "by", title: "By", cell: (one) => <><Plain text={one.by} />{one.reason && <span class="hint"> <Plain text={one.reason} /></span>}</> },
];
