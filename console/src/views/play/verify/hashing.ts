// What WebCrypto does for the rest: SHA-256, HMAC and signatures. Says so where a browser lacks it; has no fallback.

import { type Bytes, isSame, join, toHex, utf8 } from "./bytes";
import { demand, NotChecked } from "./fault";

export const NONCE_BYTES = 16;
const SHA256_BYTES = 32;
const MIN_RSA_BITS = 2048; // shorter ones verify nothing
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

// A key that has signed, of whatever kind. Throws NotChecked where it cannot be told here.
export type Verify = (signature: Bytes, message: Bytes) => Promise<boolean>;

export function verifierOf(publicKey: Bytes): Verify {
  return (signature, message) => verifyEd25519(publicKey, signature, message);
}

const CURVES = [
  { namedCurve: "P-256", hash: "SHA-256", numBytes: 32 },
  { namedCurve: "P-384", hash: "SHA-384", numBytes: 48 },
  { namedCurve: "P-521", hash: "SHA-512", numBytes: 66 },
] as const;

// Of a key by its SubjectPublicKeyInfo, which vaults and KMS have: ECDSA over three curves; null: of another kind.
export async function ecdsaOf(spki: Bytes): Promise<Verify | null> {
  for (const { namedCurve, hash, numBytes } of CURVES) {
    const algorithm = { name: "ECDSA", namedCurve };
    const key = await subtle().importKey("spki", spki, algorithm, false, ["verify"]).catch(() => null);
    if (key === null) continue;
    return async (signature, message) => {
      const raw = rawOfDer(signature, numBytes);
      return raw !== null && subtle().verify({ name: "ECDSA", hash }, key, raw, message);
    };
  }
  return null;
}

// RFC 8017 8.1 with SHA-256 for both of its hashes, as vaults and KMS sign with RSA keys; null: of another kind. Signers
// choose how long the salt is and do not tell, WebCrypto wants to be told: the usual lengths are tried first, then all.
export async function rsaPssOf(spki: Bytes): Promise<Verify | null> {
  const algorithm = { name: "RSA-PSS", hash: "SHA-256" };
  const key = await subtle().importKey("spki", spki, algorithm, false, ["verify"]).catch(() => null);
  if (key === null) return null;
  const numBits = (key.algorithm as RsaHashedKeyAlgorithm).modulusLength;
  if (numBits < MIN_RSA_BITS) return async () => false;
  return async (signature, message) => {
    if (signature.length !== Math.ceil(numBits / 8)) return false;
    for (const saltLength of saltLengths(numBits)) {
      if (await subtle().verify({ name: "RSA-PSS", saltLength }, key, signature, message)) return true;
    }
    return false;
  };
}

// Every length that fits beside two hashes' worth (RFC 8017 9.1.1: emLen >= hLen + sLen + 2): as long as the hash, as long
// as can be, and what is left.
export function saltLengths(numBits: number): number[] {
  const most = Math.ceil((numBits - 1) / 8) - SHA256_BYTES - 2;
  return [...new Set([SHA256_BYTES, most, ...Array.from({ length: most }, (_, at) => at)])];
}

// Of a key by its SubjectPublicKeyInfo; null: of a kind that is not checked here.
export async function verifierOfSpki(spki: Bytes): Promise<Verify | null> {
  const publicKey = ed25519Of(spki);
  return publicKey === null ? ((await ecdsaOf(spki)) ?? (await rsaPssOf(spki))) : verifierOf(publicKey);
}

// RFC 3279 2.2.3: a SEQUENCE of two INTEGERs, in DER; WebCrypto wants both in as many bytes as the curve has. null: it is
// written in another way.
export function rawOfDer(der: Bytes, numBytes: number): Bytes | null {
  const isLong = der[1] === 0x81;
  const start = isLong ? 3 : 2;
  if (der[0] !== 0x30 || der.length !== start + (isLong ? der[2]! : der[1]!) || (isLong && der[2]! < 0x80)) return null;
  const raw = new Uint8Array(2 * numBytes);
  let at = start;
  for (const place of [numBytes, 2 * numBytes]) {
    const size = der[at + 1] ?? 0;
    const number = der.slice(at + 2, at + 2 + size);
    const isOne = der[at] === 0x02 && size > 0 && number.length === size && number[0]! < 0x80;
    const isShortest = isOne && (number[0] !== 0 || size === 1 || number[1]! >= 0x80);
    const digits = number[0] === 0 ? number.slice(1) : number;
    if (!isShortest || digits.length > numBytes) return null;
    raw.set(digits, place - digits.length);
    at += 2 + size;
  }
  return at === der.length ? raw : null;
}

// FIPS 204, ML-DSA-44 with an empty context; null: this browser's WebCrypto has none, which is asked for each time.
export async function verifyMlDsa44(publicKey: Bytes, signature: Bytes, message: Bytes): Promise<boolean | null> {
  const algorithm = { name: "ML-DSA-44" };
  let key: CryptoKey;
  try {
    key = await subtle().importKey("raw-public" as "raw", publicKey, algorithm, false, ["verify"]);
  } catch (error) {
    if (error instanceof NotChecked) throw error;
    // A browser that does not know the format or the algorithm says so in one of several ways; a bad key in one.
    return (error as Error).name === "DataError" ? false : null;
  }
  return subtle().verify(algorithm, key, signature, message);
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
