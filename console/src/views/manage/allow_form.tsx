// One withheld call, whole, and the form that lets it pass, or one value of it. What passes is said before it does.

import { useState } from "preact/hooks";
import { send } from "../../api";
import { Button, Checkbox, clockTime, confirm, Dialog, Field, Notice, NumberInput, Plain, seconds, Select, TextInput, toast } from "../../kit";
import { ErrorBeside, errorAt, useChange } from "./changing";
import type { Withheld } from "./types";
import { ALLOW_ONCE, askerOf, endorsable, indented, MAX_SECONDS, MAX_USES, orderBody, PATH, timesText, valueText, type AllowForm } from "./withheld";

const FIELDS = ["uses", "expires_in", "reason"] as const;

interface AllowProps {
  call: Withheld;
  onClose: () => void;
  onDone: () => void;
}

export function AllowDialog({ call, onClose, onDone }: AllowProps) {
  const [form, put] = useState<AllowForm>(ALLOW_ONCE);
  const allowing = useChange();

  async function submit(): Promise<void> {
    const isDone = await allowing.run(async () => {
      const body = orderBody(call, form); // before the question: it may not be complete
      // Whoever cannot see what would pass says at least of which tool it is.
      const typed = form.doubt === null && call.arguments === "" ? { typed: call.tool } : {};
      const isSure = await confirm({ title: "Let this pass?", body: <WhatPasses call={call} form={form} />, action: `Allow ${timesText(form.uses)}`, danger: true, ...typed });
      if (!isSure) return;
      await send(PATH, { body });
      toast(`Allowed ${timesText(form.uses)}: ${call.tool}. Whoever asked must ask again.`, "good");
      onClose();
    });
    if (isDone) onDone();
  }

  return (
    <Dialog title="A withheld call" open onClose={onClose}>
      <Facts of={call} />
      <form
        class="manage-form manage-allow"
        onSubmit={(event) => {
          event.preventDefault();
          void submit();
        }}
      >
        <AllowFields call={call} form={form} error={allowing.error} change={(part) => put({ ...form, ...part })} />
        <ErrorBeside error={allowing.error} fields={FIELDS} />
        <footer class="actions">
          <Button onPress={onClose}>Cancel</Button>
          <Button type="submit" kind="danger" busy={allowing.isRunning}>{form.uses === null ? "Allow" : `Allow ${timesText(form.uses)}`}</Button>
        </footer>
      </form>
    </Dialog>
  );
}

interface FieldsProps {
  call: Withheld;
  form: AllowForm;
  error: unknown;
  change: (part: Partial<AllowForm>) => void;
}

function AllowFields({ call, form, error, change }: FieldsProps) {
  const values = endorsable(call);
  const isKnown = Object.keys(askerOf(call)).length > 0;
  const at = (field: string) => errorAt(error, field, FIELDS);
  // Names and values are the model's words, which an option cannot show as such: they are told by their numbers.
  const options = [
    { value: "call", title: "This exact call" },
    ...values.map((one, index) => ({ value: String(index), title: `Any call with value ${call.in_doubt.indexOf(one) + 1} of those in doubt` })),
  ];
  return (
    <>
      {values.length > 0 && (
        <Select
          label="What passes"
          value={form.doubt === null ? "call" : String(values.indexOf(form.doubt))}
          options={options}
          onChange={(value) => change({ doubt: value === "call" ? null : values[Number(value)]! })}
        />
      )}
      <div class="manage-pair">
        <Field label="How many times" error={at("uses")}><NumberInput value={form.uses} min={1} max={MAX_USES} step={1} onChange={(uses) => change({ uses })} /></Field>
        <Field label="Within seconds" error={at("expires_in")}><NumberInput value={form.seconds} min={1} max={MAX_SECONDS} step={1} onChange={(s) => change({ seconds: s })} /></Field>
      </div>
      {isKnown && <Checkbox label="Only for who asked" hint={call.session === null ? "Else for everybody of your tenant." : "And in this session. Else for everybody of your tenant."} checked={form.isForAsker} onChange={(isForAsker) => change({ isForAsker })} />}
      <Field label="Why" hint="It is written into the log, where there is one." error={at("reason")}><TextInput value={form.reason} onChange={(reason) => change({ reason })} /></Field>
    </>
  );
}

function Facts({ of: call }: { of: Withheld }) {
  return (
    <dl class="manage-facts">
      <dt>Tool</dt><dd><Plain mono text={call.tool} /></dd>
      <dt>Arguments</dt><dd><Arguments of={call} /></dd>
      <dt>In doubt</dt><dd><Doubts of={call} /></dd>
      <dt>Why withheld</dt><dd><Plain text={call.reason || "—"} />{call.policies.length > 0 && <> (<Plain mono text={call.policies.join(", ")} />)</>}</dd>
      <dt>Who asked</dt><dd><Plain text={call.subject || "—"} />{call.session !== null && <>, session <Plain text={call.session} /></>}</dd>
      <dt>When</dt><dd>{clockTime(call.withheld_at)}</dd>
      <dt>Request</dt><dd><Plain mono text={call.request || "—"} /></dd>
      <dt>Digest</dt><dd><Plain mono text={call.call} /></dd>
    </dl>
  );
}

function Arguments({ of: call }: { of: Withheld }) {
  if (call.arguments === "") return <Notice kind="warn" title="They cannot be shown">They are too long, or the call has none.</Notice>;
  return <div class="manage-code manage-call" role="region" aria-label="Arguments" tabIndex={0}><Plain mono text={indented(call.arguments)} /></div>;
}

function Doubts({ of: call }: { of: Withheld }) {
  if (call.in_doubt.length === 0) return <>No argument by itself.</>;
  return (
    <ol class="manage-doubts" aria-label="In doubt">
      {call.in_doubt.map((one, index) => (
        <li key={index}>
          {one.argument === "*" ? "All of it: nothing tells who asked for this call" : <Plain mono text={one.argument} />}
          {one.value !== null && <>: <Plain mono text={valueText(one.value)} /></>}
        </li>
      ))}
    </ol>
  );
}

function WhatPasses({ call, form }: { call: Withheld; form: AllowForm }) {
  const { doubt } = form;
  const asker = form.isForAsker ? askerOf(call) : {};
  return (
    <>
      {doubt === null ? (
        <>
          <p>This call of <Plain mono text={call.tool} />, with exactly these arguments, passes the guard {timesText(form.uses)}:</p>
          <Arguments of={call} />
        </>
      ) : (
        <p>
          Calls of <Plain mono text={call.tool} /> pass the guard {timesText(form.uses)} as if the user had said that <Plain mono text={doubt.argument} /> is{" "}
          <Plain mono text={valueText(doubt.value)} />, <strong>whatever their other arguments are</strong>, as far as those are not in doubt themselves.
        </p>
      )}
      <p>
        It holds for {seconds(form.seconds ?? 0)},{" "}
        {asker.subject === undefined ? "for everybody of your tenant" : <>for <Plain text={asker.subject} /></>}
        {asker.session !== undefined && <>, in the session <Plain text={asker.session} /></>}. Nothing else is let through.
      </p>
    </>
  );
}
