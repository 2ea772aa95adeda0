// Whom the reader of a record trusts: C2SP tlog-policy, a text of lines `log`, `witness`, `group` and `quorum`, with two
// lines of ours, `node NAME VKEY` and `revoked KEYID UNIX_S`. Knows no files.

import { type Bytes, fromBase64, join, toHex, utf8 } from "./bytes";
import { demand, NotVerified } from "./fault";
import { keyId, sha256, spkiOfEd25519, verifierOf, verifierOfSpki, type Verify } from "./hashing";
import { hashLeaf, parseProof, verifyInclusion } from "./inclusion";
import * as note from "./note";

const NONE = "none";
const MAX_CHARACTERS = 1 << 20;
const SPKI = utf8("\u00ffheadrace.spki\n").slice(1); // the byte 0xff in front, which is no UTF-8
SPKI[0] = 0xff;
const LOGS = [note.ED25519, note.COSIGNATURE_ML_DSA_44];
const COSIGNERS = [note.COSIGNATURE_ED25519, note.COSIGNATURE_ML_DSA_44];

export interface NodeKey {
  name: string;
  id: string; // how its signatures name it
  verify: Verify | null; // null: a kind of key that is not checked here
}

export interface Witness {
  name: string;
  key: note.VerifierKey;
}

export interface Group {
  name: string;
  needed: number;
  members: string[];
}

export interface TrustFile {
  nodes: NodeKey[];
  logs: note.VerifierKey[];
  witnesses: Witness[];
  groups: Group[];
  quorum: string; // a witness, a group, or none
  revoked: ReadonlyMap<string, number>; // ids of record keys that are not believed from a time on, Unix seconds
}

// What a proof of inclusion shows. `unchecked` are signature lines of known keys that this browser cannot check: NAME (ID).
export interface Included {
  origin: string;
  index: bigint;
  size: bigint;
  isWitnessed: boolean;
  unchecked: string[];
}

export async function parseTrustFile(text: string): Promise<TrustFile> {
  demand(text.length <= MAX_CHARACTERS, `a trust file has at most ${MAX_CHARACTERS} characters.`);
  const made = new Draft();
  for (const [at, line] of text.split("\n").entries()) {
    const words = line.split(/[ \t]+/).filter((word) => word !== "");
    try {
      demand(!/[\u0000-\u0008\u000a-\u001f\u007f]/.test(line), "has a control character, perhaps a carriage return.");
      if (words.length === 0 || words[0]!.startsWith("#")) continue;
      await made.read(words[0]!, words.slice(1));
    } catch (error) {
      if (!(error instanceof NotVerified)) throw error;
      throw new NotVerified(`the trust file's line ${at + 1}: ${error.message}`);
    }
  }
  return made.finish();
}

class Draft {
  private readonly found: TrustFile = { nodes: [], logs: [], witnesses: [], groups: [], quorum: "", revoked: new Map() };
  private readonly revoked = new Map<string, number>();
  private readonly named = new Set<string>();
  private readonly members = new Set<string>();

  async read(word: string, rest: string[]): Promise<void> {
    const readers: Record<string, [(words: string[]) => Promise<void> | void, number, number]> = {
      log: [(words) => this.log(words[0]!), 1, 2],
      witness: [(words) => this.witness(words[0]!, words[1]!), 2, 3],
      node: [(words) => this.node(words[0]!, words[1]!), 2, 2],
      revoked: [(words) => this.revoke(words[0]!, words[1]!), 2, 2],
      group: [(words) => this.group(words[0]!, words[1]!, words.slice(2)), 3, Infinity],
      quorum: [(words) => this.quorum(words[0]!), 1, 1],
    };
    demand(Object.hasOwn(readers, word), `${JSON.stringify(word.slice(0, 100))} is no word of a trust file.`);
    const [reader, least, most] = readers[word]!;
    demand(rest.length >= least && rest.length <= most, `${word} has ${rest.length} words behind it.`);
    await reader(rest);
  }

  finish(): TrustFile {
    const { found } = this;
    const isOfLogs = found.logs.length + found.witnesses.length + found.groups.length > 0;
    // A file that names nodes alone is enough for the level "signed", and needs no quorum.
    demand(found.quorum !== "" || !isOfLogs, "the trust file has no quorum line; write `quorum none` if none is needed.");
    return { ...found, quorum: found.quorum || NONE, revoked: this.revoked };
  }

  private async log(vkey: string): Promise<void> {
    this.add(this.found.logs, await note.parseVkey(vkey), LOGS);
  }

  private async witness(name: string, vkey: string): Promise<void> {
    this.name(name);
    const key = await note.parseVkey(vkey);
    this.add(this.found.witnesses.map((one) => one.key), key, COSIGNERS);
    this.found.witnesses.push({ name, key });
  }

