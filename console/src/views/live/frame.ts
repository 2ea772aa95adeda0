// A frame of GET /v1/live, as docs/guides/live.md describes it. Times are milliseconds. Types only.

export type Phase = "waiting" | "queued" | "prefill" | "decode" | "streaming";

export interface Totals {
  num_steps: number;
  num_sequences: number;
  num_tokens: number;
  native_ms: number;
  prompt_tokens: number;
  reused_tokens: number;
  read_tokens: number;
  output_tokens: number;
  drafted_tokens: number;
  accepted_tokens: number;
  num_preempted: number;
}

export interface Run {
  parent: number; // a place in the same list; -1: none
  tenant: string;
  num_tokens: number;
  num_users: number;
  num_uses: number;
  idle_ms: number;
  is_pinned: boolean;
}

export interface Tree {
  num_tokens: number;
  rest_tokens: number;
  runs: Run[];
}

export interface Model {
  id: string;
  state: string;
  is_pooled: boolean;
  num_running: number;
  num_waiting: number;
  max_running: number;
  totals: Totals;
  pages: { page_tokens: number; total: number; used: number; cached: number; pinned: number };
  tree: Tree;
  tenants: { tenant: string; prompt_tokens: number; reused_tokens: number }[];
}

export interface LiveRequest {
  id: string | null;
  tenant: string | null;
  key: string | null;
  model: string | null;
  backend: string | null;
  route: string;
  phase: Phase;
  age_ms: number;
  begun_ms: number | null;
  first_ms: number | null;
  prompt_tokens: number;
  computed_tokens: number;
  cached_tokens: number;
  output_tokens: number;
  priority: number;
}

export interface EndedRequest {
  id: string;
  tenant: string | null;
  key: string | null;
  model: string | null;
  backend: string | null;
  route: string;
  outcome: string;
  status: number;
  ended_ms: number;
  duration_ms: number;
  begun_ms: number | null;
  first_ms: number | null;
  prompt_tokens: number;
  cached_tokens: number;
  output_tokens: number;
}

export interface Latency {
  bounds_ms: number[];
  counts: number[];
}

// What all models did in the time before a moment. Counts as in Latency, an empty list: nothing.
export interface PastSample {
  time_ms: number;
  span_ms: number;
  output_tokens: number;
  read_tokens: number;
  prompt_tokens: number;
  reused_tokens: number;
  num_steps: number;
  num_sequences: number;
  num_running: number;
  num_waiting: number;
  total_pages: number;
  used_pages: number;
  cached_pages: number;
  first_token: number[];
  between_tokens: number[];
}

export interface Past {
  since_ms: number;
  interval_ms: number;
  samples: PastSample[];
}

export interface Frame {
  time_ms: number;
  interval_ms: number;
  server: { version: string; phase: string; uptime_ms: number; num_open: number; num_viewers: number };
  engine_age_ms: number | null;
  models: Model[];
  models_left_out: number;
  disk: { num_pages: number; num_bytes: number; max_bytes: number } | null;
  requests: LiveRequest[];
  requests_left_out: number;
  ended: EndedRequest[];
  ended_left_out: number;
  latency: { first_token: Latency; between_tokens: Latency };
  history?: Past; // in the first frame of a stream
}
