import assert from "node:assert/strict";
import { test } from "node:test";
import { alertsOf, readMetrics, usedShare } from "./alerts";
import type { Backend, Budget, Flag, Standing } from "./types";

const standing: Standing = {
  budget: "b", subject: "tenant:acme", window: "day", started_at: 0, resets_at: null,
  spent: 0, reserved: 0, left: null, spent_tokens: 0, reserved_tokens: 0, left_tokens: null,
};
const budget = (money: number | null, tokens: number | null, change: Partial<Standing>): Budget => ({
  name: "b", subject: "tenant:acme", window: "day", money, tokens, is_fixed: false, has_more: false,
  standings: [{ ...standing, ...change }],
});
const backend = (change: Partial<Backend>): Backend => ({ id: "up", is_draining: false, health: "well", last_error: null, models: [], ...change });
const flag = (change: Partial<Flag>): Flag => ({
  account: "acme/key:k", monitor: "theft.bias", score: 1, action: "throttle", reason: "r", count: 1, since: 1, last: 2,
  evidence: null, is_shadow: false, ...change,
});
const ids = (seen: Parameters<typeof alertsOf>[0]) => alertsOf(seen).map((one) => `${one.kind} ${one.id}`);

test("a server on which all is well has no alerts, also where it tells nothing of something", () => {
  assert.deepEqual(alertsOf({}), []);
  assert.deepEqual(alertsOf({ monitors: null, backends: null, budgets: null, metrics: null }), []);
  assert.deepEqual(
    ids({
      backends: [backend({ health: "unchecked", models: [{ id: "m", breaker: "closed", num_failed: 2, retry_in_s: null }] })],
      budgets: [budget(10, null, { spent: 8.9 }), budget(null, null, { spent: 1e9 })],
      monitors: { data: [], mode: "enforce", num_unwatched: 0 },
      metrics: new Map([["headrace:trust_lost_records_total", 0]]),
    }),
    [],
  );
});

test("a budget is near its end from nine tenths on, and used up where nothing is left, by the bound that is nearest", () => {
  assert.deepEqual(ids({ budgets: [budget(10, null, { spent: 8, reserved: 1 })] }), ["warn budget:b:tenant:acme"]);
  assert.deepEqual(ids({ budgets: [budget(10, 100, { spent: 1, spent_tokens: 100 })] }), ["bad budget:b:tenant:acme"]);
  assert.equal(usedShare({ money: 0, tokens: null }, standing), 1);
});

test("breakers, failing health and drains are told for each model and backend, the worst first", () => {
  const models = [
    { id: "a", breaker: "trying", num_failed: 1, retry_in_s: null },
    { id: "b", breaker: "open", num_failed: 9, retry_in_s: 3 },
  ] as const;
  assert.deepEqual(ids({ backends: [backend({ is_draining: true, health: "failing", models: [...models] })] }), [
    "bad health:up",
    "bad breaker:up/b",
    "warn drain:up",
    "warn breaker:up/a",
  ]);
});

test("a flag that holds an account back is worse than one that is only watched", () => {
  const data = [flag({ is_shadow: true }), flag({ account: "b", action: "label" }), flag({ account: "c" })];
  assert.deepEqual(ids({ monitors: { data, mode: "enforce", num_unwatched: 3 } }), [
    "bad flag:c:theft.bias",
    "warn flag:acme/key:k:theft.bias",
    "warn flag:b:theft.bias",
    "warn unwatched",
  ]);
});

test("lost records and a log that is behind are read out of the metrics' text", () => {
  const text = [
    "# HELP headrace:trust_lost_records_total Lost.",
    "# TYPE headrace:trust_lost_records_total counter",
    "headrace:trust_lost_records_total 2.0",
    "headrace:trust_log_waiting 6000.0 1700000000",
    'headrace:trust_verdicts_total{monitor="x"} 9.0',
    "broken",
    "nan NaN",
  ].join("\n");
  const metrics = readMetrics(text);
  assert.deepEqual([...metrics], [["headrace:trust_lost_records_total", 2], ["headrace:trust_log_waiting", 6000]]);
  assert.deepEqual(ids({ metrics }), ["bad lost", "warn waiting"]);
});
