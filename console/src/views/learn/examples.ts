// One request as a program says it: curl, Python, TypeScript, each with nothing but itself or with OpenAI's library.
// Every value is quoted for its language, whatever is in it. Pure text; nothing is sent.

import type { Route } from "./openapi";

export interface Asked {
  route: Route;
  origin: string; // "http://127.0.0.1:8000"
  values: Readonly<Record<string, string>>; // of the path's parts
  query: Readonly<Record<string, string>>; // what is empty is left out
  body: unknown; // JSON; null: none
  hasKey: boolean; // the server asks for one
}

export type Language = "curl" | "python" | "python-openai" | "typescript" | "typescript-openai";

export const LANGUAGES: readonly { id: Language; title: string }[] = [
  { id: "curl", title: "curl" },
  { id: "python", title: "Python" },
  { id: "python-openai", title: "Python, openai" },
  { id: "typescript", title: "TypeScript" },
  { id: "typescript-openai", title: "TypeScript, openai" },
];

export const KEY_VARIABLE = "HEADRACE_API_KEY";

// What OpenAI's libraries call a route, in both languages. `{}`: its one part of the path is the first argument.
const CALLS: Readonly<Record<string, readonly [python: string, typescript: string]>> = {
  "post /v1/chat/completions": ["chat.completions.create", "chat.completions.create"],
  "post /v1/completions": ["completions.create", "completions.create"],
  "post /v1/embeddings": ["embeddings.create", "embeddings.create"],
  "post /v1/responses": ["responses.create", "responses.create"],
  "get /v1/responses/{id}": ["responses.retrieve", "responses.retrieve"],
  "get /v1/models": ["models.list", "models.list"],
  "get /v1/models/{id}": ["models.retrieve", "models.retrieve"],
  "get /v1/files": ["files.list", "files.list"],
  "get /v1/files/{id}": ["files.retrieve", "files.retrieve"],
  "get /v1/batches": ["batches.list", "batches.list"],
  "get /v1/batches/{id}": ["batches.retrieve", "batches.retrieve"],
  "post /v1/batches": ["batches.create", "batches.create"],
};

export function languagesOf(route: Route): typeof LANGUAGES {
  const isForm = route.body !== null && route.body.media !== "application/json";
  return LANGUAGES.filter(({ id }) => {
    if (id === "python-openai" || id === "typescript-openai") return route.id in CALLS || isForm;
    return !(isForm && id === "python");
  });
}

export function pathOf({ route, values, query }: Pick<Asked, "route" | "values" | "query">): string {
  const path = route.path.replace(/\{([^}]+)\}/g, (_, name: string) => {
    const escaped = encodeURIComponent(values[name] || name.toUpperCase());
    return name === "path" ? escaped.replaceAll("%2F", "/") : escaped;
  });
  const search = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== ""));
  return search.size ? `${path}?${search}` : path;
}

export function example(language: Language, asked: Asked): string {
  return MAKERS[language](asked);
}

const MAKERS: Record<Language, (asked: Asked) => string> = {
  curl: curl,
  python: python,
  "python-openai": pythonOpenai,
  typescript: typescript,
  "typescript-openai": typescriptOpenai,
};

const isForm = (asked: Asked) => asked.route.body !== null && asked.route.body.media !== "application/json";
const hasBody = (asked: Asked) => asked.body !== null && asked.body !== undefined && !isForm(asked);

// curl

export function shellQuoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function curl(asked: Asked): string {
  const url = shellQuoted(asked.origin + pathOf(asked));
  const method = asked.route.method.toUpperCase();
  const sends = hasBody(asked) || isForm(asked);
  const lines = [`curl -sS ${method === (sends ? "POST" : "GET") ? "" : `-X ${method} `}${url}`];
  if (asked.hasKey) lines.push(`-H "authorization: Bearer $${KEY_VARIABLE}"`);
  if (isForm(asked)) lines.push("-F purpose=batch", "-F file=@requests.jsonl");
  if (hasBody(asked)) {
    lines.push(`-H 'content-type: application/json'`);
    lines.push(`-d ${shellQuoted(JSON.stringify(asked.body, null, 2))}`);
  }
  return lines.join(" \\\n  ");
}

// Python

