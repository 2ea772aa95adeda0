// The view "Traffic": where requests may go, where they went, what stands behind the routes and what it costs. Below it one
// request's path: /console/traffic/requests/ID.

import type { ComponentChildren } from "preact";
import { navigate, Tabs, usePath } from "../../kit";
import { Backends } from "./backends";
import { placeOf, TABS, type Tab } from "./filters";
import { RequestPath } from "./path";
import { Requests } from "./requests";
import { Routes } from "./routes";
import { Spend } from "./spend_tab";
import "./traffic.css";

const PANELS: Record<Tab, () => ComponentChildren> = { routes: Routes, backends: Backends, spend: Spend, requests: Requests };

export default function Traffic() {
  const { tab, requestId } = placeOf(usePath());
  const Panel = PANELS[tab];
  if (requestId !== null) return <RequestPath key={requestId} id={requestId} />;
  return (
    <div class="traffic">
      <h1>Traffic</h1>
      <Tabs label="Parts of traffic" tabs={TABS} value={tab} onChange={(id) => navigate(`traffic/${id}`)}>
        <Panel key={tab} />
      </Tabs>
    </div>
  );
}