  private async node(name: string, vkey: string): Promise<void> {
    const node = await readNodeKey(vkey);
    demand(node.name === name, `the node ${name} is given the key of ${node.name}; copy the node's own line.`);
    const isNew = !this.found.nodes.some((one) => one.name === name && one.id === node.id);
    demand(isNew, `the node ${name} is there twice with one key.`);
    this.found.nodes.push(node);
  }

  private revoke(id: string, fromS: string): void {
    demand(/^[0-9a-f]{64}$/.test(id), "an id of a record key has 64 lower-case hexadecimal digits.");
    demand(!this.revoked.has(id), "a key is revoked twice.");
    this.revoked.set(id, Number(note.parseSize(fromS, "the time of a revocation")));
  }

  private group(name: string, needed: string, members: string[]): void {
    for (const member of members) {
      demand(this.named.has(member), `the member ${member} of ${name} is not defined on a line before.`);
      demand(!this.members.has(member), `${member} is a member twice; each name may be one once.`);
      this.members.add(member);
    }
    const words: Record<string, number> = { any: 1, all: members.length };
    const count = Object.hasOwn(words, needed) ? words[needed]! : /^[0-9]{1,8}$/.test(needed) ? Number(needed) : 0;
    demand(count >= 1 && count <= members.length, `the group ${name} needs all, any, or 1 to ${members.length}.`);
    this.name(name);
    this.found.groups.push({ name, needed: count, members });
  }

  private quorum(name: string): void {
    demand(this.found.quorum === "", "there are two quorum lines; there must be one.");
    demand(name === NONE || this.named.has(name), `the quorum ${name} is not defined on a line before.`);
    this.found.quorum = name;
  }

  private name(name: string): void {
    demand(name !== NONE && !this.named.has(name), `${name} is defined already.`);
    this.named.add(name);
  }

  private add(known: note.VerifierKey[], key: note.VerifierKey, algorithms: number[]): void {
    demand(algorithms.includes(key.algorithm), `the key of ${key.name} is of a type that does not serve here.`);
    const material = toHex(key.publicKey);
    demand(!known.some((other) => toHex(other.publicKey) === material), `the key of ${key.name} is there twice.`);
    known.push(key);
  }
}

// NAME+HASH+BASE64, as signed notes write keys; type 0x01 is Ed25519, 0xff with our identifier any key by its
// SubjectPublicKeyInfo.
async function readNodeKey(text: string): Promise<NodeKey> {
  const [name = "", digits = "", ...rest] = text.split("+");
  const data = fromBase64(rest.join("+"), "the node's key");
  const digest = await sha256(join(utf8(`${name}\n`), data));
  const isOne = name !== "" && digits === toHex(digest.slice(0, 4));
  demand(isOne, "the hash does not go with the name and the key; copy the line whole.");
  if (data[0] === note.ED25519 && data.length === 33) {
    const publicKey = data.slice(1);
    return { name, id: await keyId(spkiOfEd25519(publicKey)), verify: verifierOf(publicKey) };
  }
  const isOther = data.length > SPKI.length && SPKI.every((byte, at) => data[at] === byte);
  demand(isOther, "keys of this type do not sign for nodes; the node's own line has one.");
  const spki = data.slice(SPKI.length);
  return { name, id: await keyId(spki), verify: await verifierOfSpki(spki) };
}

// tlog-proof, Verifying a tlog proof. A quorum that is not reached is told, not refused: witnesses are asked later than
// the log answers.
export async function proveInclusion(trust: TrustFile, proof: Bytes, entry: Bytes): Promise<Included> {
  const parsed = parseProof(proof);
  const checkpoint = await note.readCheckpoint(parsed.note.text);
  const logs = trust.logs.filter((key) => key.name === checkpoint.origin);
  demand(logs.length > 0, `the log ${JSON.stringify(checkpoint.origin.slice(0, 100))} is not trusted.`);
  const opened = await note.openNote(parsed.note, logs);
  const cosigned = await note.findSigned(parsed.note, trust.witnesses.map((one) => one.key));
  await verifyInclusion(parsed.index, checkpoint.size, await hashLeaf(entry), parsed.hashes, checkpoint.root);
  const names = trust.witnesses.filter((one) => cosigned.signed.includes(one.key)).map((one) => one.name);
  return {
    origin: checkpoint.origin,
    index: parsed.index,
    size: checkpoint.size,
    isWitnessed: trust.quorum !== NONE && isReached(trust, names),
    unchecked: [...opened.unchecked, ...cosigned.unchecked].map(note.lineOf),
  };
}

function isReached(trust: TrustFile, cosigned: string[]): boolean {
  const reached = new Set(cosigned);
  // A member stands before its group.
  for (const group of trust.groups) {
    if (group.members.filter((one) => reached.has(one)).length >= group.needed) reached.add(group.name);
  }
  return reached.has(trust.quorum);
}
