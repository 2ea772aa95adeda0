// The conversation as a text that is kept over a reload, in a bounded number of characters: what a person said first, then
// the answers, then what else is known of each; of each the newest first. What is not kept is counted, to be told.
// Reads it back as what strangers wrote. Values in, values out.

import { EFFORTS, NO_SETTINGS, type Settings } from "./asking";
import type { Turn } from "./conversation";
import { Malformed, Pool, readPool } from "./interning";
import { type Core, coreOf, type KeptStep, partOf, PARTS, readStep, unkept } from "./kept_step";
import { count, fields, list, text } from "./shape";
import type { Step } from "./step";

const VERSION = 1;
const MAX_LANES = 2;
const LEAST_CHARACTERS = 1000;
// What holds the parts of an answer and of a turn together, about.
const FRAME_CHARACTERS = 160;
// Messages of requests that are looked at, so that a conversation of many turns is kept in no time: each repeats all before.
const MAX_MESSAGES = 50_000;

export interface KeptTurn {
  text: string;
  lanes: KeptStep[][];
}

export interface Kept {
  models: string[];
  settings: Settings;
  draft: string;
  turns: KeptTurn[];
  numTurnsLost: number;
}

// How much is missing, of each kind; an answer that is not there itself counts once.
export interface Lost {
  numTurns: number;
  numAnswers: number;
  numRequests: number;
  numTokens: number;
  numStreams: number;
}

export interface Talk {
  models: string[];
  settings: Settings;
  draft: string;
  turns: Turn[];
  numTurnsLost: number;
}

// At most so many characters; null: not even the settings fit.
export function pack(talk: Talk, mostCharacters: number): { text: string; lost: Lost } | null {
  const numFrames = talk.turns.reduce((sum, turn) => sum + 1 + turn.lanes.flat().length, 0);
  // What holds the parts together is written last; if it has no room, less is kept.
  for (let share = mostCharacters - numFrames * FRAME_CHARACTERS; share > 0; share = Math.floor(share * 0.8)) {
    const pool = new Pool();
    const kept = keepIn(pool, talk, share - LEAST_CHARACTERS / 2);
    const root = kept && pool.put(kept, mostCharacters);
    if (kept === null || root === null) continue;
    const written = `{"version":${VERSION},"root":${root},"pool":${pool}}`;
    if (written.length <= mostCharacters) return { text: written, lost: lostOf(kept) };
  }
  return null;
}

function keepIn(pool: Pool, talk: Talk, most: number): Kept | null {
  const { models, settings, draft } = talk;
  if (pool.put({ models, settings, draft }, most) === null) return null;
  // Newest first in what fits; the order of the conversation in what is made of it.
  const newest = [...talk.turns].reverse().filter((turn) => pool.put(turn.text, most) !== null);
  const steps = new Map<Step, KeptStep>();
  for (const step of newest.flatMap((turn) => turn.lanes.flatMap((lane) => [...lane].reverse()))) {
    const whole = coreOf(step);
    const core: Core = pool.put(whole, most) === null ? unkept(whole) : whole;
    pool.put(core, Infinity);
    steps.set(step, { core, body: null, record: null, tokens: null, stream: null });
  }
  let numMessages = 0;
  for (const name of PARTS) {
    for (const [step, kept] of steps) {
      if (kept.core.status === "unkept") continue;
      if (name === "body") numMessages += (step.body?.messages as unknown[] | undefined)?.length ?? 0;
      if (name === "body" && numMessages > MAX_MESSAGES) continue;
      const part = partOf(step, name, most);
      if (part !== null && pool.put(part, most) !== null) Object.assign(kept, { [name]: part });
    }
  }
  const turns = newest.reverse().map((turn) => ({
    text: turn.text,
    lanes: turn.lanes.map((lane) => lane.map((step) => steps.get(step)!)),
  }));
  return { models, settings, draft, turns, numTurnsLost: talk.numTurnsLost + talk.turns.length - turns.length };
}

// What was kept; null: it is none, of another version, or was tampered with.
export function unpack(written: string): Kept | null {
  try {
    const told = fields(JSON.parse(written));
    if (told.version !== VERSION) return null;
    const values = readPool(told.pool);
    return readKept(values[count(told.root)]);
  } catch {
    return null;
  }
}

function readKept(value: unknown): Kept {
  const told = fields(value);
  const models = list(told.models, text, MAX_LANES);
  if (models.length === 0) throw new Malformed();
  const turns = list(told.turns, (turn): KeptTurn => {
    const { text: said, lanes } = fields(turn);
    return { text: text(said), lanes: list(lanes, (lane) => list(lane, readStep), models.length) };
  });
  if (turns.some((turn) => turn.lanes.length === 0)) throw new Malformed();
  return {
    models,
    settings: readSettings(told.settings),
    draft: text(told.draft),
    turns,
    numTurnsLost: count(told.numTurnsLost),
  };
}

// Settings that another version did not know, or knew otherwise, are unset.
function readSettings(value: unknown): Settings {
  const told = fields(value);
  const read = Object.entries(NO_SETTINGS).map(([name, unset]) => {
    const given = told[name];
    const kind = unset === null ? "number" : typeof unset;
    return [name, Object.hasOwn(told, name) && typeof given === kind ? given : unset];
  });
  const settings = Object.fromEntries(read) as Settings;
  const { effort, numAlternatives } = settings;
  return {
    ...settings,
    effort: (EFFORTS as readonly string[]).includes(effort) ? effort : "",
    numAlternatives: Math.max(0, Math.min(20, Math.trunc(numAlternatives))),
  };
}

export function lostOf(kept: Kept): Lost {
  const steps = kept.turns.flatMap((turn) => turn.lanes.flat());
  const there = steps.filter((step) => step.core.status !== "unkept");
  return {
    numTurns: kept.numTurnsLost,
    numAnswers: steps.length - there.length,
    numRequests: there.filter((step) => step.body === null).length,
    numTokens: there.filter((step) => step.core.hadTokens && step.tokens === null).length,
    numStreams: there.filter((step) => step.core.hadStream && step.stream === null).length,
  };
}

// What is not kept, a sentence for each kind.
export function sentencesOf(lost: Lost): string[] {
  const answers = (num: number) => (num === 1 ? "1 answer" : `${num} answers`);
  const told: [number, (num: number) => string][] = [
    [lost.numTurns, (num) => `${num === 1 ? "1 turn" : `${num} turns`}: what you said there is too long.`],
    [lost.numAnswers, (num) => `${answers(num)}: too long. Ask again for what you need.`],
    [lost.numRequests, (num) => `The request of ${answers(num)}: its record is verified without it.`],
    [lost.numTokens, (num) => `The tokens' probabilities of ${answers(num)}.`],
    [lost.numStreams, (num) => `The bytes of ${answers(num)} as they came: a record is compared with what was said.`],
  ];
  return told.filter(([num]) => num > 0).map(([num, sentence]) => sentence(num));
}
