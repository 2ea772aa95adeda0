// The record of an answer: what it states, and whether that holds, verified in this browser clause by clause.

import { useEffect, useReducer, useState } from "preact/hooks";
import { Badge, Busy, Button, clockTime, confirm, ErrorNotice, Field, Notice, Plain } from "../../kit";
import { forgetAnchor, keepAnchor, MEANINGS, readAnchor } from "./anchors";
import { fetchBundle, prove, sentence, type Proof } from "./proving";
import { save } from "./saving";
import { Stated, type Standing } from "./stated";
import type { Step } from "./step";
import { readBundle } from "./verify/bundle";
import { concat, type Bytes } from "./verify/bytes";
import { readEnvelope } from "./verify/dsse";
import { demand, NotChecked } from "./verify/fault";
import { readStatement, type Statement } from "./verify/statement";
import { parseTrustFile } from "./verify/trust_file";
import { type Clause, isRefused, type Level, NO_NODE } from "./verify/verification";

const MEANING: Record<Level, string> = {
  none: "Nothing is proved.",
  signed:
    "The node that you trust signed this record. A signature shows who said it, not that the model computed it, and not " +
    "that others are shown the same.",
  logged:
    "The node signed this record and its log has committed to it: it cannot be taken back unseen. That everybody is " +
    "shown the same log, only witnesses could say.",
  witnessed:
    "The node signed this record, its log has committed to it, and as many witnesses as the trust file asks for have " +
    "seen the log so. That the model computed the answer, only running it again can show.",
};

interface Loaded {
  bundle: Bytes;
  statement: Statement | null;
}

export function RecordView({ step }: { step: Step }) {
  const recordId = step.facts?.recordId ?? null;
  const [loaded, load] = useState<Loaded | null>(null);
  const [proof, show] = useState<Proof | null>(null);
  const [error, fail] = useState<unknown>(null);
  const [isBusy, work] = useState(recordId !== null && !step.isRunning); // it is read at once: see below
  const [isEarlier, tellEarlier] = useState(false);
  const read = async () => {
    const bundle = await fetchBundle(recordId!).catch((reason: unknown) => {
      if (step.record === null) throw reason;
      return step.record;
    });
    tellEarlier(bundle === step.record);
    step.record = bundle;
    step.changed();
    const made = { bundle, statement: await stated(bundle) };
    load(made);
    return made;
  };
  const attempt = async (what: () => Promise<void>) => {
    work(true);
    fail(null);
    await what().catch(fail);
    work(false);
  };
  useEffect(() => {
    if (recordId !== null && !step.isRunning) void attempt(async () => void (await read()));
  }, [recordId]);
  if (recordId === null) return <p class="hint">This answer has no record: the server makes none, or did not say so.</p>;
  const verifyNow = () =>
    attempt(async () => {
      show(null);
      // Fetched anew: the log may have taken it in since.
      const { bundle } = await read();
      show(await prove(step, bundle, localStorage, Date.now()));
    });
  return (
    <div class="record">
      <p>Record <Plain mono text={recordId} /></p>
      {error !== null && <ErrorNotice error={error} title={error instanceof NotChecked ? "It cannot be verified here" : "The record could not be read"} />}
      <div class="row">
        <Button kind="main" busy={isBusy} onPress={verifyNow}>Verify in this browser</Button>
        {loaded && <Button onPress={() => save(`${recordId}.record.json`, loaded.bundle)}>Save record</Button>}
        {step.isWholeStreamKept && (
          <Button onPress={() => save(`${recordId}.stream.txt`, concat(step.stream))}>Save answer</Button>
        )}
        {step.body && <Button onPress={() => save(`${recordId}.request.json`, JSON.stringify(step.body))}>Save request</Button>}
      </div>
      {isEarlier && <Notice kind="warn" title="The server does not give this record now: it is the one that it gave before" />}
      {isBusy && <Busy label="Reading and verifying" />}
      {proof && <ReportView proof={proof} onTrustChanged={verifyNow} />}
      <TrustPicker onChange={() => show(null)} />
      {loaded?.statement && <Stated statement={loaded.statement} standing={standingOf(proof)} />}
    </div>
  );
}

function standingOf(proof: Proof | null): Standing {
  if (proof === null) return "not verified yet";
  if (isRefused(proof.report)) return "not verified: do not go by it";
  return proof.report.level === "none" ? "could not be verified" : "verified";
}

// What it says, before anything of it is verified; null if it cannot be read.
async function stated(bundle: Bytes): Promise<Statement | null> {
  try {
    return readStatement(readEnvelope((await readBundle(bundle)).record.envelope).payload);
  } catch {
    return null;
  }
}

