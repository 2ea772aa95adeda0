import assert from "node:assert/strict";
import { test } from "node:test";
import { budgetForm, budgetOfKey, fieldOf, filledIn, FormError, keyBody, limitForm, NEW_KEY, questionBody } from "./orders";

test("a key's body has what was filled in, and nothing else", () => {
  assert.deepEqual(keyBody({ ...NEW_KEY, name: " laptop " }), { name: "laptop", scopes: ["generate"] });
  assert.deepEqual(
    keyBody({
      ...NEW_KEY, name: "ci", tenant: "acme", scopes: ["generate", "admin"], tags: "a, b,,", labels: "restricted", routes: " chat ",
      priority: 0, share: 2, user: "ann",
    }),
    {
      name: "ci", tenant: "acme", scopes: ["generate", "admin"], tags: ["a", "b"], labels: ["restricted"], routes: ["chat"],
      priority: 0, share: 2, user: "ann",
    },
  );
});

test("an expiry is this machine's time, told in whole Unix seconds", () => {
  const expires = keyBody({ ...NEW_KEY, name: "x", expires: "2030-01-31T12:00" })["expires"];
  assert.equal(expires, new Date(2030, 0, 31, 12).getTime() / 1000);
});

test("a key may come with a budget of its own", () => {
  assert.equal(budgetOfKey({ ...NEW_KEY, name: "x" }), null);
  assert.deepEqual(budgetOfKey({ ...NEW_KEY, name: " x", budget: 0, window: "day" }), {
    name: "key-x", subject: "key:x", window: "day", money: 0,
  });
  assert.equal(String(budgetOfKey({ ...NEW_KEY, name: "n".repeat(64), budget: 1 })!["name"]).length, 64);
});

test("what is not filled in is left out, and nothing is not zero", () => {
  assert.deepEqual(filledIn({ name: " n ", subject: "", money: 0, tokens: null }), { name: "n", money: 0 });
  assert.deepEqual(filledIn(limitForm(null)), {});
  assert.equal(budgetForm(null).window, "month");
});

test("a question's JSON is an object, or the field that is not is named", () => {
  const question = { action: "tool", resource: " mail ", attributes: "", context: '{"integrity": 2}' } as const;
  assert.deepEqual(questionBody(question), {
    questions: [{ action: "tool", resource: "mail", attributes: {}, context: { integrity: 2 } }],
  });
  for (const wrong of ["{", "[]", "null", "3"]) {
    assert.throws(
      () => questionBody({ ...question, attributes: wrong }),
      (error: unknown) => error instanceof FormError && error.param === "attributes",
    );
  }
});

test("an error is shown beside the field that it names, however deep that is", () => {
  const fields = ["name", "scopes", "resource"];
  assert.equal(fieldOf("scopes", fields), "scopes");
  assert.equal(fieldOf("questions[0].resource", fields), "resource");
  assert.equal(fieldOf("$.name", fields), "name");
  assert.equal(fieldOf("body", fields), null);
  assert.equal(fieldOf(null, fields), null);
});
