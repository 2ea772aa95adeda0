// The two ways in which a clause is not met: it does not hold, or it cannot be looked at here. Knows nothing else.

export class NotVerified extends Error {}

// What this browser has no means for. It proves nothing, and says so: it is never taken for a yes.
export class NotChecked extends Error {}

export function demand(isMet: boolean, sentence: string): asserts isMet {
  if (!isMet) throw new NotVerified(sentence);
}
