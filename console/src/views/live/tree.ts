// The prefix tree as an icicle: what comes first is above, what follows it below, as wide as it has tokens in and below it.
// Values in, values out; no DOM.

import type { Run, Tree } from "./frame";

export interface Box {
  run: number; // a place in tree.runs
  depth: number;
  from: number; // of the width, 0 to 1
  to: number;
}

export interface Icicle {
  boxes: Box[];
  depth: number;
  restFrom: number; // right of it lies what is not shown
}

export function lay(tree: Tree): Icicle {
  const below = tree.runs.map((run) => run.num_tokens);
  for (let index = tree.runs.length - 1; index >= 0; index -= 1) {
    const { parent } = tree.runs[index]!;
    if (parent >= 0) below[parent] = below[parent]! + below[index]!;
  }
  const whole = Math.max(1, tree.num_tokens);
  const boxes: Box[] = [];
  const next = new Map<number, number>(); // where the next child of a run begins
  let top = 0;
  let depth = 0;
  tree.runs.forEach((run, index) => {
    const parent = boxes[run.parent];
    const from = parent ? next.get(run.parent) ?? parent.from : top;
    const to = from + below[index]! / whole;
    if (parent) next.set(run.parent, to);
    else top = to;
    boxes.push({ run: index, depth: parent ? parent.depth + 1 : 0, from, to });
    depth = Math.max(depth, boxes[index]!.depth + 1);
  });
  return { boxes, depth, restFrom: top };
}

// Which box lies at a place: x of the width, row from above.
export function boxAt(icicle: Icicle, x: number, row: number): Box | null {
  return icicle.boxes.find((box) => box.depth === row && x >= box.from && x < box.to) ?? null;
}

export type Warmth = "used" | "pinned" | "warm" | "cold";

const WARM_MS = 60_000;

export function warmth(run: Run): Warmth {
  if (run.is_pinned) return "pinned";
  if (run.num_users > 0) return "used";
  return run.idle_ms < WARM_MS ? "warm" : "cold";
}

export function describeTree(tree: Tree): string {
  if (tree.num_tokens === 0) return "The tree is empty.";
  const used = tree.runs.filter((run) => run.num_users > 0).reduce((sum, run) => sum + run.num_tokens, 0);
  return `${tree.num_tokens} tokens in the tree, ${used} of them in use, in ${tree.runs.length} runs.`;
}
