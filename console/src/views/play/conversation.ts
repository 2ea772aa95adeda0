// The conversation: turns of a person, and the answers of one or two lanes to each. A lane has a model or route of its
// own and its own answers before it; both get the same input. Lives as long as the page does, whichever view is open;
// what is kept over a reload is restored into it.

import { bodyOf, NO_SETTINGS, type Settings } from "./asking";
import { type Kept, type Lost, lostOf } from "./kept";
import { stepOf } from "./kept_step";
import { type Message, messagesOf, saysNothing, Step } from "./step";
import type { Body } from "./verify/request_form";

export interface Turn {
  id: number;
  text: string;
  lanes: Step[][]; // of each lane the requests that this turn took: one, and one more for each round of tools
}

export type Run = (step: Step) => void;

export class Conversation {
  models: string[] = [""];
  turns: Turn[] = [];
  settings: Settings = NO_SETTINGS;
  draft = "";
  numTurnsLost = 0; // that were too long to be kept over a reload
  lost: Lost | null = null; // what else was; null: there was none
  private revision = 0; // counts its changes
  owner: string | null = null; // who it belongs to: nobody else who signs in later sees it
  private nextId = 1;
  private readonly listeners = new Set<() => void>();

  constructor(private readonly run: Run) {}

  listen(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  }

  changed(): void {
    this.revision += 1;
    for (const listener of this.listeners) listener();
  }

  get isRunning(): boolean {
    return this.steps().some((step) => step.isRunning);
  }

  // Other than before if anything has changed, an answer that comes included.
  get stamp(): string {
    return [this.revision, ...this.steps().map((step) => step.revision)].join();
  }

  // A conversation of somebody else is over.
  belongTo(owner: string): void {
    if (this.owner !== null && this.owner !== owner) this.forget();
    this.owner = owner;
  }

  // As if nothing had been said or set, and nobody were there.
  forget(): void {
    this.owner = null;
    this.clear();
    this.set({ draft: "", settings: NO_SETTINGS, models: [""] });
  }

  // Goes on where it was before a reload. Throws where a part of what was kept is none; then nothing has changed.
  restore(kept: Kept): void {
    const turns = kept.turns.map(({ text, lanes }) => ({
      id: this.nextId++,
      text,
      lanes: lanes.map((steps) => steps.map((step) => stepOf(step, this.nextId++))),
    }));
    const { models, settings, draft, numTurnsLost } = kept;
    Object.assign(this, { models, settings, draft, turns, numTurnsLost, lost: lostOf(kept) });
    this.changed();
  }

  // One lane or two. The second begins with what was said so far, as the first has it; the first stays.
  setLanes(models: string[]): void {
    for (const turn of this.turns) for (const step of turn.lanes.splice(models.length).flat()) step.stop?.();
    this.models = models;
    this.changed();
  }

  set(change: Partial<Pick<Conversation, "models" | "settings" | "draft">>): void {
    Object.assign(this, change);
    this.changed();
  }

  send(text: string): void {
    this.turns.push({ id: this.nextId++, text, lanes: this.models.map(() => []) });
    this.changed();
    this.models.forEach((_, lane) => this.ask(this.turns.length - 1, lane));
  }

  // Says something else in a turn: what came after it is forgotten.
  resend(at: number, text: string): void {
    this.stop();
    this.turns.length = at;
    this.send(text);
  }

  // Asks once more what a step asked; what came after it in its lane is forgotten, in later turns of all lanes too.
  retry(at: number, lane: number, index: number): void {
    const steps = this.turns[at]!.lanes[lane]!;
    for (const step of steps.splice(index)) step.stop?.();
    for (const turn of this.turns.splice(at + 1)) for (const step of turn.lanes.flat()) step.stop?.();
    this.ask(at, lane);
  }

  // Goes on with what the tools said.
  answerCalls(at: number, lane: number, results: string[]): void {
    this.turns[at]!.lanes[lane]!.at(-1)!.results = results;
    this.ask(at, lane);
  }

  stop(): void {
    for (const step of this.steps()) step.stop?.();
  }

  clear(): void {
    this.stop();
    this.turns = [];
    this.numTurnsLost = 0;
    this.lost = null;
    this.changed();
  }

  // The messages of a lane up to a turn.
  messages(at: number, lane: number): Message[] {
    const found: Message[] = [];
    for (const turn of this.turns.slice(0, at + 1)) {
      found.push({ role: "user", content: turn.text });
      for (const step of turn.lanes[lane] ?? turn.lanes[0]!) if (!saysNothing(step)) found.push(...messagesOf(step));
    }
    return found;
  }

  private ask(at: number, lane: number): void {
    const model = this.models[lane]!;
    const step = new Step(this.nextId++, model, bodyOf(model, this.messages(at, lane), this.settings) as Body);
    this.turns[at]!.lanes[lane]!.push(step);
    this.changed();
    this.run(step);
  }

  private steps(): Step[] {
    return this.turns.flatMap((turn) => turn.lanes.flat());
  }
}

// All of it as a JSON value, for a file: messages in OpenAI's form, and of each answer what is known of how it was made.
export function exported(conversation: Conversation): unknown {
  const { models, settings, turns } = conversation;
  return {
    format: "headrace-conversation-v1",
    settings,
    lanes: models.map((model, lane) => ({
      model,
      messages: turns.length > 0 ? conversation.messages(turns.length - 1, lane) : [],
      answers: turns.flatMap((turn) => turn.lanes[lane] ?? []).map((step) => ({
        status: step.status,
        finish_reason: step.finish,
        text: step.text,
        reasoning: step.reasoning || undefined,
        tool_calls: step.calls.length > 0 ? step.calls : undefined,
        tokens: step.tokens.length > 0 ? step.tokens : undefined,
        usage: step.usage,
        facts: step.facts,
        first_s: step.firstMs === null ? null : (step.firstMs - step.startedMs) / 1000,
        total_s: step.lastMs === null ? null : (step.lastMs - step.startedMs) / 1000,
        error: step.error?.message,
        request: step.body,
      })),
    })),
  };
}
