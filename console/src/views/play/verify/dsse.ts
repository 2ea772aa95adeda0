// DSSE envelopes (secure-systems-lab/dsse, v1.0.2): a payload, its type, and signatures over both together. Reads
// strictly: what another reader could take otherwise is refused.

import { type Bytes, fromBase64, join, utf8 } from "./bytes";
import { demand } from "./fault";
import type { Verify } from "./hashing";
import { asList, asTable, asText, hasOnly, readJson } from "./json";

export const IN_TOTO = "application/vnd.in-toto+json";
const MAX_SIGNATURES = 16;

export interface Signature {
  keyid: string; // a hint, which proves nothing
  sig: Bytes;
}

export interface Envelope {
  payloadType: string;
  payload: Bytes;
  signatures: Signature[];
}

export function readEnvelope(data: Bytes): Envelope {
  const found = asTable(readJson(data, "the envelope"), "the envelope");
  const isWhole = hasOnly(found, "payload", "payloadType", "signatures");
  demand(isWhole, "the envelope must have payload, payloadType and signatures, and nothing else.");
  // A payload that is read as something else than what was signed is how signatures are abused.
  demand(found.get("payloadType") === IN_TOTO, `the envelope's payloadType is not ${IN_TOTO}.`);
  const signatures = asList(found.get("signatures"), "the envelope's signatures");
  const isFew = signatures.length >= 1 && signatures.length <= MAX_SIGNATURES;
  demand(isFew, `the envelope must have 1 to ${MAX_SIGNATURES} signatures.`);
  return {
    payloadType: IN_TOTO,
    payload: fromBase64(asText(found.get("payload"), "payload"), "payload"),
    signatures: signatures.map((one) => {
      const told = asTable(one, "a signature");
      demand(
        hasOnly(told, "sig") || hasOnly(told, "keyid", "sig"),
        "a signature must have sig, may have keyid, and nothing else.",
      );
      const keyid = told.has("keyid") ? asText(told.get("keyid"), "a signature's keyid") : "";
      return { keyid, sig: fromBase64(asText(told.get("sig"), "sig"), "sig") };
    }),
  };
}

// The bytes that are signed (protocol.md, "Signature Definition"): no other pair has the same.
export function pae(payloadType: string, payload: Bytes): Bytes {
  const kind = utf8(payloadType);
  return join(utf8(`DSSEv1 ${kind.length} `), kind, utf8(` ${payload.length} `), payload);
}

// Which of some keys, by their ids, have signed. Signatures of others say nothing, for or against.
export async function signersOf(envelope: Envelope, keys: ReadonlyMap<string, Verify>): Promise<string[]> {
  const message = pae(envelope.payloadType, envelope.payload);
  const found: string[] = [];
  for (const one of envelope.signatures) {
    const verify = keys.get(one.keyid);
    if (verify !== undefined && !found.includes(one.keyid) && (await verify(one.sig, message))) {
      found.push(one.keyid);
    }
  }
  return found;
}
