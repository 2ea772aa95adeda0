// What this tab keeps over a reload, for one person: it is gone when they sign out, here or in another tab, when somebody
// else signs in, and with the tab. Knows who it is kept for, and nothing of what.

export interface Storages {
  tab: Storage | null; // sessionStorage; null: this browser keeps nothing
  browser: Storage | null; // localStorage: only when somebody last signed out stands there, for the other tabs
}

const PREFIX = "headrace-tab:";
const MARK = `${PREFIX}of`;
export const SIGNED_OUT = "headrace:signed-out";

export class TabShelf {
  private mark: string | null = null; // null: nobody is known yet, so nothing is read or written
  private readonly listeners = new Set<() => void>();

  constructor(
    private readonly storages: Storages,
    private readonly nowMs: () => number,
  ) {}

  // What was kept is to be forgotten by whoever holds a copy of it.
  onForget(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  }

  // From now on it is kept for this person. What lies there for another, or from before a sign-out, goes.
  settle(owner: string): void {
    const mark = this.markOf(owner);
    const hasMoved = this.mark !== null && this.mark !== mark;
    this.mark = mark;
    if (this.get(this.storages.tab, MARK) !== mark) this.clear();
    if (hasMoved) this.tell();
  }

  // Somebody signed out in this tab.
  signOut(): void {
    const before = this.epoch();
    const now = String(this.nowMs());
    try {
      this.storages.browser?.setItem(SIGNED_OUT, now === before ? `${now}+` : now);
    } catch {
      // Other tabs learn of it when they next ask the server.
    }
    this.forget();
  }

  // Whether somebody has signed out elsewhere since this tab was settled; then nothing is left here.
  hasEnded(): boolean {
    if (this.mark === null || this.mark.startsWith(`${this.epoch()} `)) return false;
    this.forget();
    return true;
  }

  // Whether it could be kept. What could not leaves nothing older in its place.
  keep(name: string, text: string): boolean {
    if (this.hasEnded() || this.mark === null || this.storages.tab === null) return false;
    try {
      this.storages.tab.setItem(MARK, this.mark);
      this.storages.tab.setItem(PREFIX + name, text);
      return true;
    } catch {
      this.drop(name);
      return false;
    }
  }

  kept(name: string): string | null {
    const { tab } = this.storages;
    const isOurs = this.mark !== null && !this.hasEnded() && this.get(tab, MARK) === this.mark;
    return isOurs ? this.get(tab, PREFIX + name) : null;
  }

  drop(name: string): void {
    try {
      this.storages.tab?.removeItem(PREFIX + name);
    } catch {
      // Nothing was kept there.
    }
  }

  private forget(): void {
    this.mark = null;
    this.clear();
    this.tell();
  }

  private clear(): void {
    const { tab } = this.storages;
    if (tab === null) return;
    try {
      const names = Array.from({ length: tab.length }, (_, at) => tab.key(at));
      for (const name of names) if (name?.startsWith(PREFIX)) tab.removeItem(name);
    } catch {
      // Nothing was kept there.
    }
  }

  private tell(): void {
    for (const listener of this.listeners) listener();
  }

  private markOf(owner: string): string {
    return `${this.epoch()} ${owner}`;
  }

  private epoch(): string {
    return (this.get(this.storages.browser, SIGNED_OUT) ?? "").slice(0, 40).replace(/ /g, "");
  }

  private get(storage: Storage | null, name: string): string | null {
    try {
      return storage?.getItem(name) ?? null;
    } catch {
      return null;
    }
  }
}

// Browsers that keep nothing throw already where the storage is named.
function storage(of: () => Storage): Storage | null {
  try {
    return of();
  } catch {
    return null;
  }
}

export const tabShelf: TabShelf = new TabShelf(
  { tab: storage(() => sessionStorage), browser: storage(() => localStorage) },
  () => Date.now(),
);
