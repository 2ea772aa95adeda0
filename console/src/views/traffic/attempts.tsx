// Attempts one below the other on one axis of time: how long each waited for the first of its answer, and how long it
// answered. What a bar shows stands beside it in words.

import { Badge, money, Plain, seconds, tokens } from "../../kit";
import { layOut } from "./axis";
import type { Path, Step } from "./shapes";
import { KINDS, outcomeOf, stepSentence, toneOf } from "./words";

export function Attempts({ path: { steps, request } }: { path: Path }) {
  const axis = layOut(steps, request.whole_s);
  return (
    <div class="attempts">
      <ol>
        {steps.map((step, index) => {
          const bar = axis.bars[index]!;
          return (
            <li key={index}>
              <Words step={step} />
              <div class="axis-row" aria-hidden="true">
                {axis.ticks.map((tick) => <span key={tick.s} class="axis-line" style={{ left: share(tick.at) }} />)}
                <span class={`stretch waiting ${toneOf(step.outcome)}`} style={{ left: share(bar.left), width: share(bar.waiting) }} />
                <span
                  class={`stretch answering ${toneOf(step.outcome)}`}
                  style={{ left: share(bar.left + bar.waiting), width: share(bar.answering) }}
                />
              </div>
            </li>
          );
        })}
      </ol>
      <div class="axis-row ticks" aria-hidden="true">
        {axis.ticks.map((tick) => <span key={tick.s} class={tick.at > 0.92 ? "tick end" : "tick"} style={{ left: share(tick.at) }}>{seconds(tick.s)}</span>)}
      </div>
      <p class="hint key" aria-hidden="true"><span class="swatch waiting" /> waits for the first token <span class="swatch answering" /> answers</p>
    </div>
  );
}

function Words({ step }: { step: Step }) {
  return (
    <div class="step-words">
      <Badge kind={toneOf(step.outcome)}>{step.was_asked ? outcomeOf(step.outcome) : "not asked"}</Badge>{" "}
      <Plain text={stepSentence(step)} />
      <span class="scores">{details(step).join(" · ")}</span>
    </div>
  );
}

function details(step: Step): string[] {
  const told = [KINDS[step.kind], `began at ${seconds(step.began_s)}`];
  if (step.first_s !== null) told.push(`first token after ${seconds(step.first_s - step.began_s)}`);
  if (step.num_tokens > 0) told.push(`${tokens(step.num_tokens)} tokens`);
  if (step.cost > 0) told.push(money(step.cost));
  if (step.is_trial) told.push("its breaker let this one through, to see whether it is back");
  if (step.standing) told.push(`afterwards: ${step.standing}`);
  return told;
}

function share(of: number): string {
  return `${of * 100}%`;
}
