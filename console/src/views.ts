// The views there are, in the order of the menu. A view is loaded when it is first opened, and is a folder of its own.

import type { ComponentType } from "preact";

export interface View {
  path: string; // below /console/
  title: string;
  // One of these scopes is needed to see it; none: anybody who is signed in.
  scopes: readonly string[];
  load: () => Promise<{ default: ComponentType }>;
}

export const VIEWS: readonly View[] = [
  { path: "play", title: "Play", scopes: ["generate"], load: () => import("./views/play/view") },
  { path: "live", title: "Live", scopes: ["observe", "admin"], load: () => import("./views/live/view") },
  { path: "traffic", title: "Traffic", scopes: ["observe", "admin"], load: () => import("./views/traffic/view") },
  { path: "manage", title: "Manage", scopes: ["observe", "admin", "accounts", "endorse"], load: () => import("./views/manage/view") },
  { path: "learn", title: "Learn", scopes: [], load: () => import("./views/learn/view") },
];
