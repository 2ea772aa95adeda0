// Tokens one beside the other, each with what there is to say of it: by pointing at it, by the keyboard (one stop of the
// Tab key, arrows within), and in words. A page of them at a time, so that a hundred thousand stay usable.

import type { ComponentChildren } from "preact";
import { useId, useState } from "preact/hooks";
import { Button } from "../../kit";
import { pieces } from "../../kit/plain_text";

const PER_PAGE = 500;

export interface ShownToken {
  text: string;
  kind: string; // a class, by which it has its colour
  told: string; // the same in words
}

interface ListProps {
  label: string;
  count: number;
  token: (index: number) => ShownToken;
  detail?: (index: number) => ComponentChildren; // of the token that is looked at
}

const STEPS: Record<string, (at: number, count: number) => number> = {
  ArrowRight: (at) => at + 1,
  ArrowLeft: (at) => at - 1,
  ArrowDown: (at) => at + 10,
  ArrowUp: (at) => at - 10,
  Home: () => 0,
  End: (_, count) => count - 1,
};

export function TokenList({ label, count, token, detail }: ListProps) {
  const id = useId();
  const [page, turn] = useState(0);
  const [at, look] = useState<number | null>(null);
  const numPages = Math.max(1, Math.ceil(count / PER_PAGE));
  const start = Math.min(page, numPages - 1) * PER_PAGE;
  const end = Math.min(count, start + PER_PAGE);
  const stop = at !== null && at >= start && at < end ? at : start;
  const indices = Array.from({ length: end - start }, (_, offset) => start + offset);
  const onKeyDown = (event: KeyboardEvent & { currentTarget: HTMLElement }) => {
    const step = STEPS[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const next = Math.max(0, Math.min(end - start - 1, step(stop - start, end - start)));
    (event.currentTarget.children[next] as HTMLElement).focus();
  };
  return (
    <div class="tokens">
      <div class="token-list" role="listbox" aria-label={label} aria-describedby={`${id}-detail`} onKeyDown={onKeyDown}>
        {indices.map((index) => {
          const shown = token(index);
          return (
            <span
              key={index}
              role="option"
              class={`token ${shown.kind}`}
              tabIndex={index === stop ? 0 : -1}
              aria-selected={index === at}
              aria-label={`${readable(shown.text)}: ${shown.told}`}
              onFocus={() => look(index)}
              onMouseEnter={() => look(index)}
            >
              {pieces(shown.text).map((piece) => (piece.isOdd ? <span class="odd">{piece.text}</span> : marked(piece.text)))}
            </span>
          );
        })}
      </div>
      {numPages > 1 && (
        <div class="token-pages">
          <Button disabled={start === 0} onPress={() => turn(page - 1)}>Earlier</Button>
          <span>Tokens {(start + 1).toLocaleString("en")} to {end.toLocaleString("en")} of {count.toLocaleString("en")}</span>
          <Button disabled={end === count} onPress={() => turn(page + 1)}>Later</Button>
        </div>
      )}
      <div id={`${id}-detail`} class="token-detail" aria-live="polite">
        {at !== null && at < count
          ? (detail?.(at) ?? token(at).told)
          : <span class="hint">Point at a token, or step through them with the arrow keys.</span>}
      </div>
    </div>
  );
}

// An end of line is shown as a sign and as what it does.
function marked(text: string): string {
  return text.replaceAll("\n", "⏎\n");
}

function readable(text: string): string {
  const told = text.replaceAll("\n", "⏎").replaceAll("\t", "⇥");
  return told.trim() === "" ? `space (${told.length})` : JSON.stringify(told);
}
