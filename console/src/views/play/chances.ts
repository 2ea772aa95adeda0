// What is to be said of a token's probability: in words, and by which of five colours. Values only.

import { isTold, type Token } from "./step";

const BOUNDS = [0.9, 0.5, 0.2, 0.05];

// 0 is the likeliest class, 4 the least likely; null: it was not told.
export function rank(token: Token): number | null {
  if (!isTold(token)) return null;
  const share = Math.exp(token.logprob);
  const at = BOUNDS.findIndex((bound) => share >= bound);
  return at === -1 ? BOUNDS.length : at;
}

export function chance(logprob: number): string {
  const share = Math.exp(logprob) * 100;
  if (share >= 99.95) return "100 %";
  if (share >= 10) return `${share.toFixed(0)} %`;
  return share >= 0.1 ? `${share.toFixed(1)} %` : "less than 0.1 %";
}

export function toldOf(token: Token): string {
  return isTold(token) ? chance(token.logprob) : "probability not told";
}

// Why less was told than was asked; null: as much was.
export function shortfall(tokens: readonly Token[], numAsked: number, scopes: readonly string[]): string | null {
  if (tokens.length === 0) return null;
  const some = tokens.filter((token) => token.logprob !== 0); // a certain token is round by itself
  const isRounded = !scopes.includes("logprobs") && some.length > 0 && some.every((token) => isCoarse(token.logprob));
  const isShort = tokens.some((token) => !isTold(token) || token.others.length < numAsked);
  if (!isRounded && !isShort) return null;
  const because = scopes.includes("logprobs") ? "the backend tells no more" : "your key has not the scope `logprobs`";
  const what = isShort ? "Fewer probabilities are told than were asked for" : "Probabilities are told rounded";
  return `${what}: ${because}.`;
}

function isCoarse(logprob: number): boolean {
  return Math.abs(logprob * 100 - Math.round(logprob * 100)) < 1e-6;
}
