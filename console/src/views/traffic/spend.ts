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
    days.at.push(Date.parse(`${day}T12:00:00Z`) / 1000);
    days.cost.push(one?.cost ?? 0);
    days.prompt.push(one?.prompt_tokens ?? 0);
    days.completion.push(one?.completion_tokens ?? 0);
    days.failed.push(one?.num_failed ?? 0);
    days.requests.push(one?.num_requests ?? 0);
  }
  return days;
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