function ReportView({ proof, onTrustChanged }: { proof: Proof; onTrustChanged: () => void }) {
  const { report, anchor, standing } = proof;
  const isBad = isRefused(report);
  return (
    <section class="report" aria-label="What was verified">
      {standing === "changed" && <ChangedKeys proof={proof} onTrustChanged={onTrustChanged} />}
      <p role="status">
        <Badge kind={isBad ? "bad" : report.level === "none" ? "warn" : "good"}>
          {isBad ? "Not verified" : report.level === "none" ? "Could not be verified" : `Level: ${report.level}`}
        </Badge>{" "}
        {MEANING[report.level]}
        {!isBad && report.level !== report.wanted && ` The trust file would make "${report.wanted}" possible.`}
      </p>
      <ol class="clauses">{report.clauses.map((clause, at) => <ClauseLine key={at} clause={clause} />)}</ol>
      <p class="hint">{MEANINGS[anchor.source]}</p>
      {!proof.isKept && <Notice kind="warn" title="This browser keeps nothing, so the keys are forgotten when the page is closed" />}
    </section>
  );
}

const MARKS = { met: "holds", not: "does not hold", unknown: "not looked at" } as const;

function ClauseLine({ clause }: { clause: Clause }) {
  const mark = clause.isMet === null ? "unknown" : clause.isMet ? "met" : "not";
  return (
    <li class={mark}>
      <strong>{clause.name}</strong> <em>{MARKS[mark]}</em>: <Plain text={clause.text} />
    </li>
  );
}

function ChangedKeys({ proof, onTrustChanged }: { proof: Proof; onTrustChanged: () => void }) {
  const trust = async () => {
    const isSure = await confirm({
      title: "Trust other keys?",
      body:
        "Do this only if you know from the operator, by another way than this page, that the keys were changed. Records " +
        "that the earlier keys signed will not verify any more.",
      action: "Trust the new keys",
      danger: true,
      typed: "trust",
    });
    if (!isSure) return;
    keepAnchor(localStorage, { text: proof.told, source: "first use", name: "", sinceMs: Date.now() });
    onTrustChanged();
  };
  return (
    <Notice kind="bad" title="The server tells other keys than those that you trust">
      <p>
        Since {clockTime(proof.anchor.sinceMs / 1000)} you have trusted other ones. Either the operator changed them, or
        somebody else answers in its place. Nothing was taken over: what is below was verified with the keys that you
        trusted before.
      </p>
      <Button kind="danger" onPress={trust}>Trust the new keys…</Button>
    </Notice>
  );
}

function TrustPicker({ onChange }: { onChange: () => void }) {
  const [, redraw] = useReducer((times: number) => times + 1, 0);
  const [error, fail] = useState<string | null>(null);
  const anchor = readAnchor(localStorage);
  const changed = () => {
    redraw(undefined as never);
    onChange();
  };
  const pick = async (file: File | undefined) => {
    if (file === undefined) return;
    try {
      const text = await file.text();
      demand((await parseTrustFile(text)).nodes.length > 0, NO_NODE);
      keepAnchor(localStorage, { text, source: "file", name: file.name, sinceMs: Date.now() });
      fail(null);
      changed();
    } catch (reason) {
      fail(sentence(reason));
    }
  };
  return (
    <details class="trust">
      <summary>Trusted keys: {anchor === null ? "none yet" : anchor.source === "file" ? "from a file" : "from the first use"}</summary>
      <p class="hint">{anchor === null ? "The first verification keeps the keys that the server tells of itself." : MEANINGS[anchor.source]}</p>
      {anchor && (
        <>
          <p>Since {clockTime(anchor.sinceMs / 1000)}{anchor.name && <>, file <Plain text={anchor.name} /></>}</p>
          <Plain mono text={anchor.text} />
        </>
      )}
      <Field label="Trust file" hint="What `headrace log trust-file` prints at the operator's." error={error}>
        <TrustInput onPick={pick} />
      </Field>
      {anchor && (
        <Button
          onPress={() => {
            forgetAnchor(localStorage);
            changed();
          }}
        >
          Forget these keys
        </Button>
      )}
    </details>
  );
}

function TrustInput({ onPick }: { onPick: (file: File | undefined) => void }) {
  return <input type="file" aria-label="Trust file" accept=".txt,.policy,text/plain" onChange={(event) => onPick(event.currentTarget.files?.[0])} />;
}
