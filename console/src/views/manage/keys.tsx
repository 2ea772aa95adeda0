// Keys: which there are, new ones, and taking them back.

import { useState } from "preact/hooks";
import { send } from "../../api";
import { Badge, Busy, Button, clockTime, confirm, Plain, Table, toast, usePolled, useSession, type Column } from "../../kit";
import { may } from "../../session";
import { ErrorBeside, Missing, useChange, type Change } from "./changing";
import { NewKey } from "./new_key";
import type { Key, List } from "./types";

const PATH = "/v1/accounts/keys";
const EVERY_MS = 15_000;

export function Keys() {
  const changes = may(useSession(), ["accounts"]);
  const { data, error, reload } = usePolled<List<Key>>(PATH, EVERY_MS);
  const [isAdding, add] = useState(false);
  const change = useChange();
  if (data === null) return error === null ? <Busy /> : <Missing error={error} what="keys" />;
  return (
    <>
      <div class="manage-head">
        <h2>Keys</h2>
        {changes && <Button kind="main" onPress={() => add(true)}>New key</Button>}
      </div>
      <ErrorBeside error={change.error} />
      <Table<Key>
        label="Keys"
        columns={changes ? [...COLUMNS, { key: "change", title: "Change", cell: (key) => <Buttons {...{ change, reload }} of={key} /> }] : COLUMNS}
        rows={data.data}
        rowKey={(key) => key.name}
        filter={(key) => `${key.name} ${key.tenant} ${key.user ?? ""} ${key.scopes.join(" ")} ${key.tags.join(" ")}`}
        empty="There are no keys: this server lets everybody on this machine in."
      />
      {changes && <NewKey open={isAdding} onClose={() => add(false)} onMade={reload} />}
    </>
  );
}

const byText = (read: (key: Key) => string) => (a: Key, b: Key) => read(a).localeCompare(read(b));

const COLUMNS: readonly Column<Key>[] = [
  { key: "name", title: "Name", cell: (key) => <Plain text={key.name} />, sort: byText((key) => key.name) },
  { key: "tenant", title: "Tenant", cell: (key) => <Plain text={key.tenant} />, sort: byText((key) => key.tenant) },
  { key: "scopes", title: "Scopes", cell: (key) => key.scopes.join(", ") },
  { key: "routes", title: "Models", cell: (key) => (key.routes.length ? <Plain text={key.routes.join(", ")} /> : "any") },
  { key: "state", title: "State", cell: (key) => <State of={key} /> },
  { key: "expires", title: "Expires", cell: (key) => (key.expires === null ? "never" : clockTime(key.expires)), sort: (a, b) => (a.expires ?? Infinity) - (b.expires ?? Infinity) },
  { key: "created", title: "Created", cell: (key) => (key.created > 0 ? clockTime(key.created) : "—"), sort: (a, b) => a.created - b.created },
];

function State({ of: key }: { of: Key }) {
  const isExpired = key.expires !== null && key.expires * 1000 <= Date.now();
  return (
    <>
      {key.is_disabled ? <Badge kind="warn">disabled</Badge> : isExpired ? <Badge kind="bad">expired</Badge> : <Badge kind="good">valid</Badge>}
      {key.is_fixed && <> <Badge>settings file</Badge></>}
    </>
  );
}

function Buttons({ of: key, change, reload }: { of: Key; change: Change; reload: () => void }) {
  if (key.is_fixed) return <span class="hint">in the settings file</span>;
  const path = `${PATH}/${encodeURIComponent(key.name)}`;

  async function toggle(): Promise<void> {
    const verb = key.is_disabled ? "Enable" : "Disable";
    const body = key.is_disabled
      ? "It will be good again for the next request."
      : "It is refused from the next request on, until it is enabled again. Whoever is signed in with it is signed out.";
    const names = <p><Plain text={key.name} /> of <Plain text={key.tenant} />. {body}</p>;
    if (!(await confirm({ title: `${verb} this key?`, body: names, action: verb, danger: !key.is_disabled }))) return;
    const isDone = await change.run(async () => void (await send(path, { method: "PATCH", body: { is_disabled: !key.is_disabled } })));
    if (isDone) toast(`${verb}d ${key.name}.`, "good");
    reload();
  }

  async function revoke(): Promise<void> {
    const body = <p><Plain text={key.name} /> of <Plain text={key.tenant} /> is refused from the next request on. This cannot be taken back.</p>;
    if (!(await confirm({ title: "Revoke this key?", body, action: "Revoke", danger: true, typed: key.name }))) return;
    const isDone = await change.run(async () => void (await send(path, { method: "DELETE" })));
    if (isDone) toast(`Revoked ${key.name}.`, "good");
    reload();
  }

  return (
    <span class="manage-buttons">
      <Button label={`${key.is_disabled ? "Enable" : "Disable"} ${key.name}`} busy={change.isRunning} onPress={() => void toggle()}>
        {key.is_disabled ? "Enable" : "Disable"}
      </Button>
      <Button kind="danger" label={`Revoke ${key.name}`} busy={change.isRunning} onPress={() => void revoke()}>Revoke</Button>
    </span>
  );
}