export function pythonLiteral(value: unknown, indent = 0): string {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = " ".repeat(indent + 4);
  const outer = " ".repeat(indent);
  const parts = Array.isArray(value)
    ? value.map((one) => pythonLiteral(one, indent + 4))
    : Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${pythonLiteral(one, indent + 4)}`);
  const [open, close] = Array.isArray(value) ? ["[", "]"] : ["{", "}"];
  return parts.length === 0 ? open! + close! : `${open}\n${parts.map((one) => `${inner}${one},\n`).join("")}${outer}${close}`;
}

function python(asked: Asked): string {
  const imports = [...(hasBody(asked) ? ["import json"] : []), ...(asked.hasKey ? ["import os"] : []), "from urllib.request import Request, urlopen"];
  const headers = [
    ...(hasBody(asked) ? [`"content-type": "application/json"`] : []),
    ...(asked.hasKey ? [`"authorization": f"Bearer {os.environ['${KEY_VARIABLE}']}"`] : []),
  ];
  const lines = [...imports, ""];
  if (hasBody(asked)) lines.push(`body = ${pythonLiteral(asked.body)}`);
  lines.push(
    "request = Request(",
    `    ${JSON.stringify(asked.origin + pathOf(asked))},`,
    ...(hasBody(asked) ? ["    data=json.dumps(body).encode(),"] : []),
    ...(headers.length ? [`    headers={${headers.join(", ")}},`] : []),
    `    method=${JSON.stringify(asked.route.method.toUpperCase())},`,
    ")",
    "with urlopen(request) as answer:",
    "    print(answer.read().decode())",
  );
  return lines.join("\n");
}

function pythonOpenai(asked: Asked): string {
  const key = asked.hasKey ? `os.environ["${KEY_VARIABLE}"]` : `"none"`;
  const lines = [...(asked.hasKey ? ["import os", ""] : []), "from openai import OpenAI", ""];
  lines.push(`client = OpenAI(base_url=${JSON.stringify(`${asked.origin}/v1`)}, api_key=${key})`);
  if (isForm(asked)) {
    lines.push('answer = client.files.create(file=open("requests.jsonl", "rb"), purpose="batch")');
  } else {
    const given = [...parts(asked).map((one) => JSON.stringify(one)), ...named(asked)];
    const call = `client.${CALLS[asked.route.id]![0]}`;
    lines.push(given.length ? `answer = ${call}(\n${given.map((one) => `    ${one},\n`).join("")})` : `answer = ${call}()`);
  }
  lines.push("print(answer.model_dump_json(indent=2))");
  return lines.join("\n");
}

function named(asked: Asked): string[] {
  if (!hasBody(asked)) return [];
  return Object.entries(asked.body as object).map(([name, value]) => `${name}=${pythonLiteral(value, 4)}`);
}

function parts(asked: Asked): string[] {
  return asked.route.parameters.filter((one) => one.in === "path").map(({ name }) => asked.values[name] || name.toUpperCase());
}

// TypeScript

function typescript(asked: Asked): string {
  const url = JSON.stringify(asked.origin + pathOf(asked));
  const headers = [
    ...(hasBody(asked) ? [`"content-type": "application/json"`] : []),
    ...(asked.hasKey ? [`authorization: \`Bearer \${process.env.${KEY_VARIABLE}}\``] : []),
  ];
  const method = asked.route.method.toUpperCase();
  const options = [
    ...(method === "GET" ? [] : [`method: ${JSON.stringify(method)}`]),
    ...(headers.length ? [`headers: { ${headers.join(", ")} }`] : []),
    ...(hasBody(asked) ? [`body: JSON.stringify(${indented(asked.body, 2)})`] : []),
    ...(isForm(asked) ? ["body: form"] : []),
  ];
  const form = isForm(asked)
    ? ['import { openAsBlob } from "node:fs";', "", "const form = new FormData();", 'form.set("purpose", "batch");', 'form.set("file", await openAsBlob("requests.jsonl"), "requests.jsonl");']
    : [];
  const call = options.length ? `await fetch(${url}, {\n${options.map((one) => `  ${one},\n`).join("")}})` : `await fetch(${url})`;
  return [...form, `const answer = ${call};`, "console.log(answer.status, await answer.text());"].join("\n");
}

function typescriptOpenai(asked: Asked): string {
  const key = asked.hasKey ? `process.env.${KEY_VARIABLE}` : `"none"`;
  const lines = ['import OpenAI from "openai";', ""];
  if (isForm(asked)) lines.unshift('import { createReadStream } from "node:fs";');
  lines.push(`const client = new OpenAI({ baseURL: ${JSON.stringify(`${asked.origin}/v1`)}, apiKey: ${key} });`);
  const given = [...parts(asked).map((one) => JSON.stringify(one)), ...(hasBody(asked) ? [indented(asked.body, 0)] : [])];
  const call = isForm(asked)
    ? 'client.files.create({ file: createReadStream("requests.jsonl"), purpose: "batch" })'
    : `client.${CALLS[asked.route.id]![1]}(${given.join(", ")})`;
  const told = CALLS[asked.route.id]?.[1].endsWith(".list") ? "answer.data" : "answer"; // a page is more than its data
  lines.push(`const answer = await ${call};`, `console.log(JSON.stringify(${told}, null, 2));`);
  return lines.join("\n");
}

function indented(value: unknown, indent: number): string {
  return JSON.stringify(value, null, 2).replaceAll("\n", `\n${" ".repeat(indent)}`);
}
