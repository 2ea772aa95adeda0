// Where in the page somebody is: the part of the address below /console/, kept by the browser's history.

import { useEffect, useState } from "preact/hooks";

const BASE = "/console/";
const CHANGED = "headrace:path";

export function currentPath(): string {
  const path = location.pathname;
  return path.startsWith(BASE) ? path.slice(BASE.length) : "";
}

// Opens `path` (below /console/, "manage/keys?name=x"); with `replace` the one that was open is forgotten.
export function navigate(path: string, { replace = false }: { replace?: boolean } = {}): void {
  const url = BASE + path.replace(/^\/?(console\/)?/, "");
  if (replace) history.replaceState(null, "", url);
  else history.pushState(null, "", url);
  dispatchEvent(new Event(CHANGED));
}

// The path below /console/, without its query; changes as somebody moves.
export function usePath(): string {
  const [path, change] = useState(currentPath);
  useEffect(() => {
    const listener = () => change(currentPath());
    addEventListener("popstate", listener);
    addEventListener(CHANGED, listener);
    listener();
    return () => {
      removeEventListener("popstate", listener);
      removeEventListener(CHANGED, listener);
    };
  }, []);
  return path;
}

// Plain links within the page move without loading it again; what asks for a new tab still gets one.
export function followLinks(event: MouseEvent): void {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = event.target instanceof Element ? event.target.closest("a[href]") : null;
  if (!(link instanceof HTMLAnchorElement) || link.target || link.hasAttribute("download")) return;
  if (link.origin !== location.origin || !link.pathname.startsWith(BASE) || link.pathname.startsWith(`${BASE}static/`)) return;
  if (link.hash && link.pathname === location.pathname) return;
  event.preventDefault();
  navigate(link.pathname.slice(BASE.length) + link.search);
}
