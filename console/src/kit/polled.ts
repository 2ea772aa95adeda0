// Something that is read again and again: not while nobody looks, with growing pauses while the server does not answer,
// and keeping what was last read.

import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { ApiError, fetchJson, onConnection } from "../api";

const LONGEST_PAUSE_MS = 30_000;

export interface Polled<T> {
  data: T | null;
  error: unknown; // of the last try; null after one that worked
  isOld: boolean; // `data` is of an earlier try: the last one failed
  reload: () => void;
}

// How long to wait before the next try, after so many in a row that failed.
export function pauseMs(everyMs: number, failures: number): number {
  return failures === 0 ? everyMs : Math.min(LONGEST_PAUSE_MS, Math.max(everyMs, 1000) * 2 ** (failures - 1));
}

interface State<T> {
  path: string | null;
  data: T | null;
  error: unknown;
}

// `path` null: nothing is read. `everyMs` Infinity: read once, and again by `reload`.
export function usePolled<T>(path: string | null, everyMs: number): Polled<T> {
  const [state, change] = useState<State<T>>({ path, data: null, error: null });
  const again = useRef<() => void>(() => undefined);
  useEffect(() => {
    if (path === null) return undefined;
    const poll = startPolling<T>(path, everyMs, (read) =>
      change((old) => ({ path, data: "data" in read ? read.data : old.path === path ? old.data : null, error: read.error })),
    );
    again.current = poll.now;
    return poll.stop;
  }, [path, everyMs]);
  const reload = useCallback(() => again.current(), []);
  const isCurrent = state.path === path;
  const data = isCurrent ? state.data : null;
  const error = isCurrent ? state.error : null;
  return { data, error, isOld: data !== null && error !== null, reload };
}

type Read<T> = { data: T; error: null } | { error: unknown };

function startPolling<T>(path: string, everyMs: number, tell: (read: Read<T>) => void) {
  let running: AbortController | null = null;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let failures = 0;
  let isEnded = false;

  function wait(ms: number): void {
    clearTimeout(timer);
    if (Number.isFinite(ms)) timer = setTimeout(() => void read(), ms);
  }

  async function read(): Promise<void> {
    clearTimeout(timer);
    if (isEnded || document.hidden) return;
    running?.abort();
    const own = (running = new AbortController());
    try {
      const data = await fetchJson<T>(path, { signal: own.signal });
      if (own !== running || isEnded) return;
      failures = 0;
      tell({ data, error: null });
      wait(everyMs);
    } catch (error) {
      if (own.signal.aborted || isEnded) return;
      failures += 1;
      tell({ error });
      const isLost = error instanceof ApiError && (error.status === 0 || error.status >= 500);
      // Without a sign-in, or where it may not be read, asking again changes nothing; a new sign-in does (below).
      if (isLost || Number.isFinite(everyMs)) wait(isLost ? pauseMs(everyMs, failures) : LONGEST_PAUSE_MS);
    } finally {
      if (own === running) running = null;
    }
  }

  const onVisible = () => void (!document.hidden && (Number.isFinite(everyMs) || failures > 0) && read());
  document.addEventListener("visibilitychange", onVisible);
  const forget = onConnection((status) => {
    if (status === "answered" && failures > 0 && running === null) {
      failures = 0;
      wait(0);
    }
  });
  void read();
  return {
    now: () => void read(),
    stop: () => {
      isEnded = true;
      clearTimeout(timer);
      running?.abort();
      document.removeEventListener("visibilitychange", onVisible);
      forget();
    },
  };
}
