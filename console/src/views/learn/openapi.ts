// The server's own description of its routes (OpenAPI 3.1, GET /openapi.json) as this view uses it: a list of routes in
// groups, searched by words. Knows no markup. What the document says is the server's; names in it are shown as text.

export interface Schema {
  $ref?: string;
  title?: string;
  description?: string;
  type?: string | string[];
  enum?: unknown[];
  const?: unknown;
  default?: unknown;
  anyOf?: Schema[];
  oneOf?: Schema[];
  allOf?: Schema[];
  items?: Schema | false;
  prefixItems?: Schema[];
  properties?: Record<string, Schema>;
  required?: string[];
  additionalProperties?: Schema | boolean;
  [more: string]: unknown;
}

export interface Parameter {
  name: string;
  in: "path" | "query";
  required?: boolean;
  schema: Schema;
}

export interface Media {
  media: string;
  schema: Schema;
}

export interface Route {
  id: string; // "post /v1/chat/completions"
  method: string; // lower case
  path: string;
  group: string;
  summary: string;
  parameters: Parameter[];
  body: (Media & { isNeeded: boolean }) | null;
  answers: Media[];
  refusal: Schema | null;
  isOpen: boolean; // needs no key
}

interface Content {
  content?: Record<string, { schema?: Schema }>;
}

interface Operation {
  summary?: string;
  parameters?: Parameter[];
  requestBody?: Content & { required?: boolean };
  responses?: Record<string, Content>;
  security?: unknown[];
}

export interface OpenApi {
  paths: Record<string, Record<string, Operation>>;
  components?: { schemas?: Record<string, Schema> };
}

// The first prefix that fits names the group. In the order in which groups are shown.
const GROUPS: readonly [string, readonly string[]][] = [
  ["Answers", ["/v1/chat/completions", "/v1/completions"]],
  ["Responses and conversations", ["/v1/responses", "/v1/conversations"]],
  ["Messages, as Anthropic's", ["/v1/messages"]],
  ["Vectors, scores, tokens", ["/v1/embeddings", "/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score", "/tokenize", "/detokenize"]],
  ["Models and adapters", ["/v1/models", "/models", "/v1/adapters", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"]],
  ["Files and batches", ["/v1/files", "/v1/batches"]],
  ["Caches", ["/v1/caches"]],
  ["Keys, budgets and usage", ["/v1/accounts"]],
  ["Gateway", ["/v1/gateway"]],
  ["Policies and rights", ["/v1/policy", "/v1/delegations", "/v1/endorsements", "/v1/monitors"]],
  ["Records and the log", ["/v1/provenance", "/log"]],
  ["Ollama's interface", ["/api"]],
];
const OTHER = "The server itself";

export const GROUP_NAMES: readonly string[] = [...GROUPS.map(([name]) => name), OTHER];

export function groupOf(path: string): string {
  const fits = (prefix: string) => path === prefix || path.startsWith(`${prefix}/`);
  return GROUPS.find(([, prefixes]) => prefixes.some(fits))?.[0] ?? OTHER;
}

const METHODS = ["get", "post", "put", "patch", "delete"];

export function readRoutes(document: OpenApi): Route[] {
  const routes: Route[] = [];
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const method of METHODS) {
      const operation = methods[method];
      if (operation) routes.push(readRoute(path, method, operation));
    }
  }
  const place = (route: Route) => GROUP_NAMES.indexOf(route.group);
  return routes.sort((a, b) => place(a) - place(b) || compare(a.path, b.path) || METHODS.indexOf(a.method) - METHODS.indexOf(b.method));
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function readRoute(path: string, method: string, operation: Operation): Route {
  const [body] = mediaOf(operation.requestBody);
  const [refusal] = mediaOf(operation.responses?.["default"]);
  return {
    id: `${method} ${path}`,
    method,
    path,
    group: groupOf(path),
    summary: operation.summary ?? "",
    parameters: operation.parameters ?? [],
    body: body ? { ...body, isNeeded: operation.requestBody?.required ?? false } : null,
    answers: mediaOf(operation.responses?.["200"]),
    refusal: refusal?.schema ?? null,
    isOpen: operation.security?.length === 0,
  };
}

function mediaOf(part: Content | undefined): Media[] {
  return Object.entries(part?.content ?? {}).map(([media, { schema }]) => ({ media, schema: schema ?? {} }));
}

// Routes in which every word stands somewhere: in the method, the path, the summary, the group.
export function searchRoutes(routes: readonly Route[], text: string): Route[] {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const hay = (route: Route) => `${route.method} ${route.path} ${route.summary} ${route.group}`.toLowerCase();
  return routes.filter((route) => words.every((word) => hay(route).includes(word)));
}

// A route's place below /console/, and the route of such a place.
export function placeOf(route: Route): string {
  return `learn/reference/${route.method}${route.path}`;
}

export function routeAt(routes: readonly Route[], place: string): Route | undefined {
  const [, , method, ...rest] = place.split("/");
  const path = `/${rest.map(decode).join("/")}`;
  return routes.find((route) => route.method === method && route.path === path);
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
