// The list of routes, in groups, searched as somebody writes.

import { useState } from "preact/hooks";
import { Field, TextInput } from "../../kit";
import { GROUP_NAMES, placeOf, searchRoutes, type Route } from "./openapi";

export function Reference({ routes }: { routes: readonly Route[] }) {
  const [wanted, want] = useState("");
  const found = searchRoutes(routes, wanted);
  const groups = GROUP_NAMES.map((name) => ({ name, routes: found.filter((route) => route.group === name) }));
  return (
    <>
      <div class="learn-search">
        <Field label="Search routes" hint="by path, method or what it does"><TextInput type="search" value={wanted} onChange={want} /></Field>
        <p role="status">{found.length} of {routes.length} routes</p>
      </div>
      {found.length === 0 && <p class="empty">No route holds “{wanted}”.</p>}
      {groups.filter((group) => group.routes.length > 0).map((group) => (
        <section key={group.name} aria-label={group.name}>
          <h2>{group.name}</h2>
          <ul class="learn-routes">
            {group.routes.map((route) => (
              <li key={route.id}>
                <a href={`/console/${placeOf(route)}`}>
                  <Method method={route.method} /> <code>{route.path}</code>
                </a>
                <span>{route.summary}</span>
              </li>
            ))}
          </ul>
        </section>
      ))}
    </>
  );
}

export function Method({ method }: { method: string }) {
  return <span class={`learn-method ${method}`}>{method.toUpperCase()}</span>;
}
