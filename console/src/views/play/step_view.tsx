// One answer: what was said and called, how long it took, what it cost, and on demand its tokens, its prompt, its record.

import { useState } from "preact/hooks";
import { Badge, Button, ErrorNotice, Field, money, Notice, Plain, seconds, TextArea, tokens, useSession } from "../../kit";
import { may } from "../../session";
import { PromptView } from "./prompt_view";
import { RecordView } from "./record_view";
import { firstS, type Status, type Step, tokensPerS } from "./step";
import { TokensView } from "./tokens_view";
import { useChanges } from "./use_changes";

interface StepProps {
  step: Step;
  onRetry: () => void;
  onResults: ((results: string[]) => void) | null; // null: this is not where the conversation goes on
}

const STATUSES: Record<Status, { text: string; kind: "info" | "good" | "warn" | "bad" }> = {
  waiting: { text: "waiting", kind: "info" },
  streaming: { text: "answering", kind: "info" },
  done: { text: "complete", kind: "good" },
  stopped: { text: "stopped", kind: "warn" },
  failed: { text: "failed", kind: "bad" },
  cut: { text: "cut off", kind: "warn" },
  unkept: { text: "not kept", kind: "warn" },
};

const VIEWS = ["Tokens", "Prompt", "Record"] as const;

export function StepView({ step, onRetry, onResults }: StepProps) {
  useChanges(step);
  const [open, show] = useState<(typeof VIEWS)[number] | null>(null);
  const status = STATUSES[step.status];
  return (
    <article class="step" aria-label={`Answer of ${step.model}`} aria-busy={step.isRunning}>
      <header>
        <strong><Plain text={step.model} /></strong>
        <span role="status"><Badge kind={status.kind}>{status.text}</Badge></span>
      </header>
      {step.reasoning && (
        <details class="reasoning">
          <summary>Reasoning</summary>
          <Plain text={step.reasoning} />
        </details>
      )}
      <div class="answer"><Plain text={step.text} /></div>
      <Calls step={step} onResults={onResults} />
      <Endings step={step} />
      {step.error && <ErrorNotice error={step.error} title={step.text ? "The answer broke off" : "There is no answer"} />}
      <FactsLine step={step} />
      {!step.isRunning && (
        <div class="row">
          {VIEWS.map((view) => (
            <Button key={view} pressed={open === view} onPress={() => show(open === view ? null : view)}>{view}</Button>
          ))}
          <Button onPress={onRetry}>{step.status === "failed" ? "Try again" : "Ask again"}</Button>
        </div>
      )}
      {!step.isRunning && open === "Tokens" && <TokensView step={step} />}
      {!step.isRunning && open === "Prompt" && <PromptView step={step} />}
      {!step.isRunning && open === "Record" && <RecordView step={step} />}
    </article>
  );
}

const WITHHELD = /\[The call of '[^']*' was withheld[^\]]*\]/;

function Endings({ step }: { step: Step }) {
  if (step.status === "cut") {
    return <p class="hint">The page was reloaded or left while it came. What had come is kept; ask again for a whole answer.</p>;
  }
  if (step.status === "unkept") {
    const length = step.numUnkept.toLocaleString("en");
    return <p class="hint">It had {length} characters: too long to be kept over the reload. Ask again for it.</p>;
  }
  if (step.finish === "content_filter") {
    return (
      <Notice kind="warn" title="Something was withheld">
        <p>A guard of the server kept a call or a part of the answer back; the text says which. The record has every decision.</p>
        <WithheldLink />
      </Notice>
    );
  }
  // The sentence is text of the answer, which a model can write as well.
  if (WITHHELD.test(step.text)) {
    return (
      <Notice title="The text says that a call was withheld">
        <p>Whether a guard did that, or the model only says so, the record tells: see its tools and decisions.</p>
        <WithheldLink />
      </Notice>
    );
  }
  if (step.finish === "length") return <p class="hint">It ended because it had as many tokens as it may have.</p>;
  return null;
}

// For whoever may let a call pass.
function WithheldLink() {
  return may(useSession(), ["endorse"]) ? <p><a href="/console/manage/withheld">Look at withheld calls</a></p> : null;
}

function Calls({ step, onResults }: { step: Step; onResults: ((results: string[]) => void) | null }) {
  const [results, fill] = useState<string[]>([]);
  if (step.calls.length === 0) return null;
  const canAnswer = onResults !== null && step.status === "done" && step.results === null;
  const texts = step.calls.map((_, at) => results[at] ?? "");
  return (
    <section class="calls" aria-label="Tool calls">
      {step.calls.map((call, at) => (
        <div class="call" key={at}>
          <p>Calls <Plain mono text={call.name} /></p>
          <Plain mono text={call.arguments} />
          {canAnswer && (
            <Field label={`What tool ${at + 1} says`}>
              <TextArea value={texts[at]!} rows={2} mono onChange={(text) => fill(texts.map((old, index) => (index === at ? text : old)))} />
            </Field>
          )}
          {step.results !== null && <p class="hint">It said: <Plain mono text={step.results[at] ?? ""} /></p>}
        </div>
      ))}
      {canAnswer && <Button kind="main" onPress={() => onResults(texts)}>Go on with these results</Button>}
    </section>
  );
}

function FactsLine({ step }: { step: Step }) {
  const { usage, facts } = step;
  const first = firstS(step);
  const rate = tokensPerS(step);
  const cost = usage?.cost !== null && usage !== null ? money(usage.cost) : facts?.cost ? money(Number(facts.cost)) : null;
  const told: [string, string | null][] = [
    ["Time to first token", first === null ? null : seconds(first)],
    ["Tokens per second", rate === null ? null : rate.toFixed(1)],
    ["Prompt", usage && `${tokens(usage.promptTokens)} tokens, ${tokens(usage.cachedTokens)} cached`],
    ["Answer", usage && `${tokens(usage.completionTokens)} tokens`],
    ["Cost", cost],
    ["Route", facts?.route ?? null],
    ["Backend", facts?.backend ?? null],
    ["Model", facts?.model ?? null],
    ["Why there", facts?.reason ?? null],
    ["Attempts", facts?.attempts && facts.attempts !== "1" ? facts.attempts : null],
    ["Answer cache", facts?.cache ?? null],
    ["Request", facts?.requestId ?? null],
  ];
  const shown = told.filter((one): one is [string, string] => one[1] !== null);
  if (shown.length === 0) return null;
  return (
    <dl class="facts">
      {shown.map(([name, value]) => <div key={name}><dt>{name}</dt><dd><Plain text={value} /></dd></div>)}
    </dl>
  );
}
