// Which requests are listed: what somebody filled in, as the query of this page's address and of the API. No DOM.

export const TEXTS = ["tenant", "key", "user", "model", "route", "backend"] as const;
type Text = (typeof TEXTS)[number];

export const WHICH = ["all", "ok", "failed", "cancelled", "slow"] as const;
export type Which = (typeof WHICH)[number];

export type Filters = Record<Text, string> & { which: Which };

export const NONE: Filters = { tenant: "", key: "", user: "", model: "", route: "", backend: "", which: "all" };

export function readFilters(search: string): Filters {
  const given = new URLSearchParams(search);
  const filters = { ...NONE };
  for (const name of TEXTS) filters[name] = given.get(name) ?? "";
  const which = given.get("which") as Which;
  if (WHICH.includes(which)) filters.which = which;
  return filters;
}

export function addressOf(filters: Filters): string {
  const query = new URLSearchParams();
  for (const name of TEXTS) if (filters[name].trim()) query.set(name, filters[name].trim());
  if (filters.which !== "all") query.set("which", filters.which);
  const text = query.toString();
  return text ? `traffic/requests?${text}` : "traffic/requests";
}

// The address of a list, as a link of this page has it.
export function requestsOf(some: Partial<Filters>): string {
  return `/console/${addressOf({ ...NONE, ...some })}`;
}

const SUBJECTS = ["tenant", "key", "route"] as const;

// Whose requests a budget's subject means: "key:laptop", "user:TENANT/NAME". null: none that can be listed by it.
export function filtersOf(subject: string): Partial<Filters> | null {
  const cut = subject.indexOf(":");
  const [kind, name] = [subject.slice(0, cut), subject.slice(cut + 1)];
  if (kind === "user") {
    const at = name.indexOf("/");
    return at < 0 ? { user: name } : { tenant: name.slice(0, at), user: name.slice(at + 1) };
  }
  const found = SUBJECTS.find((one) => one === kind);
  return found ? { [found]: name } : null;
}

export function apiPath(filters: Filters, { limit, after }: { limit: number; after?: number | null }): string {
  const query = new URLSearchParams({ limit: String(limit) });
  for (const name of TEXTS) if (filters[name].trim()) query.set(name, filters[name].trim());
  if (filters.which === "slow") query.set("slow", "true");
  else if (filters.which !== "all") query.set("outcome", filters.which);
  if (after) query.set("after", String(after));
  return `/v1/gateway/requests?${query}`;
}

export const MOST_ROWS = 2000;

// A page read anew before what was read earlier: no request twice. Where so many came meanwhile that the page does not
// reach what is known, that is let go of, rather than shown with a hole.
export function joined<Row extends { number: number }>(newest: readonly Row[], known: readonly Row[], hasMore: boolean): Row[] {
  if (newest.length > 0 && known.length >= newest.length && newest[0]!.number === known[0]!.number) return known as Row[];
  const last = newest.at(-1)?.number ?? (hasMore ? 0 : Infinity);
  const reaches = known.length === 0 || last <= known[0]!.number + 1;
  if (!reaches && hasMore) return [...newest];
  return [...newest, ...known.filter((one) => one.number < last)].slice(0, MOST_ROWS);
}

// Those whose name holds what somebody looks for.
export function sought<Item>(items: readonly Item[], wanted: string, name: (item: Item) => string): readonly Item[] {
  const text = wanted.trim().toLowerCase();
  return text ? items.filter((one) => name(one).toLowerCase().includes(text)) : items;
}

// Whether the place within the view is a tab, one request, or nothing that is there.
export interface Place {
  tab: Tab;
  requestId: string | null;
}

export const TABS = [
  { id: "routes", title: "Routes" },
  { id: "backends", title: "Backends" },
  { id: "spend", title: "Budgets and spend" },
  { id: "requests", title: "Requests" },
] as const;
export type Tab = (typeof TABS)[number]["id"];

export function placeOf(path: string): Place {
  const [, tab = "", ...rest] = path.split("/");
  const found = TABS.find((one) => one.id === tab)?.id ?? "routes";
  const last = rest.join("/");
  return { tab: found, requestId: found === "requests" && last ? decoded(last) : null };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
