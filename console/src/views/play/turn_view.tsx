// One turn: what the person said, which can be said anew, and each lane's answer to it, side by side.

import { useState } from "preact/hooks";
import { Button, confirm, Field, Plain, TextArea } from "../../kit";
import type { Conversation, Turn } from "./conversation";
import { Comparison } from "./comparison";
import { StepView } from "./step_view";

interface TurnProps {
  conversation: Conversation;
  turn: Turn;
  at: number;
}

export function TurnView({ conversation, turn, at }: TurnProps) {
  const [text, edit] = useState<string | null>(null);
  const isLast = at === conversation.turns.length - 1;
  return (
    <section class="turn" aria-label={`Turn ${at + 1}`}>
      <div class="said">
        <header><strong>You</strong></header>
        {text === null ? <Plain text={turn.text} /> : (
          <Field label="What you say instead">
            <TextArea value={text} onChange={edit} rows={3} onSubmit={() => resend()} />
          </Field>
        )}
        <div class="row">
          {text === null && <Button onPress={() => edit(turn.text)}>Edit</Button>}
          {text !== null && <Button kind="main" disabled={text === ""} onPress={() => resend()}>Send again</Button>}
          {text !== null && <Button onPress={() => edit(null)}>Cancel</Button>}
        </div>
        {text !== null && !isLast && <p class="hint">What came after it is forgotten.</p>}
      </div>
      <div class={`lanes of-${turn.lanes.length}`}>
        {turn.lanes.map((steps, lane) => (
          <div key={lane} class="lane">
            {steps.map((step, index) => (
              <StepView
                key={step.id}
                step={step}
                onRetry={() => void retry(lane, index)}
                onResults={
                  isLast && index === steps.length - 1 ? (results) => conversation.answerCalls(at, lane, results) : null
                }
              />
            ))}
          </div>
        ))}
      </div>
      {turn.lanes.length === 2 && <Comparison one={turn.lanes[0]!.at(-1)} other={turn.lanes[1]!.at(-1)} />}
    </section>
  );

  async function retry(lane: number, index: number): Promise<void> {
    const isSure =
      isLast ||
      (await confirm({ title: "Ask this again?", body: "The turns that came after it are forgotten.", action: "Ask again" }));
    if (isSure) conversation.retry(at, lane, index);
  }

  function resend(): void {
    if (!text) return;
    edit(null);
    conversation.resend(at, text);
  }
}
