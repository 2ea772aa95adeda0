// How text that somebody else wrote is made safe to look at: what cannot be seen is named, and what is long is cut into
// blocks that a browser draws only where they are looked at. Knows no document.

export interface Piece {
  text: string;
  isOdd: boolean; // stands for a character that would not be seen, or would move others: its name
}

// Controls, marks without width, those that turn the direction of writing (CVE-2021-42574), and the tags that can hide a
// whole message (U+E0000 on). A joiner is part of many scripts and emoji and is odd only beside plain letters.
const ODD =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\u{e0000}-\u{e0fff}]|(?<=[\u0000-\u007f]|^)[\u200c\u200d]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/gu;

// The pieces of a text, joined as they stand. A line ending of two characters is an ending like another.
export function pieces(text: string): Piece[] {
  const found: Piece[] = [];
  const read = text.includes("\r\n") ? text.replaceAll("\r\n", "\n") : text;
  let start = 0;
  for (const match of read.matchAll(ODD)) {
    if (match.index > start) found.push({ text: read.slice(start, match.index), isOdd: false });
    const code = match[0].codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0");
    found.push({ text: `U+${code}`, isOdd: true });
    start = match.index + match[0].length;
  }
  if (start < read.length) found.push({ text: read.slice(start), isOdd: false });
  return found;
}

const BLOCK = 4000;
const LONGEST = 16_000;

// A text in blocks that end with a line where they can. What was cut stays cut while the text grows, so that only the last
// block of an answer that is still being written is drawn again.
export function blocks(text: string): string[] {
  const found: string[] = [];
  let start = 0;
  while (text.length - start > LONGEST) {
    const line = text.indexOf("\n", start + BLOCK);
    let end = line === -1 || line + 1 > start + LONGEST ? start + LONGEST : line + 1;
    const last = text.charCodeAt(end - 1);
    if (last >= 0xd800 && last <= 0xdbff) end -= 1;
    found.push(text.slice(start, end));
    start = end;
  }
  if (start < text.length || found.length === 0) found.push(text.slice(start));
  return found;
}
