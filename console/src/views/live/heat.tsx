// How long answers took, over time: a heat map of bands of latency, and the same as a table.

import { useCallback, useState } from "preact/hooks";
import { count, Table, type Column } from "../../kit";
import { bands, span, type BandRow } from "./history";
import { paintHeat } from "./paint";
import { Picture, type Surface } from "./picture";

const COLUMNS: readonly Column<BandRow>[] = [
  { key: "band", title: "Took", cell: (one) => one.label },
  { key: "count", title: "How often", align: "end", cell: (one) => count(one.count) },
];

interface HeatProps {
  title: string;
  bounds: readonly number[];
  columns: readonly (readonly number[] | null)[]; // null: not known
}

export function Heat({ title, bounds, columns }: HeatProps) {
  const [isOpen, open] = useState(false);
  const draw = useCallback((surface: Surface) => paintHeat(surface, columns, bounds.length + 1), [columns, bounds.length]);
  const rows = bands(bounds, columns);
  const sum = rows.reduce((all, row) => all + row.count, 0);
  const most = rows.reduce<BandRow | null>((best, row) => (row.count > (best?.count ?? 0) ? row : best), null);
  const told = most ? `${count(sum)} in the last minutes, most often ${most.label}.` : "Nothing in the last minutes.";
  return (
    <figure class="live-heat">
      <figcaption>{title}</figcaption>
      <div class="live-heat-plot">
        <div class="live-heat-axis" aria-hidden="true">
          <span>{span(bounds.at(-1) ?? 0)}</span>
          <span>{span(bounds[Math.floor(bounds.length / 2)] ?? 0)}</span>
          <span>0</span>
        </div>
        <Picture label={`${title}: ${told}`} height={120} draw={draw} />
      </div>
      <p class="hint">{told}</p>
      <details open={isOpen} onToggle={(event) => open(event.currentTarget.open)}>
        <summary>{title} as a table</summary>
        {isOpen && <Table label={title} columns={COLUMNS} rows={rows} rowKey={(row) => row.label} empty="" />}
      </details>
    </figure>
  );
}
