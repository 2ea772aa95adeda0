// Text that somebody else wrote (a model, a caller, another server): shown, never obeyed. Only text nodes are made of it.

import { Component } from "preact";
import { useState } from "preact/hooks";
import { blocks, pieces } from "./plain_text";

const LONG = 16_000; // characters from which on it is drawn in blocks
const SHOWN = 1_000_000; // characters that are shown before somebody asks for all

interface PlainProps {
  text: string;
  mono?: boolean;
}

export function Plain({ text, mono }: PlainProps) {
  const [isWhole, showWhole] = useState(false);
  const kind = mono ? "plain-text mono" : "plain-text";
  if (text.length <= LONG) return <bdi class={kind} dir="auto"><Pieces text={text} /></bdi>;
  const shown = isWhole || text.length <= SHOWN ? text : text.slice(0, SHOWN);
  return (
    <div class={`${kind} long`} dir="auto">
      {blocks(shown).map((block, index) => <div key={index} class="block"><Pieces text={block} /></div>)}
      {shown.length < text.length && (
        <button type="button" class="button plain" onClick={() => showWhole(true)}>
          Show all {text.length.toLocaleString()} characters
        </button>
      )}
    </div>
  );
}

class Pieces extends Component<{ text: string }> {
  override shouldComponentUpdate(next: { text: string }): boolean {
    return next.text !== this.props.text;
  }

  override render() {
    return pieces(this.props.text).map((piece, index) =>
      piece.isOdd ? <span key={index} class="odd" title="a character that is not seen">{piece.text}</span> : piece.text,
    );
  }
}
