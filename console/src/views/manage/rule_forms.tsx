// The forms of a budget and of a limit. A name is a rule's for ever: whoever wants another makes another rule.

import { useState } from "preact/hooks";
import type { ComponentChildren } from "preact";
import { send } from "../../api";
import { Button, Dialog, Field, NumberInput, Select, TextInput, toast } from "../../kit";
import { ErrorBeside, errorAt, useChange } from "./changing";
import { budgetForm, filledIn, limitForm, WINDOWS } from "./orders";
import type { Budget, Limit } from "./types";

const SUBJECT_HINT = "all, tenant:NAME, key:NAME, user:TENANT/NAME, tag:NAME or route:NAME; with * in place of a name each has its own";

interface RuleProps {
  title: string;
  path: string;
  form: { name: string; subject: string };
  fields: readonly string[];
  isNew: boolean;
  change: (part: { name?: string; subject?: string }) => void;
  onClose: () => void;
  onDone: () => void;
  children: (at: (field: string) => string | null) => ComponentChildren;
}

function RuleDialog({ title, path, form, fields, isNew, change, onClose, onDone, children }: RuleProps) {
  const saving = useChange();
  const at = (field: string) => errorAt(saving.error, field, fields);

  async function submit(): Promise<void> {
    const isDone = await saving.run(async () => void (await send(path, { body: filledIn(form) })));
    if (!isDone) return;
    toast(`${title}: ${form.name.trim()} holds from the next request on.`, "good");
    onDone();
    onClose();
  }

  return (
    <Dialog title={title} open onClose={onClose}>
      <form
        class="manage-form"
        onSubmit={(event) => {
          event.preventDefault();
          void submit();
        }}
      >
        <Field label="Name" error={at("name")}>
          <TextInput value={form.name} onChange={(name) => change({ name })} disabled={!isNew} required />
        </Field>
        <Field label="Of whom" error={at("subject")} hint={SUBJECT_HINT}>
          <TextInput value={form.subject} onChange={(subject) => change({ subject })} required />
        </Field>
        {children(at)}
        <ErrorBeside error={saving.error} fields={fields} />
        <footer class="actions">
          <Button onPress={onClose}>Cancel</Button>
          <Button type="submit" kind="main" busy={saving.isRunning}>{isNew ? "Set" : "Change"}</Button>
        </footer>
      </form>
    </Dialog>
  );
}

interface DialogProps {
  onClose: () => void;
  onDone: () => void;
}

const BUDGET_FIELDS = ["name", "subject", "window", "money", "tokens"];

export function BudgetDialog({ budget, ...rest }: DialogProps & { budget: Budget | null }) {
  const [form, put] = useState(() => budgetForm(budget));
  return (
    <RuleDialog
      {...rest}
      title={budget ? "Change a budget" : "Set a budget"}
      path="/v1/accounts/budgets"
      form={form}
      fields={BUDGET_FIELDS}
      isNew={budget === null}
      change={(part) => put({ ...form, ...part })}
    >
      {(at) => (
        <>
          <Field label="Counts anew each" error={at("window")}>
            <Select label="Counts anew each" value={form.window} options={WINDOWS} onChange={(window) => put({ ...form, window })} />
          </Field>
          <div class="manage-pair">
            <Field label="Dollars" error={at("money")} hint="nothing: no bound">
              <NumberInput value={form.money} onChange={(money) => put({ ...form, money })} min={0} />
            </Field>
            <Field label="Tokens" error={at("tokens")} hint="nothing: no bound">
              <NumberInput value={form.tokens} onChange={(tokens) => put({ ...form, tokens })} min={0} step={1} />
            </Field>
          </div>
        </>
      )}
    </RuleDialog>
  );
}

const LIMIT_FIELDS = ["name", "subject", "requests_per_minute", "tokens_per_minute", "concurrency"];
const MEASURES = [
  ["requests_per_minute", "Requests a minute"],
  ["tokens_per_minute", "Tokens a minute"],
  ["concurrency", "Requests at once"],
] as const;

export function LimitDialog({ limit, ...rest }: DialogProps & { limit: Limit | null }) {
  const [form, put] = useState(() => limitForm(limit));
  return (
    <RuleDialog
      {...rest}
      title={limit ? "Change a limit" : "Set a limit"}
      path="/v1/accounts/limits"
      form={form}
      fields={LIMIT_FIELDS}
      isNew={limit === null}
      change={(part) => put({ ...form, ...part })}
    >
      {(at) => MEASURES.map(([name, title]) => (
        <Field key={name} label={title} error={at(name)} hint="nothing: no bound">
          <NumberInput value={form[name]} onChange={(value) => put({ ...form, [name]: value })} min={1} step={1} />
        </Field>
      ))}
    </RuleDialog>
  );
}
