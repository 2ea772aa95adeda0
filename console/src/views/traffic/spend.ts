// Sums of usage made ready to be drawn: days without any are days too, and small groups are put together. No DOM.

import type { Budget, BudgetStanding, UsageSum } from "./shapes";

export const PERIODS = ["7", "30", "90"] as const;
export type Period = (typeof PERIODS)[number];

export const GROUPS = ["key", "tenant", "model", "route", "backend", "user", "tag"] as const;
export type Group = (typeof GROUPS)[number];

const DAY_S = 86_400;

// The first day of a period that ends today, in UTC as the server counts.
export function firstDay(period: Period, now_s: number): string {
  return dayOf(now_s - (Number(period) - 1) * DAY_S);
}

export function dayOf(unixS: number): string {
  return new Date(unixS * 1000).toISOString().slice(0, 10);
}

export interface Days {
  at: number[]; // Unix seconds of each day's noon, which is the same day wherever one is
  cost: number[];
  prompt: number[];
  completion: number[];
  failed: number[];
  requests: number[];
}

export function daily(sums: readonly UsageSum[], period: Period, now_s: number): Days {
  const byDay = new Map(sums.map((one) => [one.group.day, one]));
  const days: Days = { at: [], cost: [], prompt: [], completion: [], failed: [], requests: [] };
  for (let back = Number(period) - 1; back >= 0; back -= 1) {
    const day = dayOf(now_s - back * DAY_S);
    const one = byDay.get(day);
    days.at.push(noon(day));
    days.cost.push(one?.cost ?? 0);
    days.prompt.push(one?.prompt_tokens ?? 0);
    days.completion.push(one?.completion_tokens ?? 0);
    days.failed.push(one?.num_failed ?? 0);
    days.requests.push(one?.num_requests ?? 0);
  }
  return days;
}

const MOST_LINES = 5;

export interface Largest {
  at: number[];
  names: string[];
  costs: number[][]; // of each name, a value a day
}

// The groups that cost most in all, each day by day, and the others as one.
export function largestOf(sums: readonly UsageSum[], period: Period, group: Group, now_s: number): Largest {
  const totals = new Map<string, number>();
  for (const one of sums) totals.set(one.group[group] ?? "", (totals.get(one.group[group] ?? "") ?? 0) + one.cost);
  const ranked = [...totals].sort((a, b) => b[1] - a[1]).map(([name]) => name);
  const own = ranked.length <= MOST_LINES ? ranked : ranked.slice(0, MOST_LINES - 1);
  const days: string[] = [];
  for (let back = Number(period) - 1; back >= 0; back -= 1) days.push(dayOf(now_s - back * DAY_S));
  const names = own.map((name) => name || "–");
  if (own.length < ranked.length) names.push(`${ranked.length - own.length} others`);
  const costs = names.map(() => days.map(() => 0));
  for (const one of sums) {
    const day = days.indexOf(one.group.day ?? "");
    const line = own.indexOf(one.group[group] ?? "");
    if (day >= 0) costs[line < 0 ? own.length : line]![day]! += one.cost;
  }
  return { at: days.map(noon), names, costs };
}

function noon(day: string): number {
  return Date.parse(`${day}T12:00:00Z`) / 1000;
}

export interface Measure {
  kind: "money" | "tokens";
  spent: number;
  reserved: number;
  limit: number;
}

// What a standing is measured against. A budget may bound money, tokens or both.
export function measures(budget: Budget, standing: BudgetStanding): Measure[] {
  const found: Measure[] = [];
  if (budget.money !== null) {
    found.push({ kind: "money", spent: standing.spent, reserved: standing.reserved, limit: budget.money });
  }
  if (budget.tokens !== null) {
    found.push({
      kind: "tokens",
      spent: standing.spent_tokens,
      reserved: standing.reserved_tokens,
      limit: budget.tokens,
    });
  }
  return found;
}

// Whether a budget has nothing left for somebody, so that it refuses what costs anything.
export function isSpent(standing: BudgetStanding): boolean {
  return standing.left === 0 || standing.left_tokens === 0;
}
