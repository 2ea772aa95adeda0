// Whose keys are trusted, and since when: a trust file that somebody picked, or the one that the server told when a record
// of it was verified here for the first time. Kept in this browser. Knows no record.

export interface Anchor {
  text: string; // a trust file
  source: "first use" | "file";
  name: string; // of the file; empty where it came from the server
  sinceMs: number;
}

export type Standing = "new" | "same" | "changed";

export interface Shelf {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

const KEY = "headrace:trust";

export function readAnchor(shelf: Shelf): Anchor | null {
  try {
    const found = JSON.parse(shelf.getItem(KEY) ?? "null") as Partial<Anchor> | null;
    const isOne = typeof found?.text === "string" && (found.source === "first use" || found.source === "file");
    return isOne ? { name: "", sinceMs: 0, ...found } as Anchor : null;
  } catch {
    return null; // a browser that keeps nothing, or something that is none
  }
}

// Whether it could be kept.
export function keepAnchor(shelf: Shelf, anchor: Anchor): boolean {
  try {
    shelf.setItem(KEY, JSON.stringify(anchor));
    return true;
  } catch {
    return false;
  }
}

export function forgetAnchor(shelf: Shelf): void {
  try {
    shelf.removeItem(KEY);
  } catch {
    // Nothing was kept there.
  }
}

// What the server tells of itself now, beside what is trusted. Lines decide, not their order nor comments: a key that is
// told beside the known ones, or no more, is a change.
export function compare(anchor: Anchor | null, told: string): Standing {
  if (anchor === null) return "new";
  const lines = (text: string) =>
    text.split("\n").map((line) => line.trim().replace(/[ \t]+/g, " ")).filter((line) => line !== "" && !line.startsWith("#"));
  const known = lines(anchor.text);
  const now = lines(told);
  // A file that was picked may know more, or less, than the server tells; its keys must be among those told.
  const isKey = (line: string) => /^(node|log) /.test(line);
  if (anchor.source === "file") return known.filter(isKey).every((line) => now.includes(line)) ? "same" : "changed";
  return known.length === now.length && known.every((line) => now.includes(line)) ? "same" : "changed";
}

export const MEANINGS = {
  "first use":
    "These keys were told by the server itself, the first time that a record was verified in this browser. A server " +
    "cannot vouch for itself: this proves that the same keys signed since then, and not that they were the right ones. " +
    "A trust file that you got another way proves more.",
  file: "These keys are those of a file that you picked. What they prove is as good as the way in which you got it.",
} as const;
