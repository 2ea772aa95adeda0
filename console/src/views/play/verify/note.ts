// Signed notes and checkpoints (C2SP signed-note, tlog-checkpoint, tlog-cosignature): a text, a blank line, signature
// lines. Parsed strictly. Lines of ML-DSA-44 are told as not checked where the browser's WebCrypto has none, and then count
// for nothing.

import { type Bytes, fromBase64, fromUtf8, isSame, isWellFormed, join, toBase64, toHex, utf8 } from "./bytes";
import { demand, NotChecked, NotVerified } from "./fault";
import { sha256, verifyEd25519, verifyMlDsa44 } from "./hashing";

const MAX_SIGNATURES = 32;
const MAX_NOTE_BYTES = 1 << 20;
const ID_BYTES = 4;
const TIME_BYTES = 8;
const ED25519_BYTES = 64;
const ML_DSA_44_BYTES = 2420;
const MAX_SIZE = 2n ** 63n - 1n;
// signed-note, Signature types.
export const ED25519 = 0x01;
export const COSIGNATURE_ED25519 = 0x04;
export const COSIGNATURE_ML_DSA_44 = 0x06;
const PUBLIC_BYTES: Record<number, number> = { [ED25519]: 32, [COSIGNATURE_ED25519]: 32, [COSIGNATURE_ML_DSA_44]: 1312 };

export interface VerifierKey {
  name: string;
  algorithm: number;
  publicKey: Bytes;
  id: string; // 8 hexadecimal digits
}

export interface SignatureLine {
  name: string;
  id: string;
  data: Bytes;
}

export interface Note {
  text: Bytes; // ends with a newline, as it was signed
  lines: SignatureLine[];
}

// Whose signatures fit, and whose could not be looked at here.
export interface Opened {
  signed: VerifierKey[];
  unchecked: VerifierKey[];
}

export interface Checkpoint {
  origin: string;
  size: bigint;
  root: Bytes;
}

// signed-note, Format: non-empty, without spaces and plus.
function isKeyName(name: string): boolean {
  return name !== "" && !/[+\s\u0000-\u001f\u0085]/.test(name) && isWellFormed(name);
}

// <key name>+hex(key ID)+base64(signature type || public key)
export async function parseVkey(text: string): Promise<VerifierKey> {
  const [name = "", id = "", ...rest] = text.split("+");
  const isOne = isKeyName(name) && /^[0-9a-f]{8}$/.test(id) && rest.length > 0;
  demand(isOne, `${JSON.stringify(text.slice(0, 100))} is no verifier key; one reads NAME+8 hex digits+base64.`);
  const data = fromBase64(rest.join("+"), `the key of ${name}`);
  const algorithm = data[0] ?? 0;
  demand(algorithm in PUBLIC_BYTES, `the key of ${name} is of a type that is not known here.`);
  const publicKey = data.slice(1);
  demand(publicKey.length === PUBLIC_BYTES[algorithm], `the key of ${name} has ${publicKey.length} bytes.`);
  // key ID = SHA-256(key name || 0x0A || signature type || public key)[:4]
  const digest = await sha256(join(utf8(`${name}\n`), data));
  demand(toHex(digest.slice(0, ID_BYTES)) === id, `the id of the key of ${name} is not that of its bytes.`);
  return { name, algorithm, publicKey, id };
}

export function parseNote(data: Bytes): Note {
  demand(data.length <= MAX_NOTE_BYTES, `a note has ${data.length} bytes; at most ${MAX_NOTE_BYTES} are read.`);
  const whole = fromUtf8(data, "a note");
  demand(!/[\u0000-\u0009\u000b-\u001f]/.test(whole), "a note has a control character; only newlines may be there.");
  // "the text is separated from the signatures by the last empty line in the note"
  const blank = whole.lastIndexOf("\n\n");
  demand(blank >= 0 && whole.endsWith("\n"), "a note ends with a blank line and signature lines; this one does not.");
  const tail = whole.slice(blank + 2);
  const lines = tail.split("\n").slice(0, -1);
  demand(lines.length <= MAX_SIGNATURES, `a note has ${lines.length} signatures; at most ${MAX_SIGNATURES} are read.`);
  return { text: utf8(whole.slice(0, blank + 1)), lines: lines.map(parseLine) };
}

function parseLine(line: string): SignatureLine {
  const space = line.indexOf(" ", 2);
  const name = line.slice(2, space);
  const isOne = line.startsWith("— ") && space > 0 && isKeyName(name);
  demand(isOne, `${JSON.stringify(line.slice(0, 60))} is no signature line; one reads — NAME BASE64.`);
  const data = fromBase64(line.slice(space + 1), `the signature of ${name}`);
  demand(data.length > ID_BYTES, `the signature of ${name} is shorter than a key's id.`);
  return { name, id: toHex(data.slice(0, ID_BYTES)), data: data.slice(ID_BYTES) };
}

