// Which models fit what is typed, and what is said of a probability.

import assert from "node:assert/strict";
import { test } from "node:test";
import { chance, rank, shortfall } from "./chances";
import { choose, type ModelCard } from "./model_choice";

const MANY: ModelCard[] = Array.from({ length: 1000 }, (_, at) => ({ id: `Org/model-${at}`, tasks: ["generate"] }));

test("of many models a hundred are shown, and how many more there are is said", () => {
  const { shown, numMore } = choose(MANY, "");
  assert.deepEqual([shown.length, numMore], [100, 900]);
});

test("every word has to be in the name, in any case and order", () => {
  assert.deepEqual(choose(MANY, "MODEL-77 org").shown.map((card) => card.id), [
    "Org/model-77", ...Array.from({ length: 10 }, (_, at) => `Org/model-77${at}`),
  ]);
  assert.equal(choose(MANY, "nothing").shown.length, 0);
});

test("an alias finds its model, and models that do not generate are left out", () => {
  const cards = [{ id: "real", aliases: ["gpt"], tasks: ["generate"] }, { id: "gpt-embed", tasks: ["embed"] }, { id: "gpt" }];
  assert.deepEqual(choose(cards, "gpt").shown.map((card) => card.id), ["gpt", "real"]);
});

const token = (logprob: number, numOthers = 1) => ({ text: "x", logprob, others: Array(numOthers).fill({ text: "y", logprob: -1 }) });

test("probabilities have five classes, and none where nothing was told", () => {
  const shares = [1, 0.9, 0.6, 0.3, 0.1, 0.01];
  assert.deepEqual(shares.map((share) => rank(token(Math.log(share)))), [0, 0, 1, 2, 3, 4]);
  assert.equal(rank(token(-9999)), null);
  assert.deepEqual([0, -0.7, -3, -20].map(chance), ["100 %", "50 %", "5.0 %", "less than 0.1 %"]);
});

test("that less was told is said, with the reason that is known", () => {
  assert.equal(shortfall([token(-0.123456)], 1, ["logprobs"]), null);
  assert.equal(shortfall([], 1, []), null);
  assert.equal(shortfall([token(0)], 1, ["generate"]), null);
  assert.match(shortfall([token(-0.123456, 0)], 1, ["generate"])!, /the scope `logprobs`/);
  assert.match(shortfall([token(-0.12)], 1, ["generate"])!, /rounded/);
  assert.match(shortfall([token(-9999)], 1, ["logprobs"])!, /the backend tells no more/);
});
