// Makes the page that the server gives out: bundles with a digest in their names, one index.html, each compressed once.
// `node build.mjs OUT` writes to OUT and nowhere else. Knows no route of the server.

import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { build } from "esbuild";

const out = process.argv[2] ?? "../src/headrace/server/static";
const source = new URL(".", import.meta.url).pathname;

await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
const made = await build({
  absWorkingDir: source,
  entryPoints: ["src/main.tsx"],
  outdir: resolve(out),
  bundle: true,
  format: "esm",
  splitting: true,
  minify: true,
  metafile: true,
  target: ["es2022"],
  legalComments: "linked",
  entryNames: "[name]-[hash]",
  chunkNames: "chunk-[hash]",
  assetNames: "[name]-[hash]",
});

const names = Object.keys(made.metafile.outputs).map((path) => path.split("/").at(-1));
const script = names.find((name) => /^main-.*\.js$/.test(name));
const style = names.find((name) => /^main-.*\.css$/.test(name));
const template = await readFile(join(source, "src/index.html"), "utf8");
await writeFile(join(out, "index.html"), template.replace("{script}", script).replace("{style}", style));

const sums = {};
for (const name of (await readdir(out)).sort()) {
  const bytes = await readFile(join(out, name));
  sums[name] = createHash("sha256").update(bytes).digest("hex");
  await writeFile(join(out, `${name}.gz`), gzipSync(bytes, { level: 9 }));
  const quality = { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } };
  await writeFile(join(out, `${name}.br`), brotliCompressSync(bytes, quality));
}
await writeFile(join(out, "built.json"), JSON.stringify(sums, null, 1));
