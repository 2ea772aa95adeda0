// The view "Manage": keys, budgets, models, policies, alerts, calls that were withheld, and the list of what administrators
// did. Whoever observes sees all of it, but what callers asked of tools, and is offered nothing that changes anything.

import "./manage.css";
import { navigate, Notice, Tabs, usePath, useSession } from "../../kit";
import { may } from "../../session";
import { Actions } from "./actions";
import { Alerts } from "./alerts_tab";
import { Budgets } from "./budgets";
import { Keys } from "./keys";
import { Models } from "./models";
import { Policies } from "./policies";
import { WithheldCalls } from "./withheld_tab";

const TABS = [
  { id: "keys", title: "Keys", scopes: ["accounts", "observe"], Tab: Keys },
  { id: "budgets", title: "Budgets and limits", scopes: ["accounts", "observe"], Tab: Budgets },
  { id: "models", title: "Models", scopes: ["admin", "observe"], Tab: Models },
  { id: "policies", title: "Policies", scopes: ["admin", "observe"], Tab: Policies },
  { id: "alerts", title: "Alerts", scopes: ["admin", "observe"], Tab: Alerts },
  { id: "withheld", title: "Withheld calls", scopes: ["endorse"], Tab: WithheldCalls },
  { id: "actions", title: "Actions", scopes: ["admin", "observe"], Tab: Actions },
] as const;

type Id = (typeof TABS)[number]["id"];

export default function Manage() {
  const session = useSession();
  const wanted = usePath().split("/")[1];
  const tabs = TABS.filter((one) => may(session, one.scopes));
  const open = tabs.find((one) => one.id === wanted) ?? tabs[0];
  const changes = may(session, ["admin", "accounts", "endorse"]);
  if (!open) return <h1>Manage</h1>;
  return (
    <div class="manage">
      <h1>Manage</h1>
      {!changes && <Notice title="You may look, and change nothing" />}
      <Tabs<Id> label="Manage" tabs={tabs} value={open.id} onChange={(id) => navigate(`manage/${id}`)}>
        <open.Tab />
      </Tabs>
    </div>
  );
}
