// What is said beside the conversation about how it is kept: what a reload would lose, and what one has lost.

import { Notice } from "../../kit";
import { type Lost, sentencesOf } from "./kept";
import type { Standing } from "./keeping";

export function KeptHint({ standing }: { standing: Standing | null }) {
  if (standing !== null && !standing.isKept) {
    return <p class="hint">This browser keeps nothing of it: a reload loses the conversation. Save it first.</p>;
  }
  const sentences = standing?.lost ? sentencesOf(standing.lost) : [];
  return (
    <div class="hint">
      <p>Kept in this tab over a reload, until you sign out or begin a new one{sentences.length > 0 ? ". Not kept:" : "."}</p>
      <Sentences told={sentences} />
    </div>
  );
}

export function Missing({ lost }: { lost: Lost | null }) {
  const sentences = lost === null ? [] : sentencesOf(lost);
  if (sentences.length === 0) return null;
  return <Notice kind="warn" title="Not all of it was kept over the reload"><Sentences told={sentences} /></Notice>;
}

function Sentences({ told }: { told: readonly string[] }) {
  return told.length === 0 ? null : <ul>{told.map((sentence) => <li key={sentence}>{sentence}</li>)}</ul>;
}
