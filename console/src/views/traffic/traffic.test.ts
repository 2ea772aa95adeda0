// The view's logic without a page: what is said of values, where bars stand, which days there are, which requests are asked
// for.

import assert from "node:assert/strict";
import { test } from "node:test";
import { layOut, ticksOf } from "./axis";
import { addressOf, apiPath, filtersOf, joined, NONE, placeOf, readFilters } from "./filters";
import type { Budget, BudgetStanding, Step, UsageSum } from "./shapes";
import { daily, firstDay, isSpent, largestOf, measures } from "./spend";
import { scoreOf, stepSentence, toneOf } from "./words";

function step(began_s: number, first_s: number | null, ended_s: number, more: Partial<Step> = {}): Step {
  return {
    backend: "up", model: "m", kind: "first", began_s, first_s, ended_s, outcome: "ok", reason: "", was_asked: true,
    is_trial: false, standing: "", num_bytes: 0, num_tokens: 0, cost: 0, ...more,
  };
}

test("bars stand where attempts were, and one that took no time is seen all the same", () => {
  const { bars, length_s } = layOut([step(0, 1, 4), step(4, null, 4), step(5, 6, 10)], 10);
  assert.equal(length_s, 10);
  assert.deepEqual(bars[0], { left: 0, waiting: 0.1, answering: 0.30000000000000004 });
  assert.ok(bars[1]!.waiting > 0 && bars[1]!.answering === 0);
  assert.deepEqual([bars[2]!.left, bars[2]!.left + bars[2]!.waiting + bars[2]!.answering], [0.5, 1]);
});

test("no bar leaves the axis, whatever the clocks say", () => {
  for (const [began, first, ended] of [[0, 0, 0], [-1, 2, 1], [5, 1, 9], [9, null, 9]] as const) {
    for (const bar of layOut([step(began, first, ended)], 0.001).bars) {
      assert.ok(bar.left >= 0 && bar.waiting >= 0 && bar.answering >= 0);
      assert.ok(bar.left + bar.waiting + bar.answering <= 1.0000001);
    }
  }
});

test("ticks are round numbers within the axis", () => {
  for (const length of [0.0004, 0.03, 0.9, 1, 7, 63, 4000]) {
    const ticks = ticksOf(length);
    assert.ok(ticks.length >= 3 && ticks.length <= 7, `${length}: ${ticks.length}`);
    assert.equal(ticks[0]!.s, 0);
    assert.ok(ticks.at(-1)!.at <= 1.001);
  }
});

test("a score is told in its policy's own unit", () => {
  assert.equal(scoreOf("cache_affinity", 0.75), "75 % warm");
  assert.equal(scoreOf("lowest_latency", 0.25), "250 ms");
  assert.equal(scoreOf("lowest_cost", 0.002), "$0.002");
  assert.equal(scoreOf("least_loaded", 3), "3 on the way");
  assert.equal(scoreOf("lowest_latency", null), "not known");
  assert.equal(scoreOf("of_tomorrow", 0.12345), "0.123");
});

test("an attempt is told in a sentence, and one that was not made says why", () => {
  assert.equal(stepSentence(step(0, 1, 2)), "up/m answered in 2 s");
  const failed = step(0, null, 0.5, { outcome: "upstream_fault", reason: "it failed" });
  assert.equal(stepSentence(failed), "up/m failed after 500 ms (upstream fault): it failed");
  const away = step(0, null, 0, { was_asked: false, outcome: "unavailable", reason: "its breaker is open" });
  assert.equal(stepSentence(away), "up/m was not asked: its breaker is open");
});

test("what a rule refused is no failure of a machine", () => {
  assert.deepEqual(["ok", "cancelled", "budget_exceeded", "of_tomorrow", "upstream_fault"].map(toneOf), ["good", "info", "warn", "warn", "bad"]);
});

const NOON = Date.parse("2026-03-01T12:00:00Z") / 1000;
const usage = (day: string, cost: number): UsageSum => ({
  group: { day }, num_requests: 2, num_failed: 1, prompt_tokens: 10, cached_tokens: 0, completion_tokens: 5, cost, saved: 0,
});

