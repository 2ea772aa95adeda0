// Light or dark: as the system says, or as somebody chose here. The choice stays in this browser.

import { useEffect, useState } from "preact/hooks";

export type Theme = "system" | "light" | "dark";

const STORED = "headrace-theme";
const CHANGED = "headrace:theme";

export function readTheme(): Theme {
  try {
    const stored = localStorage.getItem(STORED);
    return stored === "light" || stored === "dark" ? stored : "system";
  } catch {
    return "system"; // a browser that keeps nothing
  }
}

function show(theme: Theme): void {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

export function applyTheme(): void {
  show(readTheme());
}

export function chooseTheme(theme: Theme): void {
  try {
    if (theme === "system") localStorage.removeItem(STORED);
    else localStorage.setItem(STORED, theme);
  } catch {
    // Holds for this visit alone.
  }
  show(theme);
  dispatchEvent(new Event(CHANGED));
}

// Counts changes of what colours there are: whoever draws on a canvas draws again.
export function useTheme(): number {
  const [times, change] = useState(0);
  useEffect(() => {
    const listener = () => change((now) => now + 1);
    const system = matchMedia("(prefers-color-scheme: dark)");
    system.addEventListener("change", listener);
    addEventListener(CHANGED, listener);
    return () => {
      system.removeEventListener("change", listener);
      removeEventListener(CHANGED, listener);
    };
  }, []);
  return times;
}

// A colour of tokens.css as a canvas needs it: "accent" -> "rgb(11, 92, 135)".
export function colour(token: string): string {
  const probe = document.createElement("span");
  probe.style.color = `var(--${token})`;
  probe.hidden = true;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
