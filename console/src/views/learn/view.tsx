// The view "Learn": what the console shows, in a minute, and every route of the server with examples that run. A route has
// an address of its own: /console/learn/reference/post/v1/chat/completions.

import { useEffect, useState } from "preact/hooks";
import { fetchJson } from "../../api";
import { Busy, Button, ErrorNotice, navigate, Tabs, usePath } from "../../kit";
import { FirstMinute } from "./first_minute";
import { readRoutes, routeAt, type OpenApi, type Route } from "./openapi";
import { Reference } from "./reference";
import { RoutePage } from "./route_page";
import type { Schemas } from "./schema";
import "./learn.css";

export interface Known {
  routes: readonly Route[];
  schemas: Schemas;
  model: string; // one that is served, for examples
}

const TABS = [
  { id: "minute", title: "The first minute" },
  { id: "reference", title: "Reference" },
] as const;

export default function Learn() {
  const path = usePath();
  const { known, error, reload } = useKnown();
  const route = known && path.startsWith("learn/reference/") ? routeAt(known.routes, path) : undefined;
  const tab = path.startsWith("learn/reference") ? "reference" : "minute";
  if (known && route) return <div class="learn"><RoutePage key={route.id} route={route} known={known} /></div>;
  return (
    <div class="learn">
      <h1>Learn</h1>
      <Tabs label="Parts of learn" tabs={TABS} value={tab} onChange={(id) => navigate(id === "minute" ? "learn" : "learn/reference")}>
        {error !== null && <><ErrorNotice error={error} /><Button onPress={reload}>Try again</Button></>}
        {error === null && !known && <Busy label="Reading the server's own description" />}
        {known && (tab === "minute" ? <FirstMinute known={known} /> : <Reference routes={known.routes} />)}
      </Tabs>
    </div>
  );
}

function useKnown() {
  const [known, know] = useState<Known | null>(null);
  const [error, fail] = useState<unknown>(null);
  const reload = () => {
    fail(null);
    Promise.all([fetchJson<OpenApi>("/openapi.json"), firstModel()]).then(
      ([document, model]) => know({ routes: readRoutes(document), schemas: document.components?.schemas ?? {}, model }),
      fail,
    );
  };
  useEffect(reload, []);
  return { known, error, reload };
}

// Whoever may not list models sees examples with a name to fill in.
async function firstModel(): Promise<string> {
  try {
    const { data } = await fetchJson<{ data: { id?: unknown; owned_by?: unknown }[] }>("/v1/models");
    const ids = data.map((one) => one.id).filter((id): id is string => typeof id === "string");
    return ids[0] ?? "MODEL";
  } catch {
    return "MODEL";
  }
}
