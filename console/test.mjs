// Runs the tests of the page's pure logic (src/**/*.test.ts) in Node. `node test.mjs [part of a name]`.

import { spawnSync } from "node:child_process";
import { glob, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const source = dirname(fileURLToPath(import.meta.url));
const wanted = process.argv[2] ?? "";
const found = (await Array.fromAsync(glob("src/**/*.test.ts", { cwd: source }))).filter((path) => path.includes(wanted));
if (found.length === 0) {
  console.error(`no test has ${JSON.stringify(wanted)} in its name`);
  process.exit(2);
}
const out = await mkdtemp(join(tmpdir(), "headrace-console-"));
try {
  await build({
    absWorkingDir: source,
    entryPoints: found,
    outdir: out,
    outExtension: { ".js": ".mjs" },
    bundle: true,
    format: "esm",
    platform: "node",
    sourcemap: "inline",
    loader: { ".css": "empty" },
  });
  const made = (await readdir(out, { recursive: true })).filter((name) => name.endsWith(".mjs")).map((name) => join(out, name));
  const ran = spawnSync(process.execPath, ["--enable-source-maps", "--test", "--test-reporter=dot", ...made], { stdio: "inherit" });
  process.exitCode = ran.status ?? 1;
} finally {
  await rm(out, { recursive: true, force: true });
}
