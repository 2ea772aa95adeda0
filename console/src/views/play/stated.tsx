// What a record states, as a table of words. Every value in it was written by a server, and some by whoever asked it.

import { Badge, Plain } from "../../kit";
import { canonicalText, type Json, type Table } from "./verify/json";
import type { Statement } from "./verify/statement";

export type Standing = "not verified yet" | "verified" | "could not be verified" | "not verified: do not go by it";

const KINDS = {
  "not verified yet": "info",
  verified: "good",
  "could not be verified": "warn",
  "not verified: do not go by it": "bad",
} as const;

export function Stated({ statement, standing }: { statement: Statement; standing: Standing }) {
  const { external, internal } = statement;
  const rows: [string, Json | undefined][] = [
    ["Node", statement.node],
    ["Began", statement.startedOn],
    ["Ended", statement.finishedOn],
    ["Asked model", external.get("model")],
    ["Parameters", external.get("parameters")],
    ["Way", internal.get("way")],
    ["Outcome", internal.get("outcome")],
    ["Engine", internal.get("engine")],
    ["On behalf of", internal.get("principal")],
    ["Label", internal.get("label")],
    ["Log", internal.get("log")],
    ["Number in its process", internal.get("sequence")],
  ];
  return (
    <section class="stated" aria-label="What the record states">
      <h4>What it states <Badge kind={KINDS[standing]}>{standing}</Badge></h4>
      <dl>
        {[...statement.digests].map(([name, digest]) => <Row key={`digest ${name}`} name={name} value={digest} />)}
        {rows.map(([name, value]) => value !== undefined && <Row key={name} name={name} value={value} />)}
      </dl>
      <Listed title="Decisions of policies" values={internal.get("decisions")} />
      <Listed title="Tools that were called" values={internal.get("tools")} />
      <Listed title="What monitors said" values={internal.get("verdicts")} />
    </section>
  );
}

function Row({ name, value }: { name: string; value: Json }) {
  return (
    <>
      <dt><Plain text={name} /></dt>
      <dd>{value instanceof Map && value.size > 0 ? <Pairs table={value} /> : <Plain mono text={wordOf(value)} />}</dd>
    </>
  );
}

function Pairs({ table }: { table: Table }) {
  return (
    <ul>
      {[...table].map(([name, value]) => <li key={name}><Plain text={name} />: <Plain mono text={wordOf(value)} /></li>)}
    </ul>
  );
}

function Listed({ title, values }: { title: string; values: Json | undefined }) {
  if (!Array.isArray(values) || values.length === 0) return null;
  return (
    <details open>
      <summary>{title} ({values.length})</summary>
      <ol>
        {values.map((value, at) => (
          <li key={at}>{value instanceof Map ? <Pairs table={value} /> : <Plain mono text={wordOf(value)} />}</li>
        ))}
      </ol>
    </details>
  );
}

function wordOf(value: Json): string {
  if (typeof value === "string") return value;
  try {
    return canonicalText(value);
  } catch {
    return "a value that cannot be told";
  }
}
