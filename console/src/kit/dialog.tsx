// Dialogs of the browser's own making (they hold the focus and close with Escape), and questions before a change.

import type { ComponentChildren } from "preact";
import { useEffect, useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import { Button, Field, TextInput } from "./controls";

interface DialogProps {
  title: string;
  open: boolean;
  onClose: () => void;
  children?: ComponentChildren;
}

export function Dialog({ title, open, onClose, children }: DialogProps) {
  const box = useRef<HTMLDialogElement>(null);
  const id = useId();
  useLayoutEffect(() => {
    const dialog = box.current!;
    if (open && !dialog.open) dialog.showModal();
    if (!open && dialog.open) dialog.close();
  }, [open]);
  return (
    <dialog
      ref={box}
      aria-labelledby={id}
      onCancel={(event) => {
        // The state decides whether it is open.
        event.preventDefault();
        onClose();
      }}
    >
      {open && (
        <>
          <header>
            <h2 id={id}>{title}</h2>
            <Button label="Close" onPress={onClose}>×</Button>
          </header>
          {children}
        </>
      )}
    </dialog>
  );
}

interface Question {
  title: string;
  body: ComponentChildren;
  action: string; // what the button that says yes is called: a verb
  danger?: boolean;
  typed?: string; // must be written out first: for what cannot be taken back
}

interface Asked extends Question {
  answer: (yes: boolean) => void;
}

let asked: Asked | null = null;
const listeners = new Set<() => void>();

function ask(next: Asked | null): void {
  asked = next;
  for (const listener of listeners) listener();
}

// Asks before something is changed. A question that is asked while another is open answers that one with no.
export function confirm(question: Question): Promise<boolean> {
  asked?.answer(false);
  return new Promise((resolve) => {
    ask({
      ...question,
      answer: (yes) => {
        ask(null);
        resolve(yes);
      },
    });
  });
}

// Where questions appear; the shell holds one.
export function Questions() {
  const [, redraw] = useState(0);
  const [typed, type] = useState("");
  useEffect(() => {
    const listener = () => {
      type("");
      redraw((times) => times + 1);
    };
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }, []);
  const question = asked;
  const isReady = question?.typed === undefined || typed === question.typed;
  return (
    <Dialog title={question?.title ?? ""} open={question !== null} onClose={() => question?.answer(false)}>
      {question && (
        <form
          onSubmit={(event) => {
            event.preventDefault();
            if (isReady) question.answer(true);
          }}
        >
          <div class="question">{question.body}</div>
          {question.typed !== undefined && (
            <Field label={`Write ${question.typed} to go on`}>
              <TextInput value={typed} onChange={type} mono />
            </Field>
          )}
          <footer class="actions">
            <Button onPress={() => question.answer(false)}>Cancel</Button>
            <Button type="submit" kind={question.danger ? "danger" : "main"} disabled={!isReady}>{question.action}</Button>
          </footer>
        </form>
      )}
    </Dialog>
  );
}
