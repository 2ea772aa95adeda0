// What an operator should look at, out of what the server's routes tell: flags of monitors, breakers and health of
// backends, budgets near their end, records that were lost. Values in, values out.

import { money, percent, seconds, tokens } from "../../kit/format";
import type { Backend, Budget, Monitors, Standing } from "./types";

export interface Alert {
  id: string; // the same thing has the same id as long as it lasts
  kind: "warn" | "bad";
  what: string; // in our words
  who: string; // a name that others chose
  detail: string; // may have words of others in it
  tab?: "budgets" | "alerts"; // where it can be looked at
}

export interface Seen {
  monitors?: Monitors | null;
  backends?: readonly Backend[] | null;
  budgets?: readonly Budget[] | null;
  metrics?: ReadonlyMap<string, number> | null;
}

export const NEAR_SHARE = 0.9;

// All of them, the worst first; within a kind in the order of their sources.
export function alertsOf(seen: Seen): Alert[] {
  const found = [
    ...ofBackends(seen.backends ?? []),
    ...ofBudgets(seen.budgets ?? []),
    ...ofMonitors(seen.monitors ?? null),
    ...ofMetrics(seen.metrics ?? new Map()),
  ];
  return [...found.filter((one) => one.kind === "bad"), ...found.filter((one) => one.kind === "warn")];
}

function* ofBackends(backends: readonly Backend[]): Generator<Alert> {
  for (const one of backends) {
    if (one.health === "failing") {
      yield { id: `health:${one.id}`, kind: "bad", what: "A backend fails its health checks", who: one.id, detail: one.last_error ?? "" };
    }
    if (one.is_draining) {
      yield { id: `drain:${one.id}`, kind: "warn", what: "A backend is drained", who: one.id, detail: "It gets no new requests until it is resumed." };
    }
    for (const model of one.models) {
      if (model.breaker === "closed") continue;
      const again = model.retry_in_s === null ? "" : ` It is asked again in ${seconds(model.retry_in_s)}.`;
      yield {
        id: `breaker:${one.id}/${model.id}`,
        kind: model.breaker === "open" ? "bad" : "warn",
        what: BREAKERS[model.breaker],
        who: `${one.id}/${model.id}`,
        detail: `${model.num_failed} requests failed.${again}`,
      };
    }
  }
}

const BREAKERS = {
  open: "A breaker is open: the model is not asked",
  trying: "A breaker lets single requests try",
  resting: "A backend asked to be left alone for a while",
} as const;

function* ofBudgets(budgets: readonly Budget[]): Generator<Alert> {
  for (const budget of budgets) {
    for (const one of budget.standings) {
      const share = usedShare(budget, one);
      if (share < NEAR_SHARE) continue;
      const isGone = share >= 1;
      yield {
        id: `budget:${budget.name}:${one.subject}`,
        kind: isGone ? "bad" : "warn",
        what: isGone ? "A budget is used up" : "A budget is near its end",
        who: budget.name,
        detail: `${one.subject}: ${percent(share)} of ${boundOf(budget)}`,
        tab: "budgets",
      };
    }
  }
}

// How much of a budget is spent or reserved, of the bound that is nearest.
export function usedShare(budget: Pick<Budget, "money" | "tokens">, one: Standing): number {
  return Math.max(share(one.spent + one.reserved, budget.money), share(one.spent_tokens + one.reserved_tokens, budget.tokens));
}

function share(used: number, bound: number | null): number {
  if (bound === null) return 0;
  return bound > 0 ? used / bound : 1; // nothing may be spent: it is used up
}

export function boundOf(budget: Pick<Budget, "money" | "tokens">): string {
  const parts = [budget.money === null ? "" : money(budget.money), budget.tokens === null ? "" : `${tokens(budget.tokens)} tokens`];
  return parts.filter(Boolean).join(" and ") || "nothing";
}

function* ofMonitors(monitors: Monitors | null): Generator<Alert> {
  if (monitors === null) return;
  for (const one of monitors.data) {
    const isActed = !one.is_shadow && (one.action === "refuse" || one.action === "throttle");
    yield {
      id: `flag:${one.account}:${one.monitor}`,
      kind: isActed ? "bad" : "warn",
      what: isActed ? "An account is held back by a monitor" : "A monitor has flagged an account",
      who: one.account,
      detail: `${one.monitor}: ${one.reason}`,
    };
  }
  if (monitors.num_unwatched > 0) {
    yield {
      id: "unwatched",
      kind: "warn",
      what: "Inputs were not compared with what is usual",
      who: "",
      detail: `${monitors.num_unwatched} of them: more came than could be.`,
    };
  }
}

const LOST = "headrace:trust_lost_records_total";
const WAITING = "headrace:trust_log_waiting";
const MANY_WAITING = 5000;

function* ofMetrics(metrics: ReadonlyMap<string, number>): Generator<Alert> {
  const lost = metrics.get(LOST) ?? 0;
  if (lost > 0) {
    yield { id: "lost", kind: "bad", what: "Records of answers were lost", who: "", detail: `${lost} since the server started.` };
  }
  const waiting = metrics.get(WAITING) ?? 0;
  if (waiting >= MANY_WAITING) {
    yield { id: "waiting", kind: "warn", what: "The log is behind", who: "", detail: `${waiting} items are in no checkpoint yet.` };
  }
}

// The samples of Prometheus' text format that have no labels, by name.
export function readMetrics(text: string): Map<string, number> {
  const found = new Map<string, number>();
  for (const line of text.split("\n")) {
    const match = /^([A-Za-z_:][A-Za-z0-9_:]*) (\S+)/.exec(line);
    const value = match ? Number(match[2]) : NaN;
    if (match && Number.isFinite(value)) found.set(match[1]!, value);
  }
  return found;
}
