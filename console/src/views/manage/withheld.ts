// Calls that the guard withheld, and what lets them pass: the order that is sent, and how a call reads. Values in, values out.

import { count } from "../../kit/format";
import { FormError } from "./orders";
import type { Doubt, Endorsement, Withheld } from "./types";

export const PATH = "/v1/endorsements";
export const MAX_USES = 1_000_000; // the bounds of the server's route
export const MAX_SECONDS = 30 * 86_400;

export interface AllowForm {
  doubt: Doubt | null; // null: the whole call, and nothing but it
  uses: number | null;
  seconds: number | null;
  isForAsker: boolean; // for who asked, in the session in which it was asked
  reason: string;
}

export const ALLOW_ONCE: AllowForm = { doubt: null, uses: 1, seconds: 600, isForAsker: true, reason: "" };

// The body of POST /v1/endorsements. Throws FormError for a number that is not filled in: left out, it would be "any number".
export function orderBody(call: Withheld, form: AllowForm): Record<string, unknown> {
  const { doubt } = form;
  const body: Record<string, unknown> = {
    tool: call.tool,
    ...(doubt === null ? { call: call.call } : { argument: doubt.argument, value: doubt.value }),
    uses: numberOf("uses", form.uses, MAX_USES),
    expires_in: numberOf("expires_in", form.seconds, MAX_SECONDS),
  };
  if (form.isForAsker) Object.assign(body, askerOf(call));
  if (form.reason.trim()) body["reason"] = form.reason.trim();
  return body;
}

function numberOf(field: string, value: number | null, most: number): number {
  if (value !== null && Number.isInteger(value) && value >= 1 && value <= most) return value;
  throw new FormError(field, `Write a whole number from 1 to ${count(most)}.`);
}

// Who asked, as far as it is known.
export function askerOf({ subject, session }: Withheld): { subject?: string; session?: string } {
  return { ...(subject ? { subject } : {}), ...(session === null ? {} : { session }) };
}

// Those of its arguments that can be let pass by themselves.
export function endorsable(call: Withheld): Doubt[] {
  return call.in_doubt.filter((one) => one.value !== null);
}

// Whether the very same call passes when it is asked for again, by whoever asked for it.
export function isAllowed(call: Withheld, inForce: readonly Endorsement[]): boolean {
  return inForce.some(
    (one) =>
      one.tool === call.tool &&
      one.call === call.call &&
      (one.subject === null || one.subject === call.subject) &&
      (one.session === null || one.session === call.session),
  );
}

export function timesText(uses: number | null): string {
  if (uses === null) return "any number of times";
  return uses === 1 ? "once" : `${count(uses)} times`;
}

// As it stands in JSON, so that the text "5" and the number 5 are not one.
export function valueText(value: string | number | null): string {
  return value === null ? "—" : JSON.stringify(value);
}

const TOKENS = /"(?:[^"\\]|\\[\s\S])*"?|[{}[\],:]|[^ \t\r\n"{}[\],:]+/g;
const DEEPEST = 20;

// JSON on lines of its own, every character that counts as it was written: what a parser would lose (of two members of one
// name the first, an escape) is shown. Blanks between are not kept, so that nobody pushes anything out of sight with them.
export function indented(json: string): string {
  const parts: string[] = [];
  let depth = 0;
  let last = "";
  const line = () => `\n${"  ".repeat(Math.min(depth, DEEPEST))}`;
  for (const [token] of json.matchAll(TOKENS)) {
    const isOpening = token === "{" || token === "[";
    if (token === "}" || token === "]") {
      depth = Math.max(0, depth - 1);
      if (last !== "{" && last !== "[") parts.push(line());
    } else if (last === "{" || last === "[" || last === ",") parts.push(line());
    else if (last === ":") parts.push(" ");
    parts.push(token);
    if (isOpening) depth += 1;
    last = token;
  }
  return parts.join("");
}
