// Models and adapters of this server's own engine: which are in memory, loading, unloading, and fetching one.

import { useState } from "preact/hooks";
import { send } from "../../api";
import { Badge, Busy, Button, bytes, confirm, Field, Meter, Plain, seconds, Table, TextInput, toast, usePolled, useSession, type Column, type Kind } from "../../kit";
import { may } from "../../session";
import { ErrorBeside, Missing, useChange, type Change } from "./changing";
import { pull, type PullStep } from "./pulling";
import type { Adapter, List, Resident, Residents } from "./types";

const EVERY_MS = 3_000;

export function Models() {
  return (
    <>
      <Residences />
      <Adapters />
    </>
  );
}

const STATES: Record<Resident["state"], Kind> = { absent: "info", waiting: "warn", loading: "warn", ready: "good", leaving: "warn" };

function Residences() {
  const changes = may(useSession(), ["admin"]);
  const { data, error, reload } = usePolled<Residents>("/models", EVERY_MS);
  const change = useChange();
  if (data === null) return error === null ? <Busy /> : <Missing error={error} what="engine of its own, and so no models to load" />;
  const columns: Column<Resident>[] = [
    { key: "id", title: "Model", cell: (one) => <Plain text={one.id} />, sort: (a, b) => a.id.localeCompare(b.id) },
    { key: "state", title: "State", cell: (one) => <Badge kind={STATES[one.state]}>{one.state}</Badge> },
    { key: "held", title: "Memory", align: "end", cell: (one) => (one.bytes_held ? bytes(one.bytes_held) : "—"), sort: (a, b) => a.bytes_held - b.bytes_held },
    { key: "requests", title: "Requests", align: "end", cell: (one) => one.num_requests },
    { key: "idle", title: "Idle for", align: "end", cell: (one) => (one.idle_s === null ? "—" : seconds(one.idle_s)) },
    { key: "leaves", title: "Leaves in", align: "end", cell: (one) => (one.unloads_in_s === null ? "stays" : seconds(one.unloads_in_s)) },
  ];
  if (changes) columns.push({ key: "change", title: "Change", cell: (one) => <LoadButton of={one} change={change} reload={reload} /> });
  return (
    <>
      <div class="manage-head"><h2>Models</h2></div>
      {data.memory_bytes === null ? <p>They hold {bytes(data.bytes_held)} together; there is no bound.</p> : (
        <Meter label="Memory of all models" value={data.bytes_held} max={data.memory_bytes} text={`${bytes(data.bytes_held)} of ${bytes(data.memory_bytes)}`} />
      )}
      <ErrorBeside error={change.error} />
      <Table<Resident> label="Models" columns={columns} rows={data.data} rowKey={(one) => one.id} filter={(one) => `${one.id} ${one.state}`} empty="No models are served." />
      {changes && <Pull />}
    </>
  );
}

function LoadButton({ of: model, change, reload }: { of: Resident; change: Change; reload: () => void }) {
  const isHere = model.state === "ready" || model.state === "leaving";

  async function load(): Promise<void> {
    const body = <p><Plain text={model.id} /> comes into memory; another model that is idle may have to leave.</p>;
    if (!(await confirm({ title: "Load this model?", body, action: "Load" }))) return;
    if (await change.run(async () => void (await send("/models/load", { body: { model: model.id } })))) toast(`Loaded ${model.id}.`, "good");
    reload();
  }

  async function unload(): Promise<void> {
    const body = (
      <p>
        <Plain text={model.id} /> leaves memory when its {model.num_requests} running requests have ended. It comes back by
        itself when somebody asks for it, which takes a while.
      </p>
    );
    if (!(await confirm({ title: "Unload this model?", body, action: "Unload", danger: true }))) return;
    if (await change.run(async () => void (await send("/models/unload", { body: { model: model.id } })))) toast(`Unloaded ${model.id}.`, "good");
    reload();
  }

  return (
    <span class="manage-buttons">
      {isHere
        ? <Button kind="danger" label={`Unload ${model.id}`} busy={change.isRunning} onPress={() => void unload()}>Unload</Button>
        : <Button label={`Load ${model.id}`} busy={change.isRunning} onPress={() => void load()}>Load</Button>}
    </span>
  );
}

// Fetching takes minutes; the server goes on if this page is closed.
function Pull() {
  const [name, put] = useState("");
  const [step, tell] = useState<PullStep | null>(null);
  const change = useChange();

  async function submit(): Promise<void> {
    const isDone = await change.run(() => pull(name.trim(), tell));
    tell(null);
    if (isDone) toast(`${name.trim()} is there; name it to headrace serve to have it served.`, "good");
  }

  return (
    <details>
      <summary>Fetch a model</summary>
      <form
        class="manage-form"
        onSubmit={(event) => {
          event.preventDefault();
          void submit();
        }}
      >
        <Field label="Name in the catalog" hint="The server fetches it from where the catalog says, over the network.">
          <TextInput value={name} onChange={put} required />
        </Field>
        <div><Button type="submit" busy={change.isRunning}>Fetch</Button></div>
        {step && (step.total ? <Meter label={step.status} value={step.completed} max={step.total} text={`${bytes(step.completed)} of ${bytes(step.total)}`} /> : <Busy label={step.status} />)}
        <ErrorBeside error={change.error} />
      </form>
    </details>
  );
}

function Adapters() {
  const changes = may(useSession(), ["admin"]);
  const { data, error, reload } = usePolled<List<Adapter>>("/v1/adapters", 3 * EVERY_MS);
  const change = useChange();
  const columns: Column<Adapter>[] = [
    { key: "id", title: "Adapter", cell: (one) => <Plain text={one.id} />, sort: (a, b) => a.id.localeCompare(b.id) },
    { key: "state", title: "State", cell: (one) => (one.is_loaded ? <Badge kind="good">in memory</Badge> : <Badge>on disk</Badge>) },
    { key: "held", title: "Memory", align: "end", cell: (one) => (one.bytes_held ? bytes(one.bytes_held) : "—") },
  ];
  if (changes) columns.push({ key: "change", title: "Change", cell: (one) => <AdapterButton of={one} change={change} reload={reload} /> });
  return (
    <>
      <div class="manage-head"><h2>Adapters</h2></div>
      <ErrorBeside error={change.error} />
      {data === null ? (error === null ? <Busy /> : <Missing error={error} what="folder of adapters" />) : (
        <Table<Adapter> label="Adapters" columns={columns} rows={data.data} rowKey={(one) => one.id} filter={(one) => one.id} empty="No adapters for the models that are in memory." />
      )}
    </>
  );
}

function AdapterButton({ of: adapter, change, reload }: { of: Adapter; change: Change; reload: () => void }) {
  const verb = adapter.is_loaded ? "Unload" : "Load";

  async function press(): Promise<void> {
    const body = <p><Plain text={adapter.id} /> {adapter.is_loaded ? "leaves memory; requests that use it end as they would." : "comes into memory."}</p>;
    if (!(await confirm({ title: `${verb} this adapter?`, body, action: verb, danger: adapter.is_loaded }))) return;
    const path = `/v1/${adapter.is_loaded ? "unload" : "load"}_lora_adapter`;
    if (await change.run(async () => void (await send(path, { body: { lora_name: adapter.id } })))) toast(`${verb}ed ${adapter.id}.`, "good");
    reload();
  }

  return (
    <span class="manage-buttons">
      <Button kind={adapter.is_loaded ? "danger" : "plain"} label={`${verb} ${adapter.id}`} busy={change.isRunning} onPress={() => void press()}>{verb}</Button>
    </span>
  );
}
