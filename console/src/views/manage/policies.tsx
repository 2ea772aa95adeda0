// Policies: which are in force, and a try-out that asks them what the caller itself may do. Nothing is done.

import { useState } from "preact/hooks";
import { fetchJson } from "../../api";
import { Badge, Busy, Button, confirm, Dialog, Field, Notice, Plain, Select, Table, TextArea, TextInput, toast, usePolled, useSession, type Column } from "../../kit";
import { may } from "../../session";
import { ErrorBeside, errorAt, Missing, useChange } from "./changing";
import { questionBody, reloadedText, type Question } from "./orders";
import type { Decision, List, Policies as PoliciesAnswer, Policy, Reloaded } from "./types";

const MODES = {
  off: "They are off: nobody asks them about requests.",
  shadow: "They are watched: what they would refuse is logged, and nothing is refused.",
  enforce: "They are enforced.",
} as const;

const COLUMNS: readonly Column<Policy>[] = [
  { key: "id", title: "Policy", cell: (one) => <Plain text={one.id} />, sort: (a, b) => a.id.localeCompare(b.id) },
  { key: "effect", title: "Effect", cell: (one) => <Badge kind={one.effect === "permit" ? "good" : "bad"}>{one.effect}</Badge> },
  { key: "reason", title: "What callers are told", cell: (one) => <Plain text={one.reason} /> },
  { key: "place", title: "Written in", cell: (one) => <Plain mono text={one.place} /> },
];

export function Policies() {
  const session = useSession();
  const { data, error, reload } = usePolled<PoliciesAnswer>("/v1/policy", 30_000);
  const [opened, open] = useState<Policy | null>(null);
  const change = useChange();

  async function reloadSettings(): Promise<void> {
    const body = (
      <p>
        The settings file, and the policies that it names, hold from the next request on. If anything in them is wrong
        nothing changes, and what is wrong is shown here.
      </p>
    );
    if (!(await confirm({ title: "Read the settings again?", body, action: "Read again" }))) return;
    await change.run(async () => {
      const told = await fetchJson<Reloaded>("/v1/gateway/reload", { method: "POST" });
      toast(reloadedText(told), told.waiting.length || told.warnings.length ? "warn" : "good");
    });
    reload();
  }

  if (data === null) return error === null ? <Busy /> : <Missing error={error} what="policies: [policy] and [flow] are off in its settings" />;
  return (
    <>
      <div class="manage-head">
        <h2>Policies</h2>
        {may(session, ["admin"]) && <Button busy={change.isRunning} onPress={() => void reloadSettings()}>Read settings again</Button>}
      </div>
      <ErrorBeside error={change.error} />
      <p>{MODES[data.mode]} What none of them permits is refused; one that forbids wins. They are changed in files, and read again by a reload.</p>
      <Table<Policy>
        label="Policies"
        columns={COLUMNS}
        rows={data.data}
        rowKey={(one) => `${one.place} ${one.id}`}
        filter={(one) => `${one.id} ${one.reason} ${one.text}`}
        onOpen={open}
        empty="No policies: everything is refused."
      />
      <Dialog title={`Policy ${opened?.id ?? ""}`} open={opened !== null} onClose={() => open(null)}>
        <div class="manage-code"><Plain mono text={opened?.text ?? ""} /></div>
        <p class="hint"><Plain mono text={opened?.place ?? ""} /></p>
      </Dialog>
      {may(session, ["generate"]) && <TryOut />}
    </>
  );
}

const FIELDS = ["action", "resource", "attributes", "context"];
const RESOURCES = { request: "a model or route", route: "BACKEND/MODEL", tool: "the name of a tool" } as const;

function TryOut() {
  const [form, put] = useState<Question>({ action: "request", resource: "", attributes: "", context: "" });
  const [decision, decide] = useState<Decision | null>(null);
  const asking = useChange();
  const at = (field: string) => errorAt(asking.error, field, FIELDS);

  async function submit(): Promise<void> {
    decide(null);
    await asking.run(async () => {
      const answer = await fetchJson<List<Decision>>("/v1/policy/decide", { body: questionBody(form) });
      decide(answer.data[0] ?? null);
    });
  }

  return (
    <>
      <h2>Try them out</h2>
      <form
        class="manage-form"
        onSubmit={(event) => {
          event.preventDefault();
          void submit();
        }}
      >
        <div class="manage-pair">
          <Select label="May you make this" value={form.action} options={["request", "route", "tool"]} onChange={(action) => put({ ...form, action })} />
          <Field label="To" error={at("resource")} hint={RESOURCES[form.action]}>
            <TextInput value={form.resource} onChange={(resource) => put({ ...form, resource })} required />
          </Field>
        </div>
        <div class="manage-pair">
          <Field label="Its attributes" error={at("attributes")} hint='JSON, such as {"effect": "write"}'>
            <TextArea mono rows={3} value={form.attributes} onChange={(attributes) => put({ ...form, attributes })} />
          </Field>
          <Field label="Context" error={at("context")} hint="JSON; what is left out counts as not known">
            <TextArea mono rows={3} value={form.context} onChange={(context) => put({ ...form, context })} />
          </Field>
        </div>
        <div><Button type="submit" kind="main" busy={asking.isRunning}>Ask</Button></div>
        <ErrorBeside error={asking.error} fields={FIELDS} />
      </form>
      <div role="status">{decision && <Told of={decision} />}</div>
    </>
  );
}

function Told({ of: decision }: { of: Decision }) {
  const by = decision.policies.join(", ");
  return (
    <Notice kind={decision.is_allowed ? "info" : "warn"} title={decision.is_allowed ? "It would be allowed" : decision.is_enforced ? "It would be refused" : "It would be refused, if policies were enforced"}>
      {decision.reason && <p><Plain text={decision.reason} /></p>}
      <p>{by ? <>Decided by <Plain mono text={by} />.</> : "No policy permits it."}</p>
    </Notice>
  );
}
