// One request's way, drawn: who asked, which route, which candidates and why, each attempt on an axis of time, what came of
// it and what it cost.

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { fetchJson } from "../../api";
import {
  Badge, Button, clockTime, count, ErrorNotice, money, Notice, Plain, seconds, Table, tokens, usePolled, useSession, type Column,
} from "../../kit";
import { may } from "../../session";
import { Attempts } from "./attempts";
import { Choices } from "./choices";
import { Told, useExplanation } from "./explain";
import { Read } from "./read";
import { Outcome } from "./requests";
import type { Brief, Path } from "./shapes";
import { outcomeOf } from "./words";

export function RequestPath({ id }: { id: string }) {
  const read = usePolled<Path>(`/v1/gateway/requests/${encodeURIComponent(id)}`, Infinity);
  return (
    <div class="traffic path">
      <p><a href="/console/traffic/requests">← All requests</a></p>
      <h1>One request</h1>
      <p class="hint"><Plain mono text={id} /></p>
      <Read of={read} what="the request">{(path) => <Stages path={path} />}</Read>
    </div>
  );
}

function Stages({ path }: { path: Path }) {
  const { request } = path;
  return (
    <>
      <ol class="stages">
        <Stage name="Who asked"><Who one={request} /></Stage>
        <Stage name="Where it led"><Route path={path} /></Stage>
        <Stage name="Who was considered" isWide>
          <Choices label="Candidates, in order" choices={path.choices} />
          {path.shadow !== null && (
            <p class="hint">
              A copy for the shadow <Plain mono text={path.shadow} />:{" "}
              <a href={`/console/traffic/requests/${encodeURIComponent(`${request.id}.shadow`)}`}>its path</a>.
            </p>
          )}
          <Overseers path={path} />
        </Stage>
        <Stage name="What was tried" isWide>
          {path.steps.length > 0 ? <Attempts path={path} /> : <Untried path={path} />}
        </Stage>
        <Stage name="What came of it"><End path={path} /></Stage>
        <Stage name="What it cost"><Cost path={path} /></Stage>
      </ol>
      <Record one={request} />
      <Now one={request} />
    </>
  );
}

function Stage({ name, isWide = false, children }: { name: string; isWide?: boolean; children: ComponentChildren }) {
  return <li class={isWide ? "card wide" : "card"}><h2>{name}</h2>{children}</li>;
}

function Facts({ facts }: { facts: [string, ComponentChildren][] }) {
  return <dl class="told-facts">{facts.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}</dl>;
}

function Who({ one }: { one: Brief }) {
  const facts: [string, ComponentChildren][] = [["When", clockTime(one.started)], ["Tenant", <Plain text={one.tenant} />]];
  if (one.key) facts.push(["Key", <Plain text={one.key} />]);
  if (one.user) facts.push(["User", <Plain text={one.user} />]);
  if (one.tags.length > 0) facts.push(["Tags", <Plain text={one.tags.join(", ")} />]);
  if (one.exchange_id) facts.push(["x-request-id", <Plain mono text={one.exchange_id} />]);
  if (one.trace_id) facts.push(["Trace", <Plain mono text={one.trace_id} />]);
  return <Facts facts={facts} />;
}

function Route({ path: { request, hedge_after_s } }: { path: Path }) {
  const facts: [string, ComponentChildren][] = [["Asked for", <Plain mono text={request.asked_model} />]];
  if (request.route) facts.push(["Route", <Plain mono text={request.route} />]);
  if (request.reason) facts.push(["Why", <Plain text={request.reason} />]);
  if (hedge_after_s !== null) facts.push(["Hedged after", seconds(hedge_after_s)]);
  return <Facts facts={facts} />;
}

function Untried({ path: { request, source } }: { path: Path }) {
  if (!request.cache) return <p>Nobody was asked.</p>;
  return (
    <p>
      Nobody was asked: an answer was given again ({request.cache})
      {source && <>, that of <a href={`/console/traffic/requests/${encodeURIComponent(source)}`}><Plain mono text={source} /></a></>}.
    </p>
  );
}

type Decision = Path["decisions"][number];
const DECISIONS: readonly Column<Decision>[] = [
  { key: "said", title: "Policy said", cell: (one) => <Badge kind={one.is_allowed ? "good" : one.is_enforced ? "bad" : "warn"}>{one.is_allowed ? "yes" : "no"}{one.is_enforced ? "" : ", only watched"}</Badge> },
  { key: "action", title: "To", cell: (one) => <Plain text={`${one.action} ${one.resource}`} /> },
  { key: "why", title: "Why", cell: (one) => <Plain text={[one.reason, one.policies.join(", ")].filter(Boolean).join(" · ")} /> },
];

