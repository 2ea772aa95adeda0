// Whether a record holds, clause by clause, and how far that goes. In the order and the words of the command
// `headrace verify`, so that both can be compared line by line.
//
//     signed     the node that is trusted vouched for the key that signed the statement, and it is about this answer
//     logged     the log has committed to statement and delegation, the delegation first
//     witnessed  as many others as the trust file asks for have seen the log so
//
// The first clause that is not met ends it. A clause that cannot be looked at in a browser is told as that, and a level
// that needs it is not reached. A signature shows who said it, not that the model computed it.

import type { Bundle } from "./bundle";
import { type Bytes, isSame, toHex } from "./bytes";
import { type Envelope, readEnvelope, signersOf } from "./dsse";
import { demand, NotChecked, NotVerified } from "./fault";
import { type Grant, readEntry, readGrant, SKEW_S } from "./grant";
import { commit, derivedNonce, verifierOf } from "./hashing";
import { ANSWER, BODY, opening, readStatement, REASONING, type Statement } from "./statement";
import { proveInclusion, type TrustFile } from "./trust_file";

export const NO_NODE = 'the trust file names no node; add its line "node NAME KEY".';

export type Level = "none" | "signed" | "logged" | "witnessed";

export interface Clause {
  name: string;
  isMet: boolean | null; // null: it could not be looked at, and `text` says why
  text: string;
}

export interface Report {
  clauses: Clause[];
  level: Level;
  wanted: Level; // what the trust file makes possible
  statement: Statement | null;
}

// The answer that is to be verified: the bytes as they came, what they say, and the forms its request can have. `form`
// null: it cannot be read; `digest` null: the bytes were not kept. `isCut`: it was stopped, or lost, before its end, and
// the record may be about more of it than came. `areBytesGone`: they came, and were not kept here.
export interface Shown {
  digest: Bytes | null; // SHA-256 of the bytes without a stream's comments
  form: Bytes | null;
  reasoning: Bytes | null;
  model: string | null;
  requests: Bytes[];
  recordId?: string | undefined; // that the answer named as its own
  isCut?: boolean;
  areBytesGone?: boolean;
}

export async function verify(bundle: Bundle, shown: Shown | null, trust: TrustFile): Promise<Report> {
  const report: Report = { clauses: [], level: "none", wanted: wantedOf(trust), statement: null };
  const run = new Run(bundle, shown, trust, report);
  try {
    await run.all();
  } catch (error) {
    const isUnchecked = error instanceof NotChecked;
    // What nobody foresaw is no yes either.
    const text = isUnchecked || error instanceof NotVerified ? error.message : `it cannot be read: ${String(error)}.`;
    report.clauses.push({ name: run.clause, isMet: isUnchecked ? null : false, text });
    report.level = "none";
  }
  return report;
}

export function isRefused(report: Report): boolean {
  return report.clauses.some((clause) => clause.isMet === false);
}

function wantedOf(trust: TrustFile): Level {
  if (trust.logs.length === 0) return "signed";
  return trust.quorum === "none" ? "logged" : "witnessed";
}

class Run {
  clause = "form";

  constructor(
    private readonly bundle: Bundle,
    private readonly shown: Shown | null,
    private readonly trust: TrustFile,
    private readonly report: Report,
  ) {}

  async all(): Promise<void> {
    const { report, shown } = this;
    const [statement, envelope] = this.record();
    report.statement = statement;
    this.meet(`record ${statement.recordId}, a statement about an answer, strictly written`);
    this.clause = "delegation";
    const grant = await this.delegation();
    this.meet(`node ${grant.node} vouches for the key ${grant.keyId.slice(0, 16)}…`);
    this.clause = "signature";
    await this.signature(envelope, grant);
    this.meet("the statement is signed by that key and by nobody else");
    this.clause = "time";
    await this.time(grant);
    this.meet("the record was made while the key was vouched for");
    this.clause = "nonce";
    await this.nonce(statement);
    this.clause = "answer";
    if (shown !== null) await this.answer(statement, shown);
    this.clause = "request";
    if (shown !== null && shown.requests.length > 0) await this.request(statement, shown);
    report.level = "signed";
    this.clause = "log";
    await this.log(statement, grant);
    this.clause = "revocation";
    // Whoever has taken the key writes the time of an entry as it likes: only a log says that it was there.
    const isDated = !this.trust.revoked.has(grant.keyId) || report.level !== "signed";
    demand(isDated, "the key that signed was revoked, and no log shows that the record is older than that.");
  }

  private meet(text: string, name = this.clause): void {
    this.report.clauses.push({ name, isMet: true, text });
  }

