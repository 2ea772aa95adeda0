// What is read from the server again and again: shown when it is here, and kept, marked as old, while it cannot be read.

import type { ComponentChildren } from "preact";
import { Busy, ErrorNotice, type Polled } from "../../kit";

interface ReadProps<T> {
  of: Polled<T>;
  what: string; // in a sentence: "the routes"
  children: (data: T) => ComponentChildren;
}

export function Read<T>({ of, what, children }: ReadProps<T>) {
  if (of.data === null) return of.error === null ? <Busy label={`Reading ${what}`} /> : <ErrorNotice error={of.error} />;
  return (
    <>
      {of.isOld && <p class="hint" role="status">What you see of {what} is old: the last try to read it failed.</p>}
      {children(of.data)}
    </>
  );
}