type Verdict = Path["verdicts"][number];
const VERDICTS: readonly Column<Verdict>[] = [
  { key: "monitor", title: "Monitor", cell: (one) => <Plain text={one.monitor} /> },
  { key: "score", title: "Score", align: "end", cell: (one) => one.score.toFixed(2) },
  { key: "action", title: "Said", cell: (one) => <Badge kind={one.is_shadow ? "info" : "warn"}>{one.action}{one.is_shadow ? ", only watched" : ""}</Badge> },
  { key: "why", title: "Why", cell: (one) => <Plain text={one.reason} /> },
];

function Overseers({ path }: { path: Path }) {
  return (
    <>
      {path.decisions.length > 0 && (
        <Table label="Decisions" columns={DECISIONS} rows={path.decisions} rowKey={(one) => JSON.stringify(one)} empty="" />
      )}
      {path.verdicts.length > 0 && (
        <Table label="Verdicts" columns={VERDICTS} rows={path.verdicts} rowKey={(one) => JSON.stringify(one)} empty="" />
      )}
    </>
  );
}

function End({ path: { request } }: { path: Path }) {
  const facts: [string, ComponentChildren][] = [["Outcome", <Outcome one={request} />]];
  if (request.backend) facts.push(["By", <Plain mono text={`${request.backend}/${request.model}`} />]);
  if (request.first_s !== null) facts.push(["First token", seconds(request.first_s)]);
  facts.push(["In all", seconds(request.whole_s)]);
  if (request.queue_s > 0) facts.push(["Of it in line", seconds(request.queue_s)]);
  facts.push(["Of it the gateway's own", seconds(request.overhead_s)]);
  return (
    <>
      <Facts facts={facts} />
      {request.refusal && <Notice kind="warn" title={outcomeOf(request.outcome)}><p><Plain text={request.refusal} /></p></Notice>}
    </>
  );
}

function Cost({ path: { request, reserved } }: { path: Path }) {
  const facts: [string, ComponentChildren][] = [
    ["Cost", `${money(request.cost)}${request.is_estimated ? " (a bound: no counts were told)" : ""}`],
    ["Input", `${tokens(request.prompt_tokens)} tokens${request.cached_tokens ? `, ${tokens(request.cached_tokens)} cached` : ""}`],
    ["Output", `${tokens(request.completion_tokens)} tokens`],
  ];
  if (request.saved > 0) facts.push(["A cache saved", money(request.saved)]);
  if (reserved) {
    facts.push(["Set aside before", `${money(reserved.cost)}, ${count(reserved.tokens)} tokens`]);
    const budgets = reserved.budgets.map((one) => `${one.subject} (${one.window})`).join(", ");
    if (budgets) facts.push(["Charged to", <Plain text={budgets} />]);
  } else {
    facts.push(["Set aside before", "nothing"]);
  }
  return <Facts facts={facts} />;
}

function Record({ one }: { one: Brief }) {
  const [told, tell] = useState<string | null>(null);
  const [error, fail] = useState<unknown>(null);
  if (one.record_id === null) return null;
  const id = one.record_id;
  const show = () => {
    fetchJson<unknown>(`/v1/provenance/${encodeURIComponent(id)}`).then((record) => {
      tell(JSON.stringify(record, null, 2));
      fail(null);
    }, fail);
  };
  return (
    <section class="card" aria-label="Provenance record">
      <header><h2>Provenance record</h2><span class="push"><Button onPress={show}>Show it</Button></span></header>
      <p><Plain mono text={id} /></p>
      {error !== null && <ErrorNotice error={error} />}
      {told !== null && <div class="record-text" tabIndex={0} role="region" aria-label="The record's text"><Plain mono text={told} /></div>}
    </section>
  );
}

// What would happen to the same request now, beside what happened then.
function Now({ one }: { one: Brief }) {
  const { told, error, isBusy, ask } = useExplanation();
  if (!may(useSession(), ["admin"])) return null;
  const question = { model: one.asked_model, tenant: one.tenant, user: one.user, prompt_tokens: one.prompt_tokens };
  return (
    <section class="card" aria-label="The same request now">
      <header>
        <h2>The same request now</h2>
        <span class="push"><Button onPress={() => void ask(question)} busy={isBusy}>Explain</Button></span>
      </header>
      {error !== null && <ErrorNotice error={error} />}
      {error === null && told && <Told told={told} />}
      {error === null && told === null && <p class="hint">Where a request like it would go by the loads, times and breakers of this moment. Nothing is sent.</p>}
    </section>
  );
}
