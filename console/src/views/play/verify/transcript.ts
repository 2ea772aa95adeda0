// A streamed answer as a record commits to it: its bytes without its comments, and what its events say. Whoever passes a
// stream on may add comments or leave some out (WHATWG HTML, 9.2.6); with one that stands alone goes its empty line.

import { type Bytes, concat, utf8 } from "./bytes";
import { sha256 } from "./hashing";

const CR = 13;
const LF = 10;
const COLON = 58;
const SPACE = 32;

// The lines of a stream with their ends: \r\n, \n or \r. What follows the last end is a line without one.
export function* linesOf(data: Bytes): Generator<{ start: number; end: number; textEnd: number }> {
  let start = 0;
  for (let at = 0; at < data.length; at++) {
    const byte = data[at];
    if (byte !== LF && byte !== CR) continue;
    const textEnd = at;
    if (byte === CR && data[at + 1] === LF) at++;
    yield { start, end: at + 1, textEnd };
    start = at + 1;
  }
  if (start < data.length) yield { start, end: data.length, textEnd: data.length };
}

// What counts of a stream.
export function withoutComments(data: Bytes): Bytes {
  const kept: Bytes[] = [];
  let isComment = false; // the lines of this block so far were comments
  let isInside = false; // some line of this block was none
  for (const { start, end, textEnd } of linesOf(data)) {
    if (data[start] === COLON) {
      isComment = true;
    } else if (textEnd === start) {
      if (isInside || !isComment) kept.push(data.subarray(start, end));
      isComment = isInside = false;
    } else {
      isInside = true;
      kept.push(data.subarray(start, end));
    }
  }
  return concat(kept);
}

export function transcriptDigest(data: Bytes): Promise<Bytes> {
  return sha256(withoutComments(data));
}

// The data of a stream's events, as bytes; an event that was not finished is none.
export function framesOf(data: Bytes): Bytes[] {
  const frames: Bytes[] = [];
  let lines: Bytes[] = [];
  for (const { start, end, textEnd } of linesOf(data)) {
    if (textEnd === start) {
      if (end > textEnd && lines.length > 0) frames.push(joinLines(lines));
      lines = [];
      continue;
    }
    const value = dataOf(data.subarray(start, textEnd));
    if (value !== null && end > textEnd) lines.push(value);
  }
  return frames;
}

const DATA = utf8("data");

function dataOf(line: Bytes): Bytes | null {
  if (!DATA.every((byte, at) => line[at] === byte)) return null;
  if (line.length === DATA.length) return line.subarray(line.length);
  if (line[DATA.length] !== COLON) return null;
  return line.subarray(line[DATA.length + 1] === SPACE ? DATA.length + 2 : DATA.length + 1);
}

function joinLines(lines: Bytes[]): Bytes {
  return lines.length === 1 ? lines[0]! : concat(lines.flatMap((line, at) => (at ? [Uint8Array.of(LF), line] : [line])));
}
