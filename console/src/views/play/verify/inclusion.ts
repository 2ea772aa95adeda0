// That an entry is in a log: RFC 9162 2.1.3.2, and the text that carries such a proof (C2SP tlog-proof).

import { type Bytes, fromBase64, fromUtf8, isSame, join } from "./bytes";
import { demand } from "./fault";
import { sha256 } from "./hashing";
import { type Note, parseHash, parseNote, parseSize } from "./note";

const FIRST_LINE = "c2sp.org/tlog-proof@v1";
const MAX_HASHES = 63;

export interface LogProof {
  index: bigint;
  hashes: Bytes[];
  note: Note;
}

export function parseProof(data: Bytes): LogProof {
  const blank = data.findIndex((byte, at) => byte === 10 && data[at + 1] === 10);
  const head = data.slice(0, Math.max(blank, 0));
  demand(blank >= 0 && head.every((byte) => byte < 128), "a log proof has ASCII lines and a blank line behind them.");
  const lines = fromUtf8(head, "a log proof").split("\n");
  demand(lines.shift() === FIRST_LINE, `a log proof begins with ${FIRST_LINE}.`);
  if (lines[0]?.startsWith("extra ")) {
    const extra = fromBase64(lines.shift()!.slice(6), "the extra data");
    demand(extra.length > 0, "the extra line of a log proof is empty; without extra data there is none.");
  }
  const index = lines.shift() ?? "";
  demand(index.startsWith("index "), "a log proof has a line `index NUMBER` before its hashes.");
  demand(lines.length <= MAX_HASHES, `a log proof has ${lines.length} hashes; no tree needs more than ${MAX_HASHES}.`);
  return {
    index: parseSize(index.slice(6), "the index of a log proof"),
    hashes: lines.map((line) => parseHash(line, "a hash of a log proof")),
    note: parseNote(data.slice(blank + 2)),
  };
}

// RFC 9162 2.1.1: MTH({d[0]}) = HASH(0x00 || d[0]).
export function hashLeaf(entry: Bytes): Promise<Bytes> {
  return sha256(join(Uint8Array.of(0), entry));
}

// RFC 9162 2.1.1: HASH(0x01 || MTH(D[0:k]) || MTH(D[k:n])).
export function hashChildren(left: Bytes, right: Bytes): Promise<Bytes> {
  return sha256(join(Uint8Array.of(1), left, right));
}

// RFC 9162 2.1.3.2: that `leaf`, a leaf's hash, stands at `index` of the tree.
export async function verifyInclusion(
  index: bigint,
  size: bigint,
  leaf: Bytes,
  proof: readonly Bytes[],
  root: Bytes,
): Promise<void> {
  // 1. Compare leaf_index against tree_size; if leaf_index is greater or equal, fail.
  demand(index >= 0n && index < size, `index ${index} is not in a tree of ${size} entries.`);
  // 2., 3. Set fn to leaf_index, sn to tree_size - 1 and r to hash.
  let fn = index;
  let sn = size - 1n;
  let r = leaf;
  // 4. For each value p in the inclusion_path array:
  for (const p of proof) {
    // a. If sn is 0, fail.
    demand(sn !== 0n, `the proof has more hashes than a tree of ${size} entries needs.`);
    // b. If LSB(fn) is set, or if fn equals sn: r = HASH(0x01 || p || r); then if LSB(fn) is not set, shift both right
    //    until it is or fn is 0.
    if ((fn & 1n) === 1n || fn === sn) {
      r = await hashChildren(p, r);
      while (fn !== 0n && (fn & 1n) === 0n) {
        fn >>= 1n;
        sn >>= 1n;
      }
    } else {
      r = await hashChildren(r, p);
    }
    // c. Shift both right one time.
    fn >>= 1n;
    sn >>= 1n;
  }
  // 5. Compare sn to 0 and r against the root_hash; if they are not both equal, fail.
  demand(sn === 0n, `the proof has fewer hashes than a tree of ${size} entries needs.`);
  demand(isSame(r, root), `the proof of entry ${index} does not lead to the root of the tree of ${size} entries.`);
}
