// What forms hold, and the bodies that the server is sent. The server checks; here is only what a form cannot say in JSON.

import type { Budget, Limit } from "./types";

export const SCOPES = ["generate", "metrics", "admin", "accounts", "logprobs", "audit", "endorse", "observe"] as const;
export const WINDOWS = ["minute", "hour", "day", "week", "month", "total"] as const;
export type Window = (typeof WINDOWS)[number];

export const SCOPE_TEXTS: Record<(typeof SCOPES)[number], string> = {
  generate: "ask models",
  metrics: "read metrics",
  admin: "load models, drain backends, clear flags, read the list of actions",
  accounts: "make and take back keys, budgets and limits",
  logprobs: "see all probabilities",
  audit: "read everybody's records",
  endorse: "let withheld calls of tools pass",
  observe: "see what administrators see, and change nothing",
};

export interface KeyForm {
  name: string;
  tenant: string;
  scopes: readonly string[];
  user: string;
  tags: string; // words with commas between them, as the two below
  labels: string;
  routes: string;
  priority: number | null;
  share: number | null;
  expires: string; // of an input of the kind datetime-local: this machine's time
  budget: number | null; // dollars
  window: Window;
}

export const NEW_KEY: KeyForm = {
  name: "", tenant: "", scopes: ["generate"], user: "", tags: "", labels: "", routes: "",
  priority: null, share: null, expires: "", budget: null, window: "month",
};

export function keyBody(form: KeyForm): Record<string, unknown> {
  const body: Record<string, unknown> = { name: form.name.trim(), scopes: form.scopes };
  if (form.tenant.trim()) body["tenant"] = form.tenant.trim();
  if (form.user.trim()) body["user"] = form.user.trim();
  for (const name of ["tags", "labels", "routes"] as const) {
    const words = wordsOf(form[name]);
    if (words.length) body[name] = words;
  }
  if (form.priority !== null) body["priority"] = form.priority;
  if (form.share !== null) body["share"] = form.share;
  if (form.expires) body["expires"] = Math.floor(new Date(form.expires).getTime() / 1000);
  return body;
}

// The budget that goes with a new key, null where none is wanted.
export function budgetOfKey(form: KeyForm): Record<string, unknown> | null {
  if (form.budget === null) return null;
  const name = form.name.trim();
  return { name: `key-${name}`.slice(0, 64), subject: `key:${name}`, window: form.window, money: form.budget };
}

export function wordsOf(text: string): string[] {
  return text.split(",").map((word) => word.trim()).filter(Boolean);
}

export interface BudgetForm {
  name: string;
  subject: string;
  window: Window;
  money: number | null;
  tokens: number | null;
}

export function budgetForm(budget: Budget | null): BudgetForm {
  if (budget === null) return { name: "", subject: "", window: "month", money: null, tokens: null };
  const window = WINDOWS.find((one) => one === budget.window) ?? "month";
  return { name: budget.name, subject: budget.subject, window, money: budget.money, tokens: budget.tokens };
}

export interface LimitForm {
  name: string;
  subject: string;
  requests_per_minute: number | null;
  tokens_per_minute: number | null;
  concurrency: number | null;
}

export function limitForm(limit: Limit | null): LimitForm {
  const { name = "", subject = "", requests_per_minute = null, tokens_per_minute = null, concurrency = null } = limit ?? {};
  return { name, subject, requests_per_minute, tokens_per_minute, concurrency };
}

// What is not filled in is left out: the server says which of it is needed.
export function filledIn(form: object): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(form)
      .map(([name, value]) => [name, typeof value === "string" ? value.trim() : value] as const)
      .filter(([, value]) => value !== null && value !== ""),
  );
}

export interface Question {
  action: "request" | "route" | "tool";
  resource: string;
  attributes: string; // JSON, as the next
  context: string;
}

// The body of POST /v1/policy/decide. Throws FormError naming the field that holds no JSON object.
export function questionBody(form: Question): Record<string, unknown> {
  const { action, resource } = form;
  const question = { action, resource: resource.trim(), attributes: objectOf("attributes", form), context: objectOf("context", form) };
  return { questions: [question] };
}

export function reloadedText({ warnings, waiting }: { warnings: readonly string[]; waiting: readonly string[] }): string {
  const said = ["The settings were read again.", ...warnings];
  if (waiting.length) said.push(`These hold after a restart only: ${waiting.join(", ")}.`);
  return said.join(" ");
}

export class FormError extends Error {
  constructor(readonly param: string, message: string) {
    super(message);
  }
}

function objectOf(name: "attributes" | "context", form: Question): unknown {
  const text = form[name].trim();
  if (!text) return {};
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
  } catch {
    // It is said below.
  }
  throw new FormError(name, `${name}: this is no JSON object; write for example {"effect": "write"}.`);
}

// The field that an error is about: "scopes" of "questions[0].scopes" and of "$.scopes", too.
export function fieldOf(param: string | null, fields: readonly string[]): string | null {
  if (param === null) return null;
  if (fields.includes(param)) return param;
  const parts = param.split(/[.[\]]+/).filter(Boolean).reverse();
  return parts.find((part) => fields.includes(part)) ?? null;
}
