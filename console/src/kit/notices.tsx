// What the page says: notices in place, toasts at the edge, and small marks beside a value.

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { ApiError } from "../api";
import { Plain } from "./plain";

export type Kind = "info" | "good" | "warn" | "bad";

interface NoticeProps {
  kind?: "info" | "warn" | "bad";
  title: string;
  children?: ComponentChildren;
}

export function Notice({ kind = "info", title, children }: NoticeProps) {
  return (
    <section class={`notice ${kind}`} role={kind === "bad" ? "alert" : undefined}>
      <strong>{title}</strong>
      {children}
    </section>
  );
}

// What went wrong, in the server's own words, which may repeat what a caller sent: hostile text.
export function ErrorNotice({ error, title }: { error: unknown; title?: string }) {
  const isOurs = error instanceof ApiError;
  const heading = title ?? (isOurs && error.status === 0 ? "No answer" : "That did not work");
  return (
    <Notice kind="bad" title={heading}>
      <p><Plain text={error instanceof Error ? error.message : String(error)} /></p>
      {isOurs && error.status !== 0 && (
        <p class="hint">
          <Plain mono text={`${error.code} · status ${error.status}`} />
          {error.requestId && <> · request <Plain mono text={error.requestId} /></>}
        </p>
      )}
    </Notice>
  );
}

export function Busy({ label = "Loading" }: { label?: string }) {
  return <span class="busy" role="status">{label}…</span>;
}

export function Badge({ kind = "info", children }: { kind?: Kind; children: ComponentChildren }) {
  return <span class={`badge ${kind}`}>{children}</span>;
}

interface MeterProps {
  label: string;
  value: number;
  max: number;
  text?: string; // what the value is called; else a share in percent
  warnAt?: number; // share from which on it is told as a warning
}

export function Meter({ label, value, max, text, warnAt = 0.9 }: MeterProps) {
  const share = max > 0 ? Math.min(1, Math.max(0, value / max)) : 0;
  const told = text ?? `${Math.round(share * 100)} %`;
  return (
    <div class={`meter${share >= 1 ? " full" : share >= warnAt ? " near" : ""}`}>
      <span class="meter-label">{label}</span>
      <span class="meter-text">{told}</span>
      <div
        class="meter-bar"
        role="meter"
        aria-label={label}
        aria-valuemin={0}
        aria-valuemax={max}
        aria-valuenow={Math.min(max, Math.max(0, value))}
        aria-valuetext={told}
      >
        <div style={{ width: `${share * 100}%` }} />
      </div>
    </div>
  );
}

interface Told {
  id: number;
  text: string;
  kind: Kind;
}

const TOAST_MS = 6000;
let told: readonly Told[] = [];
let nextId = 0;
const listeners = new Set<() => void>();

function change(now: readonly Told[]): void {
  told = now;
  for (const listener of listeners) listener();
}

function forget(id: number): void {
  change(told.filter((one) => one.id !== id));
}

// Says something at the edge of the page. What went wrong stays until it is dismissed.
export function toast(text: string, kind: Kind = "info"): void {
  const id = nextId++;
  change([...told.slice(-4), { id, text, kind }]);
  if (kind !== "bad") setTimeout(() => forget(id), TOAST_MS);
}

// Where toasts appear; the shell holds one.
export function Toasts() {
  const [, redraw] = useState(0);
  useEffect(() => {
    const listener = () => redraw((times) => times + 1);
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }, []);
  return (
    <div class="toasts" role="status" aria-live="polite">
      {told.map((one) => (
        <div key={one.id} class={`toast ${one.kind}`}>
          <Plain text={one.text} />
          <button type="button" class="button plain" aria-label="Dismiss" onClick={() => forget(one.id)}>×</button>
        </div>
      ))}
    </div>
  );
}
