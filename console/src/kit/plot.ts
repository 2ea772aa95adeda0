// uPlot as our charts use it. Loaded with the first chart.

import uPlot from "uplot";
import type { ChartProps } from "./chart";
import { clockTime } from "./format";
import { colour } from "./theme";

interface Drawn extends ChartProps {
  kind: "lines" | "bars";
  height: number;
  x: "time" | "number";
  colours: string[];
}

export function draw(element: HTMLElement, chart: Drawn): uPlot {
  const quiet = colour("quiet");
  const line = colour("line");
  const axis = { stroke: quiet, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
  const format = chart.series[0]?.format;
  const formatX = chart.formatX ?? (chart.x === "time" ? clockTime : undefined);
  const options: uPlot.Options = {
    width: Math.max(100, element.clientWidth),
    height: chart.height,
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, points: { size: 6 } },
    scales: { x: { time: chart.x === "time" }, y: { range: fromZero } },
    axes: [
      {
        ...axis,
        size: chart.x === "time" && !chart.formatX ? 50 : 30,
        ...(chart.formatX ? { values: (_, values) => values.map((one) => chart.formatX!(one)) } : {}),
        ...(chart.marksX ? { incrs: [...chart.marksX] } : {}),
      },
      { ...axis, size: 72, ...(format ? { values: (_, values) => values.map((one) => (one === null ? "" : format(one))) } : {}) },
    ],
    series: [{}, ...chart.series.map((one, index) => seriesOf(one.label, chart.colours[index]!, chart.kind))],
    plugins: [reading(element, chart, formatX)],
  };
  return new uPlot(options, chart.data as uPlot.AlignedData, element);
}

function seriesOf(label: string, stroke: string, kind: "lines" | "bars"): uPlot.Series {
  if (kind === "lines") return { label, stroke, width: 1.5, points: { show: false } };
  return { label, stroke, fill: stroke, width: 0, points: { show: false }, paths: uPlot.paths.bars!({ size: [0.8, 60] }) };
}

function fromZero(_: uPlot, least: number | null, most: number | null): [number, number] {
  return [Math.min(0, least ?? 0), most === null || most <= 0 ? 1 : most * 1.05];
}

// What stands under the pointer, in words.
function reading(element: HTMLElement, chart: Drawn, formatX: ((value: number) => string) | undefined): uPlot.Plugin {
  const told = document.createElement("p");
  told.className = "plot-reading";
  return {
    hooks: {
      init: () => element.append(told),
      destroy: () => told.remove(),
      setCursor: (plot) => {
        const at = plot.cursor.idx;
        if (at === null || at === undefined) {
          told.textContent = "";
          return;
        }
        const x = plot.data[0][at]!;
        const values = chart.series.map((one, index) => {
          const value = plot.data[index + 1]?.[at];
          return `${one.label} ${value === null || value === undefined ? "–" : (one.format ?? String)(value)}`;
        });
        told.textContent = `${formatX ? formatX(x) : x}: ${values.join(", ")}`;
      },
    },
  };
}