  private skip(text: string, name = this.clause): void {
    this.report.clauses.push({ name, isMet: null, text });
  }

  private record(): [Statement, Envelope] {
    const { bundle } = this;
    demand(bundle.record.envelope.length > 0, "the record was erased; what is left of it says nothing about an answer.");
    const envelope = readEnvelope(bundle.record.envelope);
    const statement = readStatement(envelope.payload);
    const isSameRecord = statement.recordId === bundle.recordId;
    demand(isSameRecord, `the bundle is of ${bundle.recordId}, the statement in it of ${statement.recordId}.`);
    const wanted = this.shown?.recordId ?? bundle.recordId;
    demand(bundle.recordId === wanted, `the answer names the record ${wanted}, and this is ${bundle.recordId}.`);
    return [statement, envelope];
  }

  private async delegation(): Promise<Grant> {
    const { nodes } = this.trust;
    demand(nodes.length > 0, NO_NODE);
    demand(this.bundle.delegation.envelope.length > 0, "the delegation of the key that signed is missing.");
    const envelope = readEnvelope(this.bundle.delegation.envelope);
    const named = nodes.find((one) => one.id === envelope.signatures[0]!.keyid);
    if (named !== undefined && named.verify === null) {
      throw new NotChecked(`the key of the node ${named.name} is of a kind that this page does not check; \`headrace verify\` may.`);
    }
    const keys = new Map(nodes.flatMap((one) => (one.verify === null ? [] : [[one.id, one.verify] as const])));
    const signers = await signersOf(envelope, keys);
    const isOne = envelope.signatures.length === 1 && signers.length === 1;
    const names = nodes.map((one) => one.name).join(", ");
    demand(isOne, `the delegation is not signed by a node that is trusted (${names}), or not by it alone.`);
    const grant = await readGrant(envelope.payload);
    const node = nodes.find((one) => one.id === signers[0])!;
    demand(grant.node === node.name, `the delegation speaks for node ${grant.node}, and ${node.name} signed it.`);
    return grant;
  }

  private async signature(envelope: Envelope, grant: Grant): Promise<void> {
    // DSSE allows more signatures; ours have one, and what is not vouched for must not look as if it were.
    const signers = await signersOf(envelope, new Map([[grant.keyId, verifierOf(grant.publicKey)]]));
    const isOne = envelope.signatures.length === 1 && signers.length === 1;
    demand(isOne, "the statement is not signed by the key that the node vouches for, or not by it alone.");
  }

  private async time(grant: Grant): Promise<void> {
    const { record, delegation } = this.bundle;
    const timeS = await readEntry(record.entry, "record", record.envelope);
    await readEntry(delegation.entry, "delegation", delegation.envelope);
    const isInside = grant.notBeforeS - SKEW_S <= timeS && timeS <= grant.notAfterS;
    demand(isInside, `the record's time, ${timeS}, is outside of ${grant.notBeforeS} to ${grant.notAfterS}.`);
    const revokedS = this.trust.revoked.get(grant.keyId) ?? Infinity;
    demand(timeS < revokedS, `the key that signed is revoked from ${revokedS} on, and the record is of ${timeS}.`);
  }

  private async nonce(statement: Statement): Promise<void> {
    const { nonce } = this.bundle;
    if (nonce.length === 0) {
      this.skip("it was erased: commitments cannot be opened, and what they commit to is not shown");
      return;
    }
    const isOf = statement.internal.get("opening") === `sha256:${toHex(await opening(nonce))}`;
    demand(isOf, "the bundle's nonce is not the record's.");
    this.meet("the nonce is the one that the record commits with");
  }

  private async answer(statement: Statement, shown: Shown): Promise<void> {
    const body = statement.subjects.get(BODY);
    if (shown.isCut && !(body !== undefined && shown.digest !== null && isSame(body, shown.digest))) {
      return this.skip("it was cut off here: the server may have sent more than came, so the two are not compared");
    }
    if (body !== undefined && shown.digest !== null) {
      demand(isSame(body, shown.digest), "the bytes that came are not those that were sent.");
      this.meet("byte for byte what was sent");
      await this.meaning(statement, shown);
      return;
    }
    const isKnown = statement.subjects.has(ANSWER);
    // That they were not kept is this page's doing, and says nothing against the answer.
    if (!isKnown && shown.areBytesGone) {
      throw new NotChecked("its record is about the answer's bytes alone, and they are not kept here any more: ask again, or verify a saved answer.");
    }
    demand(isKnown, "the answer passed unread, so its record is about its bytes alone, and these are not known.");
    demand(shown.form !== null, "what the answer says cannot be read.");
    if (shown.areBytesGone) this.skip("its bytes as they came are not kept here any more; what it says is compared instead");
    demand(this.bundle.nonce.length > 0, "the nonce was erased, so what the answer says cannot be compared.");
    demand(await this.opens(statement, ANSWER, shown.form), "the answer is another than the one that the record commits to.");
    this.meet("text, tool calls and endings are those that the record commits to", "meaning");
    const isNamed = shown.model === null || statement.modelNames.has(shown.model);
    demand(isNamed, `the answer says that ${JSON.stringify(shown.model)} said it; the record says another.`);
    if (shown.reasoning === null || !statement.subjects.has(REASONING)) return;
    const isReasoning = await this.opens(statement, REASONING, shown.reasoning);
    demand(isReasoning, "the reasoning is another than the one that the record commits to.");
    this.meet("the reasoning is the one that the record commits to", "reasoning");
  }

