// Two answers to the same input, number beside number.

import { money, Plain, seconds, tokens } from "../../kit";
import { firstS, type Step, tokensPerS } from "./step";
import { useChanges } from "./use_changes";

interface ComparisonProps {
  one: Step | undefined;
  other: Step | undefined;
}

interface Measure {
  title: string;
  of: (step: Step) => number | null;
  told: (value: number) => string;
  isLessBetter: boolean | null; // null: neither is better
}

const MEASURES: readonly Measure[] = [
  { title: "Time to first token", of: firstS, told: seconds, isLessBetter: true },
  { title: "Tokens per second", of: tokensPerS, told: (value) => value.toFixed(1), isLessBetter: false },
  { title: "Whole answer after", of: wholeS, told: seconds, isLessBetter: true },
  { title: "Tokens of the answer", of: (step) => step.usage?.completionTokens ?? null, told: tokens, isLessBetter: null },
  { title: "Prompt tokens cached", of: (step) => step.usage?.cachedTokens ?? null, told: tokens, isLessBetter: null },
  { title: "Cost", of: (step) => step.usage?.cost ?? null, told: money, isLessBetter: true },
];

const NOTHING = { listen: () => () => undefined };

export function Comparison({ one, other }: ComparisonProps) {
  useChanges(one ?? NOTHING);
  useChanges(other ?? NOTHING);
  if (one === undefined || other === undefined || one.isRunning || other.isRunning) return null;
  return (
    <div class="table-scroll">
      <table class="comparison">
        <caption class="unseen">The two answers compared</caption>
        <thead>
          <tr><th scope="col">Measure</th><th scope="col"><Plain text={one.model} /></th><th scope="col"><Plain text={other.model} /></th></tr>
        </thead>
        <tbody>{MEASURES.map((measure) => <MeasureRow key={measure.title} measure={measure} one={one} other={other} />)}</tbody>
      </table>
    </div>
  );
}

function MeasureRow({ measure, one, other }: { measure: Measure; one: Step; other: Step }) {
  const values = [measure.of(one), measure.of(other)];
  if (values.every((value) => value === null)) return null;
  return (
    <tr>
      <th scope="row">{measure.title}</th>
      {values.map((value, at) => {
        const rival = values[1 - at]!;
        const isBetter =
          measure.isLessBetter !== null && value !== null && rival !== null && value !== rival && value < rival === measure.isLessBetter;
        return <td key={at}>{value === null ? "not told" : measure.told(value)}{isBetter && <strong> better</strong>}</td>;
      })}
    </tr>
  );
}

function wholeS(step: Step): number | null {
  return step.lastMs === null ? null : (step.lastMs - step.startedMs) / 1000;
}
