// Tables that stay quick with thousands of rows: beyond a screenful only those that are looked at are there, and the count
// of all of them is told to whoever listens instead.

import type { ComponentChildren } from "preact";
import { useEffect, useId, useMemo, useRef, useState } from "preact/hooks";
import { count } from "./format";

export interface Column<Row> {
  key: string;
  title: string;
  cell: (row: Row) => ComponentChildren;
  align?: "start" | "end";
  sort?: (a: Row, b: Row) => number; // ascending
}

interface TableProps<Row> {
  label: string;
  columns: readonly Column<Row>[];
  rows: readonly Row[];
  rowKey: (row: Row) => string;
  onOpen?: (row: Row) => void; // its first cell becomes a button
  openLabel?: (row: Row) => string; // what that button is called, if not what the cell shows
  isOpen?: (row: Row) => boolean; // is marked
  empty: ComponentChildren; // in place of no rows
  filter?: (row: Row) => string; // gives a box: rows whose text holds what is written there
}

const WINDOW_FROM = 200;
const ROW_PX = 37; // kit.css gives rows of a windowed table this height
const SPARE = 10;

interface Sorting {
  key: string;
  isDown: boolean;
}

export function Table<Row>(props: TableProps<Row>) {
  const { label, columns, rows, empty, filter } = props;
  const [sorting, sort] = useState<Sorting | null>(null);
  const [wanted, want] = useState("");
  const id = useId();
  const shown = useMemo(() => arrange(rows, columns, sorting, filter, wanted), [rows, columns, sorting, filter, wanted]);
  return (
    <div class="table">
      {filter && rows.length > 0 && (
        <div class="table-filter">
          <label for={id}>Filter</label>
          <input id={id} type="search" value={wanted} onInput={(event) => want(event.currentTarget.value)} />
          <span role="status">{wanted ? `${count(shown.length)} of ${count(rows.length)}` : count(rows.length)}</span>
        </div>
      )}
      {rows.length === 0 ? <div class="empty">{empty}</div> : shown.length === 0 ? (
        <div class="empty">Nothing here holds “{wanted}”.</div>
      ) : (
        <Grid {...props} rows={shown} label={label} sorting={sorting} onSort={sort} />
      )}
    </div>
  );
}

function arrange<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  sorting: Sorting | null,
  filter: ((row: Row) => string) | undefined,
  wanted: string,
): readonly Row[] {
  const sought = wanted.trim().toLowerCase();
  let found = rows;
  if (filter && sought) found = rows.filter((row) => filter(row).toLowerCase().includes(sought));
  const compare = sorting && columns.find((one) => one.key === sorting.key)?.sort;
  return compare ? [...found].sort((a, b) => (sorting.isDown ? compare(b, a) : compare(a, b))) : found;
}

interface GridProps<Row> extends TableProps<Row> {
  sorting: Sorting | null;
  onSort: (sorting: Sorting) => void;
}

function Grid<Row>({ label, columns, rows, rowKey, onOpen, openLabel, isOpen, sorting, onSort }: GridProps<Row>) {
  const isWindowed = rows.length > WINDOW_FROM;
  const { box, first, last } = useWindow(rows.length, isWindowed);
  return (
    <div class={isWindowed ? "table-scroll windowed" : "table-scroll"} ref={box} tabIndex={0} role="region" aria-label={label}>
      <table aria-rowcount={isWindowed ? rows.length + 1 : undefined}>
        <caption class="unseen">{label}</caption>
        <thead>
          <tr>{columns.map((one) => <Heading key={one.key} column={one} sorting={sorting} onSort={onSort} />)}</tr>
        </thead>
        <tbody>
          {first > 0 && <Gap rows={first} columns={columns.length} />}
          {rows.slice(first, last).map((row, index) => (
            <tr
              key={rowKey(row)}
              aria-rowindex={isWindowed ? first + index + 2 : undefined}
              class={`${onOpen ? "opens" : ""}${isOpen?.(row) ? " is-open" : ""}`}
              onClick={onOpen && ((event) => {
                if (!(event.target as Element).closest("button, a, input, select")) onOpen(row);
              })}
            >
              {columns.map((one, at) => (
                <td key={one.key} class={one.align}>
                  {at === 0 && onOpen ? (
                    <button type="button" class="link" aria-label={openLabel?.(row)} onClick={() => onOpen(row)}>
                      {one.cell(row)}
                    </button>
                  ) : one.cell(row)}
                </td>
              ))}
            </tr>
          ))}
          {last < rows.length && <Gap rows={rows.length - last} columns={columns.length} />}
        </tbody>
      </table>
    </div>
  );
}

function Gap({ rows, columns }: { rows: number; columns: number }) {
  return <tr aria-hidden="true" class="gap"><td colSpan={columns} style={{ height: `${rows * ROW_PX}px` }} /></tr>;
}

interface HeadingProps<Row> {
  column: Column<Row>;
  sorting: Sorting | null;
  onSort: (sorting: Sorting) => void;
}

function Heading<Row>({ column, sorting, onSort }: HeadingProps<Row>) {
  const isSorted = sorting?.key === column.key;
  const order = isSorted ? (sorting.isDown ? "descending" : "ascending") : undefined;
  if (!column.sort) return <th scope="col" class={column.align}>{column.title}</th>;
  return (
    <th scope="col" class={column.align} aria-sort={order}>
      <button type="button" class="sort" onClick={() => onSort({ key: column.key, isDown: isSorted && !sorting.isDown })}>
        {column.title}
        <span aria-hidden="true">{order === "descending" ? " ▾" : order === "ascending" ? " ▴" : " ▿"}</span>
      </button>
    </th>
  );
}

function useWindow(rows: number, isWindowed: boolean) {
  const box = useRef<HTMLDivElement>(null);
  const [seen, see] = useState({ top: 0, height: 800 });
  useEffect(() => {
    const element = box.current;
    if (!isWindowed || !element) return undefined;
    let frame = 0;
    const look = () => {
      frame = 0;
      see({ top: element.scrollTop, height: element.clientHeight });
    };
    const later = () => {
      frame ||= requestAnimationFrame(look);
    };
    element.addEventListener("scroll", later, { passive: true });
    const size = new ResizeObserver(later);
    size.observe(element);
    return () => {
      cancelAnimationFrame(frame);
      size.disconnect();
      element.removeEventListener("scroll", later);
    };
  }, [isWindowed]);
  if (!isWindowed) return { box, first: 0, last: rows };
  const first = Math.max(0, Math.min(Math.floor(seen.top / ROW_PX) - SPARE, rows - 1));
  return { box, first, last: Math.min(rows, first + Math.ceil(seen.height / ROW_PX) + 2 * SPARE) };
}