  // Of bytes that are the right ones also what they say, where that can be told.
  private async meaning(statement: Statement, shown: Shown): Promise<void> {
    for (const [name, title, form] of [
      [ANSWER, "meaning", shown.form],
      [REASONING, "reasoning", shown.reasoning],
    ] as const) {
      if (form === null || this.bundle.nonce.length === 0 || !statement.subjects.has(name)) continue;
      if (await this.opens(statement, name, form)) {
        this.meet(`the ${name}'s canonical form is the one that the record commits to`, title);
      } else {
        this.skip(`this protocol tells the ${name} in another way than its canonical form`, title);
      }
    }
  }

  private async opens(statement: Statement, name: string, form: Bytes): Promise<boolean> {
    return isSame(statement.subjects.get(name)!, await commit(await derivedNonce(this.bundle.nonce, name), form));
  }

  private async request(statement: Statement, shown: Shown): Promise<void> {
    const told = statement.external.get("request");
    const commitment = told instanceof Map ? told.get("commitment") : undefined;
    demand(typeof commitment === "string", "the record commits to no request.");
    demand(this.bundle.nonce.length > 0, "the nonce was erased, so the request cannot be compared.");
    const nonce = await derivedNonce(this.bundle.nonce, "request");
    const digests = await Promise.all(shown.requests.map((form) => commit(nonce, form)));
    const isOne = digests.some((digest) => commitment === `sha256:${toHex(digest)}`);
    demand(isOne, "the request is another than the one that the record commits to.");
    this.meet("the request is the one that the record commits to");
  }

  private async log(statement: Statement, grant: Grant): Promise<void> {
    const { bundle, trust, report } = this;
    if (trust.logs.length === 0) return this.skip("the trust file names no log");
    if (bundle.record.proof.length === 0 || bundle.delegation.proof.length === 0) {
      return this.skip("the record has no proof of inclusion yet; fetch it again after the log's merge delay");
    }
    const found = await Promise.all(
      [bundle.record, bundle.delegation].map((exhibit) => proveInclusion(trust, exhibit.proof, exhibit.entry)),
    ).catch((error: unknown) => {
      if (!(error instanceof NotChecked)) throw error;
      this.skip(error.message);
      return null;
    });
    if (found === null) return;
    const [record, delegation] = found as [(typeof found)[0], (typeof found)[0]];
    const told = statement.internal.get("log");
    const promised = told instanceof Map ? told.get("origin") : undefined;
    const { origin } = record!;
    const isOneLog = origin === delegation!.origin && origin === bundle.logOrigin && origin === promised;
    demand(isOneLog, `the proofs are of ${origin} and ${delegation!.origin}, the record promises another log.`);
    // Whoever has taken a key would choose the log whose operator helps.
    demand(grant.logOrigin === origin, `the node vouches for the key in ${grant.logOrigin || "no log"}, not in ${origin}.`);
    // The order in the log stands for time: what a key signs before it is vouched for is worth nothing.
    demand(delegation!.index < record!.index, "the log has the record before the delegation of its key.");
    this.meet(`${origin} has the record at ${record!.index}, behind its key's delegation at ${delegation!.index}`);
    report.level = "logged";
    const unchecked = [...new Set([...record!.unchecked, ...delegation!.unchecked])];
    if (unchecked.length > 0) {
      this.skip(`${unchecked.join(", ")} signed as well, with ML-DSA-44: this browser has no means to check that`, "ml-dsa");
    }
    if (record!.isWitnessed && delegation!.isWitnessed) {
      this.meet("as many as the trust file asks for have seen the log so", "witnesses");
      report.level = "witnessed";
    } else {
      this.skip("not as many as a trust file would ask for have cosigned, or it asks for none", "witnesses");
    }
  }
}
