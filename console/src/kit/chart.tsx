// Charts. uPlot comes when the first one is drawn; a canvas says nothing to who cannot see it, so that each chart has a
// sentence for each of its series.

import { useEffect, useRef, useState } from "preact/hooks";
import type uPlot from "uplot";
import { colour, useTheme } from "./theme";

export interface ChartSeries {
  label: string;
  colour?: string; // a name of tokens.css: "accent", "good", "warn", "bad", "quiet"
  format?: (value: number) => string;
}

export interface ChartProps {
  label: string;
  series: readonly ChartSeries[];
  data: readonly (readonly (number | null)[])[]; // the x values, then those of each series
  kind?: "lines" | "bars";
  height?: number; // CSS pixels
  x?: "time" | "number"; // Unix seconds, or a plain number
  formatX?: (value: number) => string;
  marksX?: readonly number[]; // how far marks of the x axis may be apart, the least first
  empty?: string; // in place of no data
}

const COLOURS = ["accent", "good", "warn", "bad", "quiet"];
const plain = (value: number) => value.toLocaleString("en", { maximumFractionDigits: 2 });

export function Chart(props: ChartProps) {
  const { label, series, data, kind = "lines", height = 180, x = "time", empty = "Nothing yet." } = props;
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const latest = useRef(props);
  latest.current = props;
  const theme = useTheme();
  const hasFailed = useRef(false);
  const [attempt, again] = useState(0);
  const isEmpty = (data[0]?.length ?? 0) === 0;
  const names = series.map((one) => `${one.label}\u0000${one.colour}`).join("\u0001");

  useEffect(() => {
    if (isEmpty) return undefined;
    let isGone = false;
    const element = box.current!;
    const size = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height }));
    void import("./plot").then(({ draw }) => {
      if (isGone) return;
      plot.current = draw(element, { ...latest.current, kind, height, x, colours: coloursOf(series) });
      size.observe(element);
    }, () => (hasFailed.current = true)); // the server went away just now: the next data ask for it again
    return () => {
      isGone = true;
      size.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [theme, kind, height, x, names, isEmpty, attempt]);

  useEffect(() => {
    if (hasFailed.current) {
      hasFailed.current = false;
      again((count) => count + 1);
    }
    plot.current?.setData(data as uPlot.AlignedData);
  }, [data]);

  return (
    <figure class="chart">
      <figcaption>{label}</figcaption>
      {isEmpty ? <p class="empty">{empty}</p> : <div ref={box} class="plot" aria-hidden="true" style={{ minHeight: `${height}px` }} />}
      {!isEmpty && series.length > 1 && (
        <ul class="chart-key" aria-hidden="true">
          {series.map((one, index) => (
            <li key={one.label}><span style={{ background: `var(--${tokenOf(one, index)})` }} />{one.label}</li>
          ))}
        </ul>
      )}
      {!isEmpty && <ul class="unseen">{series.map((one, index) => <li key={one.label}>{summary(one, data[index + 1] ?? [])}</li>)}</ul>}
    </figure>
  );
}

function tokenOf(one: ChartSeries, index: number): string {
  return one.colour ?? COLOURS[index % COLOURS.length]!;
}

function coloursOf(series: readonly ChartSeries[]): string[] {
  return series.map((one, index) => colour(tokenOf(one, index)));
}

export function summary(series: ChartSeries, values: readonly (number | null)[]): string {
  const format = series.format ?? plain;
  const known = values.filter((value) => value !== null);
  if (known.length === 0) return `${series.label}: no values.`;
  let least = Infinity;
  let most = -Infinity;
  for (const value of known) {
    least = Math.min(least, value);
    most = Math.max(most, value);
  }
  return `${series.label}: latest ${format(known.at(-1)!)}, least ${format(least)}, most ${format(most)}.`;
}
