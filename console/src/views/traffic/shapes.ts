// What the server answers about traffic: /v1/gateway/routes, /requests, /backends, /explain, and /v1/accounts. Types only.

export interface Figures {
  num_requests: number;
  num_failed: number;
  first_p50_s: number | null;
  first_p95_s: number | null;
  whole_p50_s: number | null;
  whole_p95_s: number | null;
  cost: number;
}

export interface RouteTarget {
  target: string;
  role: "candidate" | "canary" | "shadow";
  weight: number;
  tier: number;
  share: number | null;
  figures: Figures;
}

export interface Route {
  id: string;
  is_named: boolean;
  policies: string[];
  targets: RouteTarget[];
  fallbacks: string[];
  verifiers: string[];
  max_attempts: number;
  hedge_after_s: number | null;
  figures: Figures;
}

export interface Routes {
  data: Route[];
  since: number | null;
}

export interface Model {
  id: string;
  breaker: "closed" | "open" | "trying" | "resting";
  num_failed: number;
  retry_in_s: number | null;
  num_in_flight: number;
  seconds_per_token: number | null;
  output_tokens: number | null;
}

export interface Backend {
  id: string;
  kind: string;
  is_draining: boolean;
  health: "well" | "failing" | "warming" | "unchecked";
  share: number;
  last_error: string | null;
  num_running: number;
  num_waiting: number;
  max_concurrency: number | null;
  models: Model[];
}

export interface Brief {
  id: string;
  exchange_id: string | null;
  number: number;
  started: number;
  tenant: string;
  key: string | null;
  user: string | null;
  tags: string[];
  task: string;
  asked_model: string;
  route: string;
  backend: string;
  model: string;
  num_attempts: number;
  outcome: string;
  cache: string;
  is_slow: boolean;
  reason: string;
  refusal: string;
  prompt_tokens: number;
  cached_tokens: number;
  completion_tokens: number;
  cost: number;
  saved: number;
  is_estimated: boolean;
  queue_s: number;
  overhead_s: number;
  first_s: number | null;
  whole_s: number;
  record_id: string | null;
  trace_id: string | null;
}

export interface Briefs {
  data: Brief[];
  has_more: boolean;
  last: number | null;
  num_kept: number;
  max_kept: number;
  slow_s: number;
}

export interface Choice {
  target: string;
  place: number | null;
  reason: string;
  scores: Record<string, number | null>;
  max_prompt_and_answer_tokens: number;
  max_cost: number;
  max_tokens: number | null;
  tier: number;
  is_fallback: boolean;
}

export type StepKind = "first" | "next" | "retry" | "fallback" | "hedge" | "tier" | "copy";

export interface Step {
  backend: string;
  model: string;
  kind: StepKind;
  began_s: number;
  first_s: number | null;
  ended_s: number;
  outcome: string;
  reason: string;
  was_asked: boolean;
  is_trial: boolean;
  standing: string;
  num_bytes: number;
  num_tokens: number;
  cost: number;
}

export interface Path {
  request: Brief;
  choices: Choice[];
  steps: Step[];
  decisions: { action: string; resource: string; is_allowed: boolean; is_enforced: boolean; policies: string[]; reason: string }[];
  verdicts: { monitor: string; score: number; action: string; reason: string; is_shadow: boolean }[];
  reserved: { tokens: number; cost: number; budgets: { subject: string; window: string }[] } | null;
  shadow: string | null;
  hedge_after_s: number | null;
  source: string;
}

export interface Explanation {
  model: string;
  route: string;
  policies: string[];
  reason: string;
  refusal: string | null;
  shadow: string | null;
  num_used: number;
  targets: (Omit<Choice, "tier"> & { route: string })[];
}

export type { Budget, Standing as BudgetStanding } from "../../budgets";

export interface UsageSum {
  group: Record<string, string>;
  num_requests: number;
  num_failed: number;
  prompt_tokens: number;
  cached_tokens: number;
  completion_tokens: number;
  cost: number;
  saved: number;
}

export interface List<Item> {
  data: Item[];
}
