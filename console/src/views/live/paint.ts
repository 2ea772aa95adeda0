// How the timeline, the prefix tree and the heat maps look on a canvas. Draws values, decides nothing.

import type { Tree } from "./frame";
import type { Colours, Surface } from "./picture";
import { segments, WINDOW_MS, type Bar, type Timeline } from "./timeline";
import { warmth, type Icicle, type Warmth } from "./tree";

export const LANE_PX = 18;
export const MAX_LANES = 24;
export const ROW_PX = 22;
const AXIS_PX = 18;
const BAR_PX = 12;
const FONT = "11px system-ui, sans-serif";
const MIN_TEXT_PX = 44;

export function timelineHeight(timeline: Timeline): number {
  return AXIS_PX + LANE_PX * Math.max(4, Math.min(MAX_LANES, timeline.numLanes));
}

// Which lane lies at a height.
export function laneAt(y: number): number | null {
  return y < AXIS_PX ? null : Math.floor((y - AXIS_PX) / LANE_PX);
}

export function paintTimeline({ context, width, height, colours }: Surface, timeline: Timeline): void {
  const fromMs = timeline.nowMs - WINDOW_MS;
  const x = (ms: number) => ((ms - fromMs) / WINDOW_MS) * width;
  context.font = FONT;
  context.fillStyle = colours.quiet;
  context.strokeStyle = colours.line;
  for (let s = 60; s >= 0; s -= 10) {
    const at = Math.min(width - 0.5, Math.round(x(timeline.nowMs - s * 1000)) + 0.5);
    line(context, at, AXIS_PX, at, height);
    context.textAlign = s === 60 ? "left" : s === 0 ? "right" : "center";
    context.fillText(s === 0 ? "now" : `−${s} s`, at, 12);
  }
  for (const bar of timeline.bars) {
    if (bar.lane < MAX_LANES) paintBar(context, colours, bar, timeline.nowMs, x);
  }
}

function paintBar(context: CanvasRenderingContext2D, colours: Colours, bar: Bar, nowMs: number, x: (ms: number) => number): void {
  const top = AXIS_PX + bar.lane * LANE_PX + (LANE_PX - BAR_PX) / 2;
  const fills = { waiting: colours.warn, reading: colours.accent, answering: colours.good } as const;
  context.globalAlpha = bar.endMs === null ? 1 : 0.6;
  for (const { kind, fromMs, toMs } of segments(bar, nowMs)) {
    context.fillStyle = fills[kind];
    const left = Math.max(0, x(fromMs));
    context.fillRect(left, top, Math.max(1.5, x(toMs) - left), BAR_PX);
  }
  context.globalAlpha = 1;
  const endX = x(bar.endMs ?? nowMs);
  if (bar.firstMs !== null && x(bar.firstMs) >= 0) {
    context.fillStyle = colours.text;
    context.fillRect(x(bar.firstMs) - 0.75, top - 2, 1.5, BAR_PX + 4); // the first token
  }
  if (bar.endMs !== null && bar.outcome !== "ok" && bar.outcome !== "") {
    context.fillStyle = colours.bad;
    context.fillRect(endX - 3, top - 2, 3, BAR_PX + 4);
  }
}

const TREE_FILLS: Record<Warmth, keyof Colours> = { used: "accent", pinned: "warn", warm: "good", cold: "line" };

export function treeHeight(icicle: Icicle): number {
  return ROW_PX * Math.max(2, Math.min(10, icicle.depth));
}

export function paintTree({ context, width, colours }: Surface, tree: Tree, icicle: Icicle, at: number | null): void {
  context.font = FONT;
  context.textAlign = "left";
  for (const box of icicle.boxes) {
    const run = tree.runs[box.run]!;
    const left = box.from * width;
    const wide = Math.max(1, (box.to - box.from) * width - 1);
    const top = box.depth * ROW_PX;
    context.globalAlpha = box.run === at ? 1 : 0.72;
    context.fillStyle = colours[TREE_FILLS[warmth(run)]];
    context.fillRect(left, top, wide, ROW_PX - 2);
    context.globalAlpha = 1;
    if (wide >= MIN_TEXT_PX) {
      context.fillStyle = colours.ground;
      clipped(context, `${run.num_tokens}`, left + 4, top + 14, wide - 6);
    }
  }
  if (tree.rest_tokens > 0 && icicle.restFrom < 1) {
    context.strokeStyle = colours.quiet;
    for (let left = icicle.restFrom * width; left < width; left += 5) line(context, left, ROW_PX - 2, left + 5, 0);
  }
}

// Where a column is not known the picture stays empty.
export function paintHeat({ context, width, height, colours }: Surface, columns: readonly (readonly number[] | null)[], rows: number): void {
  const wide = width / columns.length;
  const tall = height / rows;
  const most = columns.reduce((sum, counts) => Math.max(sum, ...(counts ?? [])), 1);
  columns.forEach((counts, column) => {
    if (!counts) return;
    const left = column * wide;
    context.globalAlpha = 1;
    context.fillStyle = colours.sunken;
    context.fillRect(left, 0, Math.ceil(wide), height);
    context.fillStyle = colours.accent;
    counts.forEach((count, row) => {
      if (count === 0) return;
      // By its logarithm: one slow answer among a thousand quick ones is what somebody looks for.
      context.globalAlpha = 0.25 + 0.75 * (Math.log1p(count) / Math.log1p(most));
      context.fillRect(left, height - (row + 1) * tall, Math.ceil(wide), Math.ceil(tall) - 1);
    });
  });
  context.globalAlpha = 1;
}

function clipped(context: CanvasRenderingContext2D, text: string, x: number, y: number, width: number): void {
  if (context.measureText(text).width <= width) context.fillText(text, x, y);
}

function line(context: CanvasRenderingContext2D, x1: number, y1: number, x2: number, y2: number): void {
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  context.stroke();
}
