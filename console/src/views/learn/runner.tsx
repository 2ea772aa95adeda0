// Asks a route as whoever is signed in, and shows what came: status, headers, body, all of it as text.

import { useEffect, useRef, useState } from "preact/hooks";
import { Badge, Button, ErrorNotice, Field, Plain, seconds, TextArea } from "../../kit";
import type { Route } from "./openapi";
import { MAX_ANSWER_BYTES, MAX_SECONDS, run, type Answered } from "./running";

interface RunnerProps {
  route: Route;
  path: string;
  isComplete: boolean; // every part of the path is filled in
  text: string | null; // of the body; null: it has none
  onText: (text: string) => void;
  read: () => { body: unknown } | { wrong: string };
}

export function Runner({ route, path, isComplete, text, onText, read }: RunnerProps) {
  const [wrong, say] = useState<string | null>(null);
  const [answered, answer] = useState<Answered | null>(null);
  const [error, fail] = useState<unknown>(null);
  const [isBusy, busy] = useState(false);
  const stopping = useRef<AbortController | null>(null);
  useEffect(() => () => stopping.current?.abort(), []);

  const send = () => {
    const ready = read();
    say("wrong" in ready ? ready.wrong : null);
    if ("wrong" in ready || isBusy) return;
    const stop = (stopping.current = new AbortController());
    busy(true);
    fail(null);
    answer(null);
    run(route.method, path, ready.body, AbortSignal.any([stop.signal, AbortSignal.timeout(MAX_SECONDS * 1000)]))
      .then(answer, (problem: unknown) => !stop.signal.aborted && fail(problem))
      .finally(() => busy(false));
  };

  return (
    <section aria-label="Run">
      <h2>Run</h2>
      {text !== null && (
        <Field label="Body" error={wrong} hint="JSON; Ctrl+Enter sends it">
          <TextArea mono rows={Math.min(16, text.split("\n").length + 1)} value={text} onChange={onText} onSubmit={send} />
        </Field>
      )}
      <p class="hint">Sent to this server as you are signed in. <code>{route.method.toUpperCase()} {path}</code></p>
      <div class="learn-run">
        <Button kind="main" onPress={send} busy={isBusy} disabled={!isComplete}>Run</Button>
        {isBusy && <Button onPress={() => stopping.current?.abort()}>Stop</Button>}
        {!isComplete && <span class="hint">Fill in the parts of the path first.</span>}
      </div>
      <div role="status">{answered && <>Answered {answered.status} in {seconds(answered.ms / 1000)}.</>}</div>
      {error !== null && <ErrorNotice error={error} title="No answer" />}
      {answered && <Answer answered={answered} />}
    </section>
  );
}

function Answer({ answered }: { answered: Answered }) {
  const isGood = answered.status >= 200 && answered.status < 300;
  return (
    <div class="learn-answer">
      <h3>Answer <Badge kind={isGood ? "good" : "bad"}>{answered.status} {answered.statusText}</Badge></h3>
      <details>
        <summary>{answered.headers.length} headers</summary>
        <dl class="learn-headers">
          {answered.headers.map(([name, value]) => (
            <div key={name}><dt>{name}</dt><dd><Plain mono text={value} /></dd></div>
          ))}
        </dl>
      </details>
      {answered.isCut && <p class="hint">There is more: only the first {MAX_ANSWER_BYTES / 1024} KiB were read.</p>}
      <div class="learn-body" tabIndex={0} role="region" aria-label="Body of the answer"><Plain mono text={answered.text} /></div>
    </div>
  );
}
