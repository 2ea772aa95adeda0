// The node's statement that a key signs records for it (a delegation), and the entry that the log has of an envelope.

import { type Bytes, fromBase64, isSame, toBase64, toHex, utf8 } from "./bytes";
import { demand } from "./fault";
import { keyId, sha256, spkiOfEd25519 } from "./hashing";
import { asList, asTable, asText, asWhole, canonicalText, readJson } from "./json";

export const STATEMENT = "https://in-toto.io/Statement/v1";
const DELEGATION = "urn:headrace:delegation:v1";
const PURPOSE = "records";
const MAX_LIFE_S = 86_400;
// A record may be as much older than its delegation as two clocks of one machine may differ by.
export const SKEW_S = 5;

export interface Grant {
  node: string;
  instance: string;
  publicKey: Bytes; // 32 bytes of an Ed25519 key
  keyId: string;
  notBeforeS: number; // Unix seconds
  notAfterS: number;
  logOrigin: string; // empty: in no log
}

export async function readGrant(payload: Bytes): Promise<Grant> {
  const found = asTable(readJson(payload, "the delegation"), "the delegation");
  const isOne = found.get("_type") === STATEMENT && found.get("predicateType") === DELEGATION;
  demand(isOne, "the node's statement is no delegation.");
  const subjects = asList(found.get("subject"), "the delegation's subject");
  demand(subjects.length === 1, "the delegation must be about one key.");
  const digest = asTable(asTable(subjects[0], "its subject").get("digest"), "its subject's digest");
  const told = asTable(found.get("predicate"), "the delegation's predicate");
  const key = asTable(told.get("key"), "the delegated key");
  const isFit = told.get("purpose") === PURPOSE && key.get("keytype") === "ed25519";
  demand(isFit, "the delegation is for another purpose or kind of key.");
  const publicKey = fromBase64(asText(key.get("public"), "the delegated key"), "the delegated key");
  demand(publicKey.length === 32, "the delegated key has not 32 bytes.");
  const grant = {
    node: asText(told.get("node"), "the delegation's node"),
    instance: asText(told.get("instance"), "the delegation's instance"),
    publicKey,
    keyId: await keyId(spkiOfEd25519(publicKey)),
    notBeforeS: asWhole(told.get("not_before_s"), "not_before_s"),
    notAfterS: asWhole(told.get("not_after_s"), "not_after_s"),
    logOrigin: asText(told.get("log_origin"), "the delegation's log_origin"),
  };
  const isExact = digest.get("sha256") === grant.keyId && isSame(encodeGrant(grant), payload);
  demand(isExact, "the delegation is not in the form that nodes write it in, or about another key.");
  const lifeS = grant.notAfterS - grant.notBeforeS;
  demand(lifeS >= 0 && lifeS <= MAX_LIFE_S, `the delegation lasts longer than ${MAX_LIFE_S} s.`);
  return grant;
}

// As nodes write it: nothing of it is left unread.
function encodeGrant(grant: Grant): Bytes {
  return utf8(
    JSON.stringify({
      _type: STATEMENT,
      subject: [{ name: "record-key", digest: { sha256: grant.keyId } }],
      predicateType: DELEGATION,
      predicate: {
        purpose: PURPOSE,
        node: grant.node,
        instance: grant.instance,
        key: { keytype: "ed25519", public: toBase64(grant.publicKey) },
        not_before_s: grant.notBeforeS,
        not_after_s: grant.notAfterS,
        log_origin: grant.logOrigin,
      },
    }),
  );
}

// The time (Unix seconds) that the log's entry says of an envelope. The entry commits to that envelope and to no other.
export async function readEntry(entry: Bytes, kind: string, envelope: Bytes): Promise<number> {
  const found = asTable(readJson(entry, `the log's entry of the ${kind}`), `the log's entry of the ${kind}`);
  const timeS = asWhole(found.get("time"), "the time of an entry");
  const digest = `sha256:${toHex(await sha256(envelope))}`;
  const wanted = utf8(canonicalText(new Map<string, string | number>([["digest", digest], ["kind", kind], ["time", timeS]])));
  demand(isSame(entry, wanted), `the log's entry of the ${kind} commits to something else.`);
  return timeS;
}
