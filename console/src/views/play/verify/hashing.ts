// What WebCrypto does for the rest: SHA-256, HMAC and signatures. Says so where a browser lacks it; has no fallback.

import { type Bytes, isSame, join, toHex, utf8 } from "./bytes";
import { demand, NotChecked } from "./fault";

export const NONCE_BYTES = 16;
// RFC 8410 4: what stands before the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo.
const SPKI_ED25519 = Uint8Array.from([0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00]);

// Absent where a page is neither from https nor from this machine: browsers then hide it.
export function subtle(): SubtleCrypto {
  const found = globalThis.crypto?.subtle as SubtleCrypto | undefined;
  if (found === undefined) {
    throw new NotChecked("this browser offers no WebCrypto here: open the page over https, or on this machine.");
  }
  return found;
}

export async function sha256(data: Bytes): Promise<Bytes> {
  return new Uint8Array(await subtle().digest("SHA-256", data));
}

// SHA-256(nonce || data). The nonce has a fixed length, so no other pair gives the same bytes.
export async function commit(nonce: Bytes, data: Bytes): Promise<Bytes> {
  demand(nonce.length === NONCE_BYTES, `a nonce has ${NONCE_BYTES} bytes.`);
  return sha256(join(nonce, data));
}

// One more nonce out of a record's own: HMAC-SHA-256 with the purpose, cut to the length of a nonce.
export async function derivedNonce(nonce: Bytes, purpose: string): Promise<Bytes> {
  const key = await subtle().importKey("raw", nonce, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return new Uint8Array(await subtle().sign("HMAC", key, utf8(purpose))).slice(0, NONCE_BYTES);
}

export function spkiOfEd25519(publicKey: Bytes): Bytes {
  return join(SPKI_ED25519, publicKey);
}

export function ed25519Of(spki: Bytes): Bytes | null {
  const is = spki.length === SPKI_ED25519.length + 32 && isSame(spki.slice(0, SPKI_ED25519.length), SPKI_ED25519);
  return is ? spki.slice(SPKI_ED25519.length) : null;
}

// How signatures name a key: the SHA-256 of its SubjectPublicKeyInfo, in hexadecimal.
export async function keyId(spki: Bytes): Promise<string> {
  return toHex(await sha256(spki));
}

// RFC 8032. Throws NotChecked where the browser does not know the algorithm.
export async function verifyEd25519(publicKey: Bytes, signature: Bytes, message: Bytes): Promise<boolean> {
  let key: CryptoKey;
  try {
    key = await subtle().importKey("raw", publicKey, { name: "Ed25519" }, false, ["verify"]);
  } catch (error) {
    if (error instanceof NotChecked) throw error;
    if ((error as Error).name === "NotSupportedError") {
      throw new NotChecked("this browser's WebCrypto has no Ed25519; a newer one has.");
    }
    return false;
  }
  return subtle().verify({ name: "Ed25519" }, key, signature, message);
}
