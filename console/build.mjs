// Makes the page that the server gives out: bundles with a digest in their names, one index.html, each compressed once.
// `node build.mjs OUT` writes to OUT and nowhere else. Knows no route of the server.

import { createHash } from "node:crypto";
import { glob, mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { build } from "esbuild";

const source = dirname(fileURLToPath(import.meta.url));
const wanted = resolve(process.argv[2] ?? join(source, "../src/headrace/server/static"));
const out = `${wanted}.making`; // a server that is being asked meanwhile sees the old page or the new one, no half

const common = {
  absWorkingDir: source,
  bundle: true,
  minify: true,
  metafile: true,
  outdir: out,
  target: ["es2022", "chrome123", "firefox120", "safari17.5"], // those that know light-dark()
  legalComments: "linked",
  entryNames: "[name]-[hash]",
};

// One style sheet for all views: it is small, and none of them has to wait for its own. What scripts import of styles says
// whose they are.
const styles = ["./node_modules/uplot/dist/uPlot.min.css", "./src/style/tokens.css", "./src/style/page.css", "./src/kit/kit.css"];
const others = await Array.fromAsync(glob("src/views/**/*.css", { cwd: source }));
const imports = [...styles, ...others.sort().map((path) => `./${path.replaceAll("\\", "/")}`)];

// What a bundle imports at once, named in the page so that a browser asks for all of it together.
function neededBy(script, metafile) {
  const outputs = new Map(Object.entries(metafile.outputs).map(([path, output]) => [basename(path), output]));
  const needed = new Set();
  const visit = (name) => {
    for (const one of outputs.get(name).imports.filter((found) => found.kind === "import-statement")) {
      const other = basename(one.path);
      if (needed.has(other)) continue;
      needed.add(other);
      visit(other);
    }
  };
  visit(script);
  return [...needed].sort();
}

async function make() {
  const scripts = await build({
    ...common,
    entryPoints: ["src/main.tsx"],
    format: "esm",
    splitting: true,
    chunkNames: "[name]-[hash]",
    loader: { ".css": "empty" },
  });
  const sheet = await build({
    ...common,
    stdin: { contents: imports.map((path) => `@import "${path}";`).join("\n"), resolveDir: source, loader: "css" },
    entryNames: "page-[hash]",
  });
  const named = (made, pattern) => Object.keys(made.metafile.outputs).map((path) => basename(path)).find((name) => pattern.test(name));
  const template = await readFile(join(source, "src/index.html"), "utf8");
  const script = named(scripts, /^main-.*\.js$/);
  const preloads = neededBy(script, scripts.metafile).map((name) => `<link rel="modulepreload" href="/console/static/${name}" />`);
  const page = template
    .replace("{script}", script)
    .replace("{style}", named(sheet, /\.css$/))
    .replace("{preloads}", preloads.join("\n    "));
  await writeFile(join(out, "index.html"), page);
}

// What is in the bundles is others' work too, whose licences ask to go with it.
async function tellLicences() {
  const { dependencies } = JSON.parse(await readFile(join(source, "package.json"), "utf8"));
  const texts = Object.keys(dependencies).map(async (name) => {
    const folder = join(source, "node_modules", name);
    const { version } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
    return `${name} ${version}\n\n${await readFile(join(folder, "LICENSE"), "utf8")}`;
  });
  await writeFile(join(out, "licences.txt"), (await Promise.all(texts)).join("\n\n"));
}

async function compress() {
  const sums = {};
  const quality = { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } };
  for (const name of (await readdir(out)).sort()) {
    const bytes = await readFile(join(out, name));
    sums[name] = createHash("sha256").update(bytes).digest("hex");
    await writeFile(join(out, `${name}.gz`), gzipSync(bytes, { level: 9 }));
    await writeFile(join(out, `${name}.br`), brotliCompressSync(bytes, quality));
  }
  await writeFile(join(out, "built.json"), JSON.stringify(sums, null, 1));
}

await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
await make();
await tellLicences();
await compress();
await rm(wanted, { recursive: true, force: true });
await rename(out, wanted);
