// Claude Code without a terminal: it reads a file, edits it, runs a command and answers, with all its tools and with few.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";

const environ = {
  ...process.env,
  ANTHROPIC_BASE_URL: process.env.HEADRACE_URL,
  ANTHROPIC_AUTH_TOKEN: "unused",
  ANTHROPIC_MODEL: "scripted",
  DISABLE_TELEMETRY: "1",
  DISABLE_AUTOUPDATER: "1",
  CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1",
};
const allowed = ["--permission-mode", "acceptEdits", "--allowedTools", "Bash(cat:*)"];

// With all its tools it knows some by name only, and looks one of them up.
for (const [name, mode, numTurns] of [["bare", ["--bare"], 4], ["whole", [], 5]]) {
  writeFileSync("greeting.py", "greeting = 'Hello'\n");
  const words = ["-p", ...mode, ...allowed, "--output-format", "json", "Make the greeting more formal."];
  const done = spawnSync("claude", words, { env: environ, encoding: "utf8", timeout: 100_000, input: "" });
  assert.equal(done.status, 0, `${done.stdout}\n${done.stderr}`);
  const told = JSON.parse(done.stdout);
  assert.equal(told.is_error, false, done.stdout);
  assert.equal(told.result, "The greeting is a good day now.");
  assert.equal(told.num_turns, numTurns);
  assert.equal(readFileSync("greeting.py", "utf8"), "greeting = 'Good day'\n");
  assert.ok(told.usage.cache_read_input_tokens > 0, done.stdout);
  console.log(`did read, edit, command and answer (${name})`);
}