// Who of the known keys signed; a key that comes twice counts once. None is an answer, too.
export async function findSigned(note: Note, keys: VerifierKey[]): Promise<Opened> {
  const opened: Opened = { signed: [], unchecked: [] };
  const known = new Map(keys.map((key) => [`${key.name} ${key.id}`, key]));
  // Two keys with name and id in common: at least one of them would not verify, so they are refused together.
  const isClear = keys.every((key) => isSame(known.get(`${key.name} ${key.id}`)!.publicKey, key.publicKey));
  demand(isClear, "two known keys have one name and one id; rename one.");
  for (const line of note.lines) {
    const key = known.get(`${line.name} ${line.id}`);
    if (key === undefined) continue; // "Verifiers MUST ignore signatures from unknown keys"
    // "If the key name and ID match a known key, verifiers MUST verify the signature": each time it comes.
    const isChecked = await verifyLine(note.text, line, key);
    const found = isChecked ? opened.signed : opened.unchecked;
    if (!found.includes(key)) found.push(key);
  }
  return opened;
}

// As `findSigned`, where at least one must have signed.
export async function openNote(note: Note, keys: VerifierKey[]): Promise<Opened> {
  const opened = await findSigned(note, keys);
  if (opened.signed.length === 0 && opened.unchecked.length > 0) {
    const lines = opened.unchecked.map(lineOf).join(", ");
    throw new NotChecked(`of those known only ${lines} signed the checkpoint, with ML-DSA-44: this browser cannot check it.`);
  }
  demand(opened.signed.length > 0, "no key that is known signed this checkpoint.");
  return opened;
}

// How a signature line names its key, for a person.
export function lineOf(key: VerifierKey): string {
  return `${key.name} (${key.id})`;
}

// Whether it could be looked at. Throws NotVerified if it does not fit.
async function verifyLine(text: Bytes, line: SignatureLine, key: VerifierKey): Promise<boolean> {
  const isCosigned = key.algorithm !== ED25519;
  const isMlDsa = key.algorithm === COSIGNATURE_ML_DSA_44;
  const wanted = (isMlDsa ? ML_DSA_44_BYTES : ED25519_BYTES) + (isCosigned ? TIME_BYTES : 0);
  demand(line.data.length === wanted, `the signature of ${key.name} has ${line.data.length} bytes, not ${wanted}.`);
  const timed = line.data.slice(0, isCosigned ? TIME_BYTES : 0);
  const signature = line.data.slice(timed.length);
  const timeS = isCosigned ? new DataView(timed.buffer).getBigUint64(0) : 0n;
  demand(timeS <= MAX_SIZE, `the cosignature of ${key.name} has a time that is none.`);
  let isFit: boolean | null;
  if (isMlDsa) isFit = await verifyMlDsa44(key.publicKey, signature, await subtreeMessage(key.name, text, timed));
  else {
    const message = isCosigned ? join(utf8(`cosignature/v1\ntime ${timeS}\n`), text) : text;
    isFit = await verifyEd25519(key.publicKey, signature, message);
  }
  if (isFit === false) throw new NotVerified(`the signature of ${lineOf(key)} does not fit the checkpoint.`);
  return isFit !== null;
}

// tlog-cosignature, ML-DSA-44 signed message: a `cosigned_message` over the whole tree (start is 0).
async function subtreeMessage(cosigner: string, text: Bytes, timed: Bytes): Promise<Bytes> {
  const { origin, size, root } = await readCheckpoint(text);
  return join(utf8("subtree/v1\n\0"), opaque(cosigner), timed, opaque(origin), eightBytes(0n), eightBytes(size), root);
}

// RFC 8446 3.4: opaque<1..2^8-1>, a length in one byte before it.
function opaque(name: string): Bytes {
  const data = utf8(name);
  demand(data.length >= 1 && data.length <= 255, "a name has not 1 to 255 bytes, which ML-DSA-44 cosignatures take.");
  return join(Uint8Array.of(data.length), data);
}

function eightBytes(value: bigint): Bytes {
  const made = new Uint8Array(8);
  new DataView(made.buffer).setBigUint64(0, value);
  return made;
}

// An ASCII decimal without leading zeros.
export function parseSize(text: string, what: string): bigint {
  const isOne = /^(?:0|[1-9][0-9]{0,18})$/.test(text) && BigInt(text) <= MAX_SIZE;
  demand(isOne, `${what} is no decimal number without zeros in front.`);
  return BigInt(text);
}

export function parseHash(text: string, what: string): Bytes {
  const data = fromBase64(text, what);
  demand(data.length === 32 && toBase64(data) === text, `${what} is not the base64 of 32 bytes.`);
  return data;
}

// tlog-checkpoint: origin, size, root, and lines that nothing here reads.
export async function readCheckpoint(text: Bytes): Promise<Checkpoint> {
  const lines = fromUtf8(text, "a checkpoint").split("\n");
  const isOne = lines.length >= 4 && lines.at(-1) === "" && lines.slice(0, -1).every((line) => line !== "");
  demand(isOne, "a checkpoint has at least three lines, none of them empty, and ends with a newline.");
  const checkpoint = {
    origin: lines[0]!,
    size: parseSize(lines[1]!, "a checkpoint's size"),
    root: parseHash(lines[2]!, "a root"),
  };
  // RFC 9162 2.1.1: the hash of an empty list is the hash of an empty string.
  const isEmptyRight = checkpoint.size > 0n || isSame(checkpoint.root, await sha256(utf8("")));
  demand(isEmptyRight, "a checkpoint of an empty tree has a root that is not the hash of nothing.");
  return checkpoint;
}
