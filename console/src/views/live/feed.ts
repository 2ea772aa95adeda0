// Keeps the live feed open while somebody looks: not while the page is hidden or paused, and again by itself, with growing
// pauses, when it ended. Knows no view.

import { ApiError, events, onConnection, send } from "../../api";
import { pauseMs } from "../../kit/polled";
import type { Frame } from "./frame";

export type Status = "opening" | "live" | "lost" | "refused";

export interface Listener {
  onFrame: (frame: Frame) => void;
  onStatus: (status: Status, error: unknown) => void;
}

const SILENCE_MS = 15_000; // no frame for so long: the connection is dead, whatever the browser thinks of it
const FIRST_PAUSE_MS = 1000;

// Returns what ends it.
export function openFeed(listener: Listener): () => void {
  let running: AbortController | null = null;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let failures = 0;
  let isEnded = false;

  async function run(): Promise<void> {
    clearTimeout(timer);
    if (isEnded || document.hidden || running) return;
    const own = (running = new AbortController());
    let silence: ReturnType<typeof setTimeout> | undefined;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => own.abort(), SILENCE_MS);
    };
    let failure: unknown = null;
    try {
      heard();
      for await (const event of events(await send("/v1/live?history=true", { signal: own.signal }))) {
        heard();
        if (event.event !== "frame") continue; // a refusal inside of the stream: the next try says it again
        failures = 0;
        listener.onStatus("live", null);
        listener.onFrame(JSON.parse(event.data) as Frame);
      }
    } catch (error) {
      failure = error;
    } finally {
      clearTimeout(silence);
      if (running === own) running = null;
    }
    if (isEnded || document.hidden) return;
    failures += 1;
    const isRefused = failure instanceof ApiError && failure.status === 403;
    listener.onStatus(isRefused ? "refused" : "lost", failure);
    if (!isRefused) timer = setTimeout(() => void run(), pauseMs(FIRST_PAUSE_MS, failures));
  }

  const onVisible = () => {
    if (document.hidden) {
      running?.abort();
      clearTimeout(timer);
    } else void run();
  };
  // Somebody else on the page got an answer, or signed in again: the server is there.
  const forget = onConnection((status) => {
    if (status === "answered" && failures > 0 && !running) {
      clearTimeout(timer);
      timer = setTimeout(() => void run(), 0);
    }
  });
  document.addEventListener("visibilitychange", onVisible);
  listener.onStatus("opening", null);
  void run();
  return () => {
    isEnded = true;
    clearTimeout(timer);
    running?.abort();
    forget();
    document.removeEventListener("visibilitychange", onVisible);
  };
}
