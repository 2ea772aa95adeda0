// Why a request that nobody makes would go where: the order now, with every target's reason. Nothing is sent to a backend.

import { useState } from "preact/hooks";
import { fetchJson } from "../../api";
import { Button, ErrorNotice, Field, Notice, NumberInput, Plain, TextInput, useSession } from "../../kit";
import { may } from "../../session";
import { Choices } from "./choices";
import type { Explanation } from "./shapes";

export interface Question {
  model: string;
  tenant?: string;
  user?: string | null;
  prompt_tokens?: number;
}

// Asks when it is called, and remembers the answer.
export function useExplanation() {
  const [told, tell] = useState<Explanation | null>(null);
  const [error, fail] = useState<unknown>(null);
  const [isBusy, setBusy] = useState(false);
  const ask = async (question: Question): Promise<void> => {
    setBusy(true);
    try {
      const body = { ...question, user: question.user ?? null };
      tell(await fetchJson<Explanation>("/v1/gateway/explain", { body }));
      fail(null);
    } catch (failed) {
      fail(failed);
    } finally {
      setBusy(false);
    }
  };
  return { told, error, isBusy, ask };
}

export function Explain({ models }: { models: readonly string[] }) {
  const [model, setModel] = useState(models[0] ?? "");
  const [tenant, setTenant] = useState("local");
  const [tokens, setTokens] = useState<number | null>(100);
  const { told, error, isBusy, ask } = useExplanation();
  if (!may(useSession(), ["admin"])) return null;
  return (
    <section aria-label="Explain" class="card">
      <h2>Why would a request go where?</h2>
      <form
        class="row-form"
        onSubmit={(event) => {
          event.preventDefault();
          void ask({ model, tenant, prompt_tokens: tokens ?? 0 });
        }}
      >
        <Field label="Model or route"><TextInput value={model} onChange={setModel} required /></Field>
        <Field label="Tenant"><TextInput value={tenant} onChange={setTenant} required /></Field>
        <Field label="Tokens of input"><NumberInput value={tokens} onChange={setTokens} min={0} step={1} /></Field>
        <Button type="submit" kind="main" busy={isBusy}>Explain</Button>
      </form>
      {error !== null && <ErrorNotice error={error} />}
      {error === null && told && <Told told={told} />}
    </section>
  );
}

export function Told({ told }: { told: Explanation }) {
  return (
    <div role="status">
      {told.refusal !== null && <Notice kind="warn" title="It would be refused"><p><Plain text={told.refusal} /></p></Notice>}
      <p>
        <Plain text={told.model} /> leads to the route <Plain text={told.route} />
        {told.reason && <>: <Plain text={told.reason} /></>}
        {told.shadow !== null && <>; a copy may go to <Plain mono text={told.shadow} /></>}.
      </p>
      <Choices label="Targets now" choices={told.targets} />
    </div>
  );
}
