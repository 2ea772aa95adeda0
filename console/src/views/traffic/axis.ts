// Attempts on an axis of time: where each begins and ends, as shares of the whole. No DOM.

import type { Step } from "./shapes";

export interface Bar {
  left: number; // of 1
  waiting: number; // width until the first of the answer, or all of it
  answering: number; // width from there on
}

export interface Axis {
  bars: Bar[];
  ticks: { at: number; s: number }[];
  length_s: number;
}

const LEAST = 0.004; // a bar that took no time is seen all the same
const TICKS = 5;

export function layOut(steps: readonly Step[], whole_s: number): Axis {
  const length_s = Math.max(whole_s, ...steps.map((one) => one.ended_s), 1e-6);
  const bars = steps.map((one) => {
    const left = Math.min(Math.max(0, one.began_s) / length_s, 1 - LEAST);
    const right = Math.max(left + LEAST, Math.min(1, one.ended_s / length_s));
    const first = one.first_s === null ? right : Math.min(right, Math.max(left, one.first_s / length_s));
    return { left, waiting: first - left, answering: right - first };
  });
  return { bars, ticks: ticksOf(length_s), length_s };
}

// Round numbers of seconds, as many as fit.
export function ticksOf(length_s: number): { at: number; s: number }[] {
  const rough = length_s / TICKS;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough)!;
  const ticks = [];
  for (let number = 0; number * step <= length_s * 1.0001; number += 1) {
    const s = number * step;
    ticks.push({ at: s / length_s, s });
  }
  return ticks;
}
