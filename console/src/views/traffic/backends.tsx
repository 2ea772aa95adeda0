// Every backend as it stands now: health, breakers, load; and an administrator's drain and resume.

import { useState } from "preact/hooks";
import { fetchJson } from "../../api";
import {
  Badge, Button, confirm, count, Meter, Plain, seconds, Table, toast, useSession, usePolled, type Column, type Kind,
} from "../../kit";
import { may } from "../../session";
import { Cards } from "./cards";
import { requestsOf } from "./filters";
import { Read } from "./read";
import type { Backend, List, Model } from "./shapes";
import { orDash } from "./words";

const EVERY_MS = 2000;

const HEALTH: Record<Backend["health"], [Kind, string]> = {
  well: ["good", "passes its checks"],
  failing: ["bad", "fails its checks"],
  warming: ["warn", "warming up"],
  unchecked: ["info", "not checked"],
};

const BREAKERS: Record<Model["breaker"], Kind> = { closed: "good", open: "bad", trying: "warn", resting: "warn" };

export function Backends() {
  const read = usePolled<List<Backend>>("/v1/gateway/backends", EVERY_MS);
  const canChange = may(useSession(), ["admin"]);
  return (
    <Read of={read} what="the backends">
      {({ data }) => (
        <Cards what="backends" items={data} name={(one) => one.id}>
          {(one) => <Card key={one.id} backend={one} canChange={canChange} reload={read.reload} />}
        </Cards>
      )}
    </Read>
  );
}

const COLUMNS: readonly Column<Model>[] = [
  { key: "model", title: "Model", cell: (one) => <Plain mono text={one.id} /> },
  { key: "breaker", title: "Breaker", cell: (one) => <Breaker one={one} /> },
  { key: "failed", title: "Failures lately", align: "end", cell: (one) => count(one.num_failed) },
  { key: "flight", title: "In flight", align: "end", cell: (one) => count(one.num_in_flight) },
  { key: "pace", title: "Each token", align: "end", cell: (one) => orDash(one.seconds_per_token, seconds) },
  { key: "long", title: "Usual answer", align: "end", cell: (one) => orDash(one.output_tokens, (tokens) => `${count(tokens)} tokens`) },
];

function Breaker({ one }: { one: Model }) {
  return (
    <>
      <Badge kind={BREAKERS[one.breaker]}>{one.breaker}</Badge>
      {one.retry_in_s !== null && <> tried again in {seconds(one.retry_in_s)}</>}
    </>
  );
}

interface CardProps {
  backend: Backend;
  canChange: boolean;
  reload: () => void;
}

function Card({ backend, canChange, reload }: CardProps) {
  const [kind, word] = HEALTH[backend.health];
  const [isBusy, setBusy] = useState(false);
  const verb = backend.is_draining ? "resume" : "drain";

  async function change(): Promise<void> {
    const yes = await confirm({
      title: backend.is_draining ? `Resume ${backend.id}?` : `Drain ${backend.id}?`,
      body: backend.is_draining
        ? "It gets new requests again, little by little if it is set to warm up."
        : "It gets no new requests until it is resumed; those that run end as they would. Requests that only it could answer are refused.",
      action: backend.is_draining ? "Resume" : "Drain",
      danger: !backend.is_draining,
    });
    if (!yes) return;
    setBusy(true);
    try {
      await fetchJson(`/v1/gateway/backends/${encodeURIComponent(backend.id)}/${verb}`, { method: "POST" });
      toast(`${backend.id} is ${backend.is_draining ? "back" : "drained"}.`, "good");
    } catch (error) {
      toast(`${backend.id} stays as it is: ${error instanceof Error ? error.message : String(error)}`, "bad");
    } finally {
      setBusy(false);
      reload();
    }
  }

  return (
    <article class="card" aria-label={`Backend ${backend.id}`}>
      <header>
        <h2><Plain text={backend.id} /></h2>
        <Badge>{backend.kind}</Badge>
        <Badge kind={kind}>{word}</Badge>
        {backend.is_draining && <Badge kind="warn">drained: no new requests</Badge>}
        {backend.share < 1 && backend.share > 0 && <Badge kind="warn">gets {Math.round(backend.share * 100)} % of its share</Badge>}
        <span class="push">
          <a href={requestsOf({ backend: backend.id })}>Its requests</a>{" "}
          {canChange && (
            <Button kind={backend.is_draining ? "main" : "danger"} onPress={() => void change()} busy={isBusy}>
              {backend.is_draining ? "Resume" : "Drain"}<span class="unseen"> {backend.id}</span>
            </Button>
          )}
        </span>
      </header>
      {backend.last_error && <p class="wrong"><Plain text={backend.last_error} /></p>}
      {backend.max_concurrency !== null ? (
        <Meter
          label="Requests there"
          value={backend.num_running}
          max={backend.max_concurrency}
          text={`${count(backend.num_running)} of ${count(backend.max_concurrency)}, ${count(backend.num_waiting)} wait`}
          warnAt={0.8}
        />
      ) : (
        <p class="hint">{count(backend.num_running)} requests there, {count(backend.num_waiting)} wait.</p>
      )}
      <Table label={`Models of ${backend.id}`} columns={COLUMNS} rows={backend.models} rowKey={(one) => one.id} empty="None of its models was asked yet." />
    </article>
  );
}
