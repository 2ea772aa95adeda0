// A record with all that verifies it away from the server that made it, as one JSON text: in canonical form with a
// checksum, so that damage is told from a forgery and no byte of it is without meaning.

import { type Bytes, fromBase64, fromUtf8, isSame, toHex, utf8 } from "./bytes";
import { demand } from "./fault";
import { NONCE_BYTES, sha256 } from "./hashing";
import { asTable, asText, canonicalBytes, hasOnly, type Json, readJsonText } from "./json";

const FORMAT = "headrace-record-bundle-v1";
const MAX_BYTES = 16 * 1024 * 1024;
const NAMES = ["checksum", "delegation", "format", "id", "log_origin", "nonce", "record"];

// An envelope with its entry of the log and the C2SP tlog-proof of it. Empty: there is none, or it was erased.
export interface Exhibit {
  envelope: Bytes;
  entry: Bytes;
  proof: Bytes;
}

export interface Bundle {
  recordId: string;
  logOrigin: string;
  record: Exhibit;
  delegation: Exhibit;
  nonce: Bytes; // opens the record's commitments; empty once it was erased
}

export async function readBundle(data: Bytes): Promise<Bundle> {
  demand(data.length <= MAX_BYTES, `the bundle has ${data.length} bytes; none has more than ${MAX_BYTES}.`);
  const text = fromUtf8(data, "the bundle").replace(/\n+$/, ""); // that a program which saved it may have added
  const found = asTable(readJsonText(text, "the bundle"), "the bundle");
  demand(found.get("format") === FORMAT, `the bundle's format is not ${FORMAT}.`);
  demand(hasOnly(found, ...NAMES), "the bundle has other parts than bundles have.");
  const checksum = found.get("checksum");
  const rest = new Map([...found].filter(([name]) => name !== "checksum"));
  const isWhole = checksum === `sha256:${toHex(await sha256(canonicalBytes(rest)))}`;
  demand(isWhole, "the bundle is damaged: it is not what its checksum says.");
  demand(isSame(canonicalBytes(found), utf8(text)), "the bundle is not in canonical form.");
  const nonce = found.get("nonce");
  const bundle = {
    recordId: asText(found.get("id"), "the bundle's id"),
    logOrigin: asText(found.get("log_origin"), "the bundle's log_origin"),
    record: exhibit(found.get("record"), "record"),
    delegation: exhibit(found.get("delegation"), "delegation"),
    nonce: nonce === null ? new Uint8Array() : fromBase64(asText(nonce, "the nonce"), "the nonce"),
  };
  const isNonce = nonce === null || bundle.nonce.length === NONCE_BYTES;
  demand(isNonce, `the bundle's nonce has ${bundle.nonce.length} bytes, not ${NONCE_BYTES}.`);
  return bundle;
}

function exhibit(value: Json | undefined, what: string): Exhibit {
  const told = asTable(value, `the bundle's ${what}`);
  demand(hasOnly(told, "entry", "envelope", "proof"), `the bundle's ${what} has other parts than it should.`);
  const part = (name: string): Bytes => {
    const text = told.get(name);
    return text === null ? new Uint8Array() : utf8(asText(text, `the ${what}'s ${name}`));
  };
  return { envelope: part("envelope"), entry: part("entry"), proof: part("proof") };
}
