// What the server's administrative routes answer, as far as this view reads it. Names are others' choice: hostile text.

export type { Budget, Standing } from "../../budgets";

export interface List<Row> {
  data: Row[];
  has_more?: boolean;
}

export interface Key {
  name: string;
  tenant: string;
  scopes: string[];
  priority: number;
  share: number;
  user: string | null;
  tags: string[];
  labels: string[];
  routes: string[];
  created: number; // Unix seconds
  expires: number | null;
  is_disabled: boolean;
  is_fixed: boolean; // of the settings file, and changed there
  secret?: string; // told once, when it is made
}

export interface Limit {
  name: string;
  subject: string;
  requests_per_minute: number | null;
  tokens_per_minute: number | null;
  concurrency: number | null;
  is_fixed: boolean;
}

export interface Resident {
  id: string;
  state: "absent" | "waiting" | "loading" | "ready" | "leaving";
  bytes_held: number;
  num_requests: number;
  idle_s: number | null;
  unloads_in_s: number | null;
}

export interface Residents extends List<Resident> {
  bytes_held: number;
  memory_bytes: number | null;
}

export interface Adapter {
  id: string;
  model: string;
  is_loaded: boolean;
  bytes_held: number;
}

export interface Policy {
  id: string;
  place: string;
  effect: "permit" | "forbid";
  reason: string;
  text: string;
}

export interface Policies extends List<Policy> {
  mode: "off" | "shadow" | "enforce";
}

export interface Decision {
  action: string;
  resource: string;
  is_allowed: boolean;
  is_enforced: boolean;
  policies: string[];
  reason: string;
}

export interface Reloaded {
  warnings: string[];
  waiting: string[]; // settings that changed and hold after a restart only
}

export interface Flag {
  account: string;
  monitor: string;
  score: number;
  action: string;
  reason: string;
  count: number;
  since: number;
  last: number;
  evidence: string | null;
  is_shadow: boolean;
}

export interface Monitors extends List<Flag> {
  mode: "shadow" | "enforce";
  num_unwatched: number;
}

export interface BackendModel {
  id: string;
  breaker: "closed" | "open" | "trying" | "resting";
  num_failed: number;
  retry_in_s: number | null;
}

export interface Backend {
  id: string;
  is_draining: boolean;
  health: "well" | "failing" | "warming" | "unchecked";
  last_error: string | null;
  models: BackendModel[];
}

export type Outcome = "begun" | "done" | "refused" | "failed" | "unknown";

export interface Action {
  id: string;
  number: number;
  begun: number;
  ended: number | null;
  who: { tenant: string; subject: string; key: string | null; through: string };
  action: string;
  target: string;
  asked: Record<string, unknown>;
  outcome: Outcome;
  code: string | null;
  request_id: string;
  begun_index: number | null;
  ended_index: number | null;
  is_erased: boolean;
}

export interface Actions extends List<Action> {
  last: number | null;
}

export interface Doubt {
  argument: string; // its path; "*": nothing tells who asked for the call
  value: string | number | null; // null: it cannot be let pass by itself
}

// A call of a tool that the guard kept back: what a model wants to do, in the model's words.
export interface Withheld {
  tool: string;
  call: string; // the digest of tool, declaration and arguments
  arguments: string; // JSON; empty: too long to be shown, or none
  in_doubt: Doubt[];
  session: string | null;
  subject: string;
  request: string;
  policies: string[];
  reason: string;
  withheld_at: number;
}

export interface Endorsement {
  id: string;
  tool: string;
  call: string | null; // this one call, or else the argument and its value
  argument: string | null;
  value: string | number | null;
  session: string | null;
  subject: string | null;
  by: string;
  reason: string;
  created_at: number;
  expires_at: number;
  uses_left: number | null; // null: any number
  num_used: number;
}
