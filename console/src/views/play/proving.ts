// From a step to a report: fetches the record, recomputes what it commits to from what this page sent and received, and
// verifies it here. Also compares what is shown with what the bytes say.

import { send } from "../../api";
import { compare, keepAnchor, readAnchor, type Anchor, type Shelf, type Standing } from "./anchors";
import type { Step } from "./step";
import { formOf, readStream, reasoningOf } from "./verify/answer_form";
import { readBundle } from "./verify/bundle";
import { type Bytes, concat } from "./verify/bytes";
import { NotVerified } from "./verify/fault";
import { requestForms } from "./verify/request_form";
import { transcriptDigest } from "./verify/transcript";
import { parseTrustFile } from "./verify/trust_file";
import { type Report, type Shown, verify } from "./verify/verification";

const WAIT_S = 10; // for the log to take the record in

export interface Proof {
  report: Report;
  anchor: Anchor;
  standing: Standing; // of the keys that the server tells now
  told: string; // the trust file that it tells
  isKept: boolean; // false: the browser keeps nothing
}

export async function fetchBundle(recordId: string, waitS = WAIT_S): Promise<Bytes> {
  const response = await send(`/v1/provenance/${encodeURIComponent(recordId)}?wait_s=${waitS}`);
  return new Uint8Array(await response.arrayBuffer());
}

export async function fetchTrustFile(): Promise<string> {
  return (await send("/v1/provenance/trust-file")).text();
}

export async function prove(step: Step, bundle: Bytes, shelf: Shelf, nowMs: number): Promise<Proof> {
  const told = await fetchTrustFile();
  const kept = readAnchor(shelf);
  const standing = compare(kept, told);
  const anchor: Anchor = kept ?? { text: told, source: "first use", name: "", sinceMs: nowMs };
  // A file of another server's keys is refused by the first clause that needs them, not here.
  const trust = await parseTrustFile(anchor.text);
  const { shown, differs } = await shownOf(step);
  const report = await verify(await readBundle(bundle), shown, trust);
  if (differs !== null && report.level !== "none") {
    report.clauses.push({ name: "shown", isMet: false, text: differs });
    report.level = "none";
  }
  // What verifies nothing is no reason to trust anybody.
  const isKept = kept !== null || report.level === "none" || keepAnchor(shelf, anchor);
  return { report, anchor, standing, told, isKept };
}

// What came, recomputed from its bytes; `differs` says how what the page shows is something else.
export async function shownOf(step: Step): Promise<{ shown: Shown; differs: string | null }> {
  const isKept = step.isWholeStreamKept && step.numBytes > 0;
  const stream = isKept ? concat(step.stream) : null;
  const said = stream === null ? null : await readStream(stream);
  const shown: Shown = {
    digest: stream === null ? null : await transcriptDigest(stream),
    // Without its bytes by what the page shows of it, which says as much where the record commits to that.
    form: stream === null ? formOf(step) : (said?.form ?? null),
    reasoning: stream === null ? reasoningOf(step) : (said?.reasoning ?? null),
    model: said?.model ?? null,
    requests: step.body === null ? [] : requestForms(step.body),
    recordId: step.facts?.recordId ?? undefined,
    isCut: step.status !== "done",
    areBytesGone: stream === null,
  };
  if (said === null) return { shown, differs: null };
  const isSameText = (said.texts[0] ?? "") === step.text;
  const isSameCalls =
    said.calls.length === step.calls.length &&
    said.calls.every((call, at) => call.name === step.calls[at]!.name && call.arguments === step.calls[at]!.arguments);
  return { shown, differs: isSameText && isSameCalls ? null : "the page shows something else than the bytes say." };
}

export function sentence(error: unknown): string {
  return error instanceof NotVerified ? error.message : error instanceof Error ? error.message : String(error);
}

