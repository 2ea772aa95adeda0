// When the conversation is kept over a reload, and when what was kept is read: once for the page, before it is first shown;
// kept at the end of an answer, and when the page is left or hidden. While nothing changes nothing is written.

import type { Conversation } from "./conversation";
import { type Lost, pack, unpack } from "./kept";

// Two bytes a character: browsers keep 5 MB for a tab, some of them 10.
export const MAX_CHARACTERS = 2_000_000;
const SHARES = [1, 4, 16]; // of a browser that keeps less
const NAME = "play";

export interface Shelf {
  keep(name: string, text: string): boolean;
  kept(name: string): string | null;
  drop(name: string): void;
}

export interface Standing {
  isKept: boolean;
  lost: Lost | null; // what would be missing after a reload
}

export class Keeper {
  standing: Standing | null = null; // null: nothing was to be kept yet
  private isRead = false;
  private isLeft = false; // what ends while the page goes away ends because it does
  private stamp = ""; // of what was kept last

  constructor(
    private readonly conversation: Conversation,
    private readonly shelf: Shelf,
  ) {}

  // Reads what was kept, the first time.
  read(): void {
    if (this.isRead) return;
    this.isRead = true;
    const text = this.shelf.kept(NAME);
    if (text === null) return;
    const kept = text.length <= MAX_CHARACTERS ? unpack(text) : null;
    try {
      if (kept === null) this.shelf.drop(NAME);
      else this.conversation.restore(kept);
    } catch {
      this.shelf.drop(NAME); // a part of it that is none
    }
    this.stamp = this.conversation.stamp;
  }

  // Keeps what has changed since the last time.
  save(): void {
    const { conversation, shelf } = this;
    if (!this.isRead || this.isLeft || conversation.owner === null || conversation.stamp === this.stamp) return;
    for (const share of SHARES) {
      const packed = pack(conversation, MAX_CHARACTERS / share);
      if (packed === null || !shelf.keep(NAME, packed.text)) continue;
      return this.stand({ isKept: true, lost: packed.lost });
    }
    shelf.drop(NAME);
    this.stand({ isKept: false, lost: null });
  }

  // Whoever it was kept for is gone.
  forget(): void {
    this.conversation.forget();
    this.standing = null;
    this.stamp = this.conversation.stamp;
  }

  leave(): void {
    this.save();
    this.isLeft = true;
  }

  // The page is shown again, as it was left.
  stay(): void {
    this.isLeft = false;
  }

  private stand(standing: Standing): void {
    this.standing = standing;
    this.conversation.changed(); // shown beside it
    this.stamp = this.conversation.stamp;
  }
}
