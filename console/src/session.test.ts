// What is said of a sign-in that something in front of the server refused.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ApiError } from "./api";
import { explainRefusal } from "./session";

const TOKEN = "a".repeat(8000);

test("a proxy's refusal of a long token is told as one", () => {
  const told = explainRefusal(new ApiError(400, "http_400", "The server answered 400."), TOKEN);
  assert(told instanceof ApiError);
  assert.equal(told.status, 400);
  assert.match(told.message, /^The server answered 400\. .*proxy.*8000 characters/);
});

test("what the server itself says, and what is no length's fault, stays as it is", () => {
  for (const [problem, secret] of [
    [new ApiError(401, "invalid_api_key", "the API key is not valid"), TOKEN],
    [new ApiError(0, "unreachable", "The server does not answer."), TOKEN],
    [new ApiError(502, "http_502", "The server answered 502."), "hr_short"],
    [new TypeError("a defect"), TOKEN],
  ] as const) {
    assert.equal(explainRefusal(problem, secret), problem);
  }
});
