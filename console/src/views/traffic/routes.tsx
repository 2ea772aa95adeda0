// Each route with its targets: what the settings say, and what the last requests show.

import { Badge, clockTime, count, money, navigate, Notice, percent, Plain, seconds, Table, usePolled, type Column } from "../../kit";
import { Cards } from "./cards";
import { Explain } from "./explain";
import { addressOf, NONE, requestsOf } from "./filters";
import { Read } from "./read";
import type { Figures, Route, Routes as RoutesAnswer, RouteTarget } from "./shapes";
import { failedShare, orDash, shareOf } from "./words";

const EVERY_MS = 5000;

export function Routes() {
  const read = usePolled<RoutesAnswer>("/v1/gateway/routes", EVERY_MS);
  return (
    <Read of={read} what="the routes">
      {({ data, since }) => (
        <>
          <p class="hint">
            {since === null
              ? "No request was kept yet: figures appear with the first."
              : `Figures are of the requests that are kept, the oldest of ${clockTime(since)}.`}
          </p>
          {data.every((one) => !one.is_named) && <HowToRoute />}
          <Cards what="routes" items={data.filter((one) => one.is_named)} name={(one) => one.id}>
            {(one) => <RouteCard key={one.id} route={one} share={shareOf(one, data)} />}
          </Cards>
          <Direct routes={data.filter((one) => !one.is_named)} all={data} />
          <Explain models={data.map((one) => one.id)} />
        </>
      )}
    </Read>
  );
}

function HowToRoute() {
  return (
    <Notice title="No routes are set">
      <p>
        Requests go straight to the model that they name. A route gives a name to several models and decides between them:
        write backends and routes into the settings file, and start with it.
      </p>
      <pre class="sample" tabIndex={0}>{`[backends.gpu]
kind = "vllm"
url = "http://10.0.0.5:8000/v1"
models = ["qwen3-32b"]

[routes.chat]
candidates = ["gpu/qwen3-32b", "local/MODEL"]
policies = ["cache_affinity"]`}</pre>
    </Notice>
  );
}

const COLUMNS: readonly Column<RouteTarget>[] = [
  { key: "target", title: "Target", cell: (one) => <Target one={one} /> },
  { key: "attempts", title: "Attempts", align: "end", cell: (one) => count(one.figures.num_requests) },
  { key: "failed", title: "Failed", align: "end", cell: (one) => failedShare(one.figures) },
  { key: "first", title: "First token p50", align: "end", cell: (one) => orDash(one.figures.first_p50_s, seconds) },
  { key: "slow", title: "p95", align: "end", cell: (one) => orDash(one.figures.first_p95_s, seconds) },
  { key: "cost", title: "Cost", align: "end", cell: (one) => money(one.figures.cost) },
];

function RouteCard({ route, share }: { route: Route; share: number }) {
  return (
    <article class="card" aria-label={`Route ${route.id}`}>
      <header>
        <h2><Plain text={route.id} /></h2>
        {route.policies.map((one) => <Badge key={one}>{one}</Badge>)}
        {route.hedge_after_s !== null && <Badge>hedged after {seconds(route.hedge_after_s)}</Badge>}
        {route.verifiers.length > 0 && <Badge>a tier up unless {route.verifiers.join(", ")}</Badge>}
        <span class="push"><a href={requestsOf({ route: route.id })}>Its requests</a></span>
      </header>
      <Summary figures={route.figures} share={share} />
      <Table
        label={`Targets of ${route.id}`}
        columns={COLUMNS}
        rows={route.targets}
        rowKey={(one) => `${one.role} ${one.target}`}
        empty="None of its targets was asked yet."
      />
      {(route.fallbacks.length > 0 || route.max_attempts > 1) && (
        <p class="hint">
          {route.fallbacks.length > 0 && <>Falls back to <Plain text={route.fallbacks.join(", ")} />. </>}
          At most {route.max_attempts} attempts for a request.
        </p>
      )}
    </article>
  );
}

// Models that were asked for by their own names, without a route: anybody may make such a name up.
function Direct({ routes, all }: { routes: readonly Route[]; all: readonly Route[] }) {
  if (routes.length === 0) return null;
  const columns: readonly Column<Route>[] = [
    { key: "name", title: "Asked for", cell: (one) => <Plain mono text={one.id} />, sort: (a, b) => a.id.localeCompare(b.id) },
    { key: "share", title: "Share of traffic", align: "end", cell: (one) => percent(shareOf(one, all)) },
    { key: "requests", title: "Requests", align: "end", cell: (one) => count(one.figures.num_requests), sort: (a, b) => a.figures.num_requests - b.figures.num_requests },
    { key: "failed", title: "Failed", align: "end", cell: (one) => failedShare(one.figures) },
    { key: "first", title: "First token p50", align: "end", cell: (one) => orDash(one.figures.first_p50_s, seconds) },
    { key: "slow", title: "p95", align: "end", cell: (one) => orDash(one.figures.first_p95_s, seconds) },
    { key: "cost", title: "Cost", align: "end", cell: (one) => money(one.figures.cost), sort: (a, b) => a.figures.cost - b.figures.cost },
  ];
  return (
    <section class="card" aria-label="Models asked for by name">
      <h2>Models asked for by their own names</h2>
      <Table
        label="Models asked for by their own names"
        columns={columns}
        rows={routes}
        rowKey={(one) => one.id}
        onOpen={(one) => navigate(addressOf({ ...NONE, route: one.id }))}
        filter={(one) => one.id}
        empty=""
      />
    </section>
  );
}

function Target({ one }: { one: RouteTarget }) {
  return (
    <>
      <Plain mono text={one.target} />{" "}
      {one.role !== "candidate" && <Badge kind="warn">{one.role} of {percent(one.share ?? 0)}</Badge>}{" "}
      {one.weight !== 1 && <Badge>weight {one.weight}</Badge>}{" "}
      {one.tier > 0 && <Badge>tier {one.tier}</Badge>}
    </>
  );
}

function Summary({ figures, share }: { figures: Figures; share: number }) {
  const facts: [string, string][] = [
    ["Share of traffic", percent(share)],
    ["Requests", count(figures.num_requests)],
    ["Failed", failedShare(figures)],
    ["Time to first token, p50 · p95", `${orDash(figures.first_p50_s, seconds)} · ${orDash(figures.first_p95_s, seconds)}`],
    ["End to end, p50 · p95", `${orDash(figures.whole_p50_s, seconds)} · ${orDash(figures.whole_p95_s, seconds)}`],
    ["Cost", money(figures.cost)],
  ];
  return (
    <dl class="told-facts">
      {facts.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}
    </dl>
  );
}
