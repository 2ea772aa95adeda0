// The frame of the page: which view is open, who is signed in, what happened to the connection.

import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";
import { VIEWS } from "./views";

export function Shell() {
  const [Opened, open] = useState<ComponentType | null>(null);
  const path = location.pathname.replace(/^\/console\/?/, "").split("/")[0];
  const view = VIEWS.find((one) => one.path === path) ?? VIEWS[0]!;
  useEffect(() => {
    void view.load().then((module) => open(() => module.default));
  }, [view]);
  return (
    <>
      <nav aria-label="Views">
        {VIEWS.map((one) => (
          <a key={one.path} href={`/console/${one.path}`} aria-current={one === view ? "page" : undefined}>
            {one.title}
          </a>
        ))}
      </nav>
      <main>{Opened && <Opened />}</main>
    </>
  );
}
