// A small request for each route, made of its schema: what is required, and what keeps the answer short. Fields whose
// names say what they mean get a value that means something. Knows no markup and no network.

import type { Route, Schema } from "./openapi";
import { kindsOf, type Schemas } from "./schema";

export const SHORT_TOKENS = 32;

const QUESTION = "What is the capital of France?";
const MESSAGES = [{ role: "user", content: QUESTION }];

// By a field's name. `model` is known only when the server was asked.
const MEANT: Readonly<Record<string, unknown>> = {
  messages: MESSAGES,
  prompt: "The capital of France is",
  input: "The capital of France is Paris.",
  text: "The capital of France is Paris.",
  query: "What is the capital of France?",
  documents: ["Paris is the capital of France.", "Rome is the capital of Italy."],
  text_1: "What is the capital of France?",
  text_2: ["Paris is the capital of France.", "Rome is the capital of Italy."],
  tokens: [504, 3575, 282],
  max_tokens: SHORT_TOKENS,
  max_output_tokens: SHORT_TOKENS,
  stream: false,
  store: false,
  options: { num_predict: SHORT_TOKENS },
  questions: [{ action: "generate", resource: { type: "Model", id: "any" } }],
};

// Fields beyond those that are required: without them the request says nothing, or its answer is long.
const MORE: Readonly<Record<string, readonly string[]>> = {
  "post /v1/chat/completions": ["max_tokens"],
  "post /v1/completions": ["max_tokens"],
  "post /v1/responses": ["input", "max_output_tokens", "store"],
  "post /v1/responses/input_tokens": ["model", "input"],
  "post /v1/responses/compact": ["input"],
  "post /tokenize": ["model", "prompt"],
  "post /detokenize": ["model"],
  "post /api/chat": ["messages", "stream", "options"],
  "post /api/generate": ["prompt", "stream", "options"],
  "post /api/embed": ["input"],
  "post /api/embeddings": ["prompt"],
  "post /api/show": ["model"],
  "post /api/pull": ["model"],
  "post /v1/gateway/explain": ["messages"],
};

// Values of a query that keep an answer from going on for ever.
const QUERIES: Readonly<Record<string, Record<string, string>>> = { "get /v1/live": { once: "true" } };

export function sampleQuery(route: Route): Record<string, string> {
  return { ...QUERIES[route.id] };
}

// A body for a route; null where it takes none, or none that is JSON.
export function sampleBody(route: Route, schemas: Schemas, model: string): unknown {
  if (!route.body || route.body.media !== "application/json") return null;
  const [kind] = kindsOf(route.body.schema, schemas);
  const properties = kind?.properties ?? {};
  const wanted = new Set([...(kind?.required ?? []), ...(MORE[route.id] ?? [])]);
  const body: Record<string, unknown> = {};
  for (const name of Object.keys(properties)) {
    if (wanted.has(name)) body[name] = name === "model" ? model : sampleField(name, properties[name]!, schemas);
  }
  return body;
}

function sampleField(name: string, schema: Schema, schemas: Schemas): unknown {
  return Object.hasOwn(MEANT, name) ? MEANT[name] : sampleValue(name, schema, schemas, 0);
}

function sampleValue(name: string, schema: Schema, schemas: Schemas, depth: number): unknown {
  const kinds = kindsOf(schema, schemas);
  const kind = kinds.find((one) => one.type !== "null") ?? {};
  if (kind.const !== undefined) return kind.const;
  if (kind.enum) return kind.enum[0];
  if (schema.default !== undefined && schema.default !== null) return schema.default;
  const type = Array.isArray(kind.type) ? kind.type[0] : kind.type;
  if (type === "object" || kind.properties) return depth > 3 ? {} : sampleObject(kind, schemas, depth);
  if (type === "array") return kind.items && depth <= 3 ? [sampleValue(name, kind.items, schemas, depth + 1)] : [];
  if (type === "integer" || type === "number") return typeof schema["minimum"] === "number" ? Math.max(1, schema["minimum"]) : 1;
  if (type === "boolean") return false;
  return `${name.toUpperCase()}`;
}

function sampleObject(kind: Schema, schemas: Schemas, depth: number): unknown {
  const made: Record<string, unknown> = {};
  for (const name of kind.required ?? []) {
    const property = kind.properties?.[name];
    if (property) made[name] = sampleValue(name, property, schemas, depth + 1);
  }
  return made;
}
