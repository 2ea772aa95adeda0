// What the values of requests and routes are called. No DOM.

import { money, percent, seconds } from "../../kit/format";
import type { Brief, Route, Step, StepKind } from "./shapes";

export type Tone = "good" | "info" | "warn" | "bad";

export const KINDS: Record<StepKind, string> = {
  first: "first choice",
  next: "next choice, after a failure",
  retry: "tried again",
  fallback: "fallback",
  hedge: "hedge, beside a slow one",
  tier: "a tier up",
  copy: "copy for the shadow",
};

export function toneOf(outcome: string): Tone {
  if (outcome === "ok") return "good";
  if (outcome === "cancelled") return "info";
  return BROKEN.has(outcome) ? "bad" : "warn";
}

// Something is broken, full or late. Every other code is a refusal by a rule, or of what was asked.
const BROKEN = new Set([
  ...["upstream_fault", "upstream_timeout", "engine_fault", "internal_error", "overloaded", "unavailable", "disk_full"],
  ...["deadline_exceeded", "model_file_error", "interrupted"],
]);

export function outcomeOf(outcome: string): string {
  return outcome === "cancelled" ? "its reader left" : outcome.replaceAll("_", " ");
}

// What a policy measured of a candidate, in its own unit.
export function scoreOf(policy: string, value: number | null): string {
  if (value === null) return "not known";
  const known: Record<string, (value: number) => string> = {
    weighted: (weight) => `weight ${round(weight)}`,
    least_loaded: (load) => `${load} on the way`,
    lowest_latency: seconds,
    lowest_cost: money,
    cache_affinity: (share) => `${percent(share)} warm`,
    complexity: (tier) => `tier ${tier}`,
    ordered: (place) => `number ${place + 1} in the file`,
  };
  return known[policy]?.(value) ?? String(round(value));
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}

// Which way a request went, in one sentence.
export function wayOf(one: Brief): string {
  const where = one.backend ? `${one.backend}/${one.model}` : "nowhere";
  if (one.cache) return `an answer of ${where} given again (${one.cache})`;
  const times = one.num_attempts > 1 ? ` after ${one.num_attempts} attempts` : "";
  return where + times;
}

// A failed attempt told as what happened and what it led to.
export function stepSentence(step: Step): string {
  const target = `${step.backend}/${step.model}`;
  if (!step.was_asked) return `${target} was not asked: ${step.reason || outcomeOf(step.outcome)}`;
  const took = seconds(step.ended_s - step.began_s);
  if (step.outcome === "ok") return `${target} answered in ${took}`;
  if (step.outcome === "cancelled") return `${target} was cancelled after ${took}`;
  const why = step.reason ? `: ${step.reason}` : "";
  return `${target} failed after ${took} (${outcomeOf(step.outcome)})${why}`;
}

export function shareOf(route: Route, routes: readonly Route[]): number {
  const all = routes.reduce((sum, one) => sum + one.figures.num_requests, 0);
  return all === 0 ? 0 : route.figures.num_requests / all;
}

export function failedShare({ num_requests, num_failed }: { num_requests: number; num_failed: number }): string {
  return num_requests === 0 ? "–" : percent(num_failed / num_requests);
}

export function orDash(value: number | null, format: (value: number) => string): string {
  return value === null ? "–" : format(value);
}