test("days without usage are there, over the end of a month too", () => {
  const days = daily([usage("2026-02-27", 3), usage("2026-03-01", 1), usage("2020-01-01", 9)], "7", NOON);
  assert.deepEqual(days.cost, [0, 0, 0, 0, 3, 0, 1]);
  assert.equal(firstDay("7", NOON), "2026-02-23");
  assert.equal(days.at.at(-1), NOON);
});

test("the groups that cost most have lines of their own, and nothing of the others is lost", () => {
  const sums = [..."abcdefg"].map((key, index) => ({ ...usage("2026-03-01", index + 1), group: { day: "2026-03-01", key } }));
  const { names, costs, at } = largestOf(sums, "7", "key", NOON);
  assert.deepEqual(names, ["g", "f", "e", "d", "3 others"]);
  assert.deepEqual(costs.map((line) => line.at(-1)), [7, 6, 5, 4, 6]);
  assert.ok(costs.every((line) => line.length === at.length && line.slice(0, -1).every((cost) => cost === 0)));
  assert.deepEqual(largestOf(sums.slice(0, 2), "7", "key", NOON).names, ["b", "a"]);
});

const standing: BudgetStanding = {
  budget: "b", subject: "key:a", window: "day", started_at: 0, resets_at: null, spent: 1, reserved: 0.5, left: 0,
  spent_tokens: 7,
  reserved_tokens: 1, left_tokens: null,
};
const budget = (money: number | null, tokens: number | null): Budget => ({
  name: "b", subject: "key:*", window: "day", money, tokens, is_fixed: false, standings: [standing], has_more: false,
});

test("a budget is measured in what it bounds", () => {
  assert.deepEqual(measures(budget(2, null), standing), [{ kind: "money", spent: 1, reserved: 0.5, limit: 2 }]);
  assert.deepEqual(measures(budget(2, 9), standing).map((one) => one.kind), ["money", "tokens"]);
  assert.ok(isSpent(standing));
  assert.ok(!isSpent({ ...standing, left: 0.1 }));
});

test("filters come back from the address, and the API is asked for what they mean", () => {
  const filters = { ...NONE, tenant: "a&b", which: "slow" as const };
  assert.deepEqual(readFilters(`?${addressOf(filters).split("?")[1]}`), filters);
  assert.equal(apiPath(filters, { limit: 5, after: 9 }), "/v1/gateway/requests?limit=5&tenant=a%26b&slow=true&after=9");
  assert.equal(apiPath({ ...NONE, which: "failed" }, { limit: 1 }), "/v1/gateway/requests?limit=1&outcome=failed");
  assert.deepEqual(readFilters("?which=nonsense"), NONE);
  assert.equal(addressOf(NONE), "traffic/requests");
});

test("a budget leads to the requests of whom it is for", () => {
  assert.deepEqual(filtersOf("key:laptop"), { key: "laptop" });
  assert.deepEqual(filtersOf("user:anna/bob"), { tenant: "anna", user: "bob" });
  assert.deepEqual(filtersOf("user:bob"), { user: "bob" });
  assert.equal(filtersOf("all"), null);
  assert.equal(filtersOf("tag:team"), null);
});

test("a page that is read anew goes before older ones without a double, and lets go of them rather than leave a hole", () => {
  const rows = (...numbers: number[]) => numbers.map((number) => ({ number }));
  assert.deepEqual(joined(rows(9, 8, 7), rows(8, 7, 6, 5), true), rows(9, 8, 7, 6, 5));
  assert.deepEqual(joined(rows(), rows(2, 1), false), rows(2, 1));
  assert.deepEqual(joined(rows(30, 29), rows(8, 7), true), rows(30, 29));
  assert.deepEqual(joined(rows(9, 8), rows(7, 6), true), rows(9, 8, 7, 6));
  assert.deepEqual(joined(rows(30, 8), rows(8, 7), false), rows(30, 8, 7));
  const known = rows(9, 8, 7);
  assert.equal(joined(rows(9, 8), known, true), known, "nothing new is the same value");
});

test("an address names a tab or one request, whatever its id holds", () => {
  assert.deepEqual(placeOf("traffic"), { tab: "routes", requestId: null });
  assert.deepEqual(placeOf("traffic/requests/a%2Fb"), { tab: "requests", requestId: "a/b" });
  assert.deepEqual(placeOf("traffic/requests/100%"), { tab: "requests", requestId: "100%" });
  assert.deepEqual(placeOf("traffic/nowhere"), { tab: "routes", requestId: null });
});
