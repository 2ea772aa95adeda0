// Candidates with their reasons: of a plan that was made, or of one that would be.

import { Badge, count, money, Plain, Table, type Column } from "../../kit";
import type { Choice } from "./shapes";
import { scoreOf } from "./words";

type Row = Omit<Choice, "tier"> & { tier?: number };

const COLUMNS: readonly Column<Row>[] = [
  { key: "place", title: "Place", cell: (one) => one.place ?? <Badge kind="warn">out</Badge> },
  { key: "target", title: "Target", cell: (one) => <Plain mono text={one.target} /> },
  { key: "why", title: "Why there", cell: (one) => <Why one={one} /> },
  { key: "tokens", title: "At most tokens", align: "end", cell: (one) => (one.place === null ? "–" : count(one.max_prompt_and_answer_tokens)) },
  { key: "cost", title: "At most", align: "end", cell: (one) => (one.place === null ? "–" : money(one.max_cost)) },
];

export function Choices({ label, choices }: { label: string; choices: readonly Row[] }) {
  return <Table label={label} columns={COLUMNS} rows={choices} rowKey={(one) => `${one.place} ${one.target}`} empty="No plan was made." />;
}

function Why({ one }: { one: Row }) {
  const scores = Object.entries(one.scores);
  return (
    <>
      {one.is_fallback && <Badge>fallback</Badge>} {one.tier ? <Badge>tier {one.tier}</Badge> : null}{" "}
      {one.reason && <Plain text={one.reason} />}
      {scores.length > 0 && (
        <span class="scores">{scores.map(([policy, value]) => `${policy}: ${scoreOf(policy, value)}`).join(" · ")}</span>
      )}
      {one.max_tokens !== null && <span class="scores">its answer is cut to {count(one.max_tokens)} tokens</span>}
    </>
  );
}
