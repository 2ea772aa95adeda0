// A new key: what it may do, and its text, which is told this once and kept nowhere.

import { useRef, useState } from "preact/hooks";
import { fetchJson, send } from "../../api";
import { Button, Checkbox, Dialog, Field, Notice, NumberInput, Plain, Select, TextInput, toast } from "../../kit";
import { ErrorBeside, errorAt, useChange } from "./changing";
import { budgetOfKey, keyBody, NEW_KEY, SCOPES, SCOPE_TEXTS, WINDOWS, type KeyForm } from "./orders";
import type { Key } from "./types";

const FIELDS = ["name", "tenant", "scopes", "user", "tags", "labels", "routes", "priority", "share", "expires"] as const;

interface NewKeyProps {
  open: boolean;
  onClose: () => void;
  onMade: () => void;
}

export function NewKey({ open, onClose, onMade }: NewKeyProps) {
  const [made, make] = useState<Key | null>(null);
  const [budgetError, failBudget] = useState<unknown>(null);
  const [form, change] = useState<KeyForm>(NEW_KEY);
  const making = useChange();

  function close(): void {
    make(null);
    failBudget(null);
    making.clear();
    change(NEW_KEY);
    onClose();
  }

  async function submit(): Promise<void> {
    await making.run(async () => {
      const key = await fetchJson<Key>("/v1/accounts/keys", { body: keyBody(form) });
      make(key);
      onMade();
      const budget = budgetOfKey(form);
      if (budget) await send("/v1/accounts/budgets", { body: budget }).catch(failBudget);
    });
  }

  return (
    <Dialog title={made ? "A new key" : "New key"} open={open} onClose={close}>
      {made ? <Secret of={made} budgetError={budgetError} onClose={close} /> : (
        <form
          class="manage-form"
          onSubmit={(event) => {
            event.preventDefault();
            void submit();
          }}
        >
          <KeyFields form={form} change={(part) => change({ ...form, ...part })} error={making.error} />
          <ErrorBeside error={making.error} fields={FIELDS} />
          <footer class="actions">
            <Button onPress={close}>Cancel</Button>
            <Button type="submit" kind="main" busy={making.isRunning}>Make the key</Button>
          </footer>
        </form>
      )}
    </Dialog>
  );
}

interface FieldsProps {
  form: KeyForm;
  change: (part: Partial<KeyForm>) => void;
  error: unknown;
}

function KeyFields({ form, change, error }: FieldsProps) {
  const at = (field: string) => errorAt(error, field, FIELDS);
  const wrongScopes = at("scopes");
  return (
    <>
      <Field label="Name" error={at("name")} hint="what lists and logs call it">
        <TextInput value={form.name} onChange={(name) => change({ name })} required autoFocus />
      </Field>
      <Field label="Tenant" error={at("tenant")} hint="whose caches, budgets and records it uses; local if nothing is written">
        <TextInput value={form.tenant} onChange={(tenant) => change({ tenant })} />
      </Field>
      <fieldset>
        <legend>Scopes</legend>
        {SCOPES.map((scope) => (
          <Checkbox
            key={scope}
            label={scope}
            hint={SCOPE_TEXTS[scope]}
            checked={form.scopes.includes(scope)}
            onChange={(is) => change({ scopes: is ? [...form.scopes, scope] : form.scopes.filter((one) => one !== scope) })}
          />
        ))}
        {wrongScopes && <p class="wrong"><Plain text={wrongScopes} /></p>}
      </fieldset>
      <div class="manage-pair">
        <Field label="Budget in dollars" hint="nothing: none of its own">
          <NumberInput value={form.budget} onChange={(budget) => change({ budget })} min={0} />
        </Field>
        <Select label="Of each" value={form.window} options={WINDOWS} onChange={(window) => change({ window })} />
      </div>
      <Field label="Expires" error={at("expires")} hint="nothing: never">
        <TextInput type="datetime-local" value={form.expires} onChange={(expires) => change({ expires })} />
      </Field>
      <Field label="Models" error={at("routes")} hint="routes and models that it may ask, with commas between them; nothing: any">
        <TextInput value={form.routes} onChange={(routes) => change({ routes })} />
      </Field>
      <details>
        <summary>More</summary>
        <div class="manage-form">
          <Field label="User" error={at("user")} hint="whom of the tenant its requests are for">
            <TextInput value={form.user} onChange={(user) => change({ user })} />
          </Field>
          <Field label="Tags" error={at("tags")} hint="what its spending counts under, with commas between them">
            <TextInput value={form.tags} onChange={(tags) => change({ tags })} />
          </Field>
          <Field label="Labels" error={at("labels")} hint="what its requests hold, with commas between them">
            <TextInput value={form.labels} onChange={(labels) => change({ labels })} />
          </Field>
          <div class="manage-pair">
            <Field label="Priority" error={at("priority")} hint="larger goes first">
              <NumberInput value={form.priority} onChange={(priority) => change({ priority })} step={1} />
            </Field>
            <Field label="Share" error={at("share")} hint="its tenant's weight">
              <NumberInput value={form.share} onChange={(share) => change({ share })} min={0} />
            </Field>
          </div>
        </div>
      </details>
    </>
  );
}

function Secret({ of: key, budgetError, onClose }: { of: Key; budgetError: unknown; onClose: () => void }) {
  const text = useRef<HTMLInputElement>(null);

  async function copy(): Promise<void> {
    try {
      await navigator.clipboard.writeText(key.secret ?? "");
      toast("Copied the key.", "good");
    } catch {
      // Without TLS a browser gives no clipboard to a page of another machine.
      text.current?.select();
      toast("Press Ctrl+C: the key is selected.", "info");
    }
  }

  return (
    <>
      <Notice kind="warn" title="This is shown this once">
        <p>The server keeps a digest only. Copy the key now; whoever has it may do what <Plain text={key.name} /> may.</p>
      </Notice>
      <div class="manage-secret">
        <input ref={text} class="mono" readOnly value={key.secret ?? ""} aria-label={`Key ${key.name}`} onFocus={(event) => event.currentTarget.select()} />
        <Button kind="main" onPress={() => void copy()}>Copy</Button>
      </div>
      {budgetError !== null && (
        <Notice kind="bad" title="The key was made, its budget was not">
          <p><Plain text={budgetError instanceof Error ? budgetError.message : String(budgetError)} /></p>
          <p>It may spend without a bound of its own until one is set under Budgets and limits.</p>
        </Notice>
      )}
      <footer class="actions"><Button onPress={onClose}>Done</Button></footer>
    </>
  );
}
