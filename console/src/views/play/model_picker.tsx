// Chooses a model or a route among as many as there are: a combobox by the pattern of the ARIA authoring guide.

import { useId, useRef, useState } from "preact/hooks";
import { Plain } from "../../kit";
import { choose, type Choices, type ModelCard } from "./model_choice";

interface PickerProps {
  label: string;
  cards: readonly ModelCard[];
  value: string;
  onChange: (model: string) => void;
}

export function ModelPicker({ label, cards, value, onChange }: PickerProps) {
  const id = useId();
  const [typed, type] = useState<string | null>(null); // null: closed, and the chosen name stands there
  const [at, move] = useState(0);
  const input = useRef<HTMLInputElement>(null);
  const isOpen = typed !== null;
  const choices = isOpen ? choose(cards, typed) : { shown: [], numMore: 0 };
  const { shown } = choices;
  const take = (model: string) => {
    onChange(model);
    type(null);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const steps: Record<string, number> = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in steps) {
      event.preventDefault();
      if (!isOpen) type("");
      else move(Math.max(0, Math.min(shown.length - 1, at + steps[event.key]!)));
    } else if (event.key === "Enter" && isOpen) {
      event.preventDefault();
      take(shown[at]?.id ?? typed);
    } else if (event.key === "Escape" && isOpen) {
      event.preventDefault();
      type(null);
    }
  };
  return (
    <div class="field picker">
      <label for={id}>{label}</label>
      <input
        ref={input}
        id={id}
        role="combobox"
        aria-expanded={isOpen}
        aria-controls={`${id}-list`}
        aria-autocomplete="list"
        aria-activedescendant={isOpen && shown.length > 0 ? `${id}-${at}` : undefined}
        autocomplete="off"
        spellcheck={false}
        placeholder="Model or route"
        value={typed ?? value}
        onFocus={(event) => event.currentTarget.select()}
        onClick={() => isOpen || type("")}
        onInput={(event) => {
          type(event.currentTarget.value);
          move(0);
        }}
        onBlur={() => type(null)}
        onKeyDown={onKeyDown}
      />
      <Options id={id} label={label} choices={choices} value={value} at={at} isOpen={isOpen} onTake={take} />
    </div>
  );
}

interface OptionsProps {
  id: string;
  label: string;
  choices: Choices;
  value: string;
  at: number;
  isOpen: boolean;
  onTake: (model: string) => void;
}

function Options({ id, label, choices: { shown, numMore }, value, at, isOpen, onTake }: OptionsProps) {
  return (
    <ul id={`${id}-list`} role="listbox" aria-label={label} hidden={!isOpen}>
      {shown.map((card, index) => (
        <li
          key={card.id}
          id={`${id}-${index}`}
          role="option"
          aria-selected={card.id === value}
          class={index === at ? "is-active" : undefined}
          // Before the input loses the focus, and with it the list.
          onMouseDown={(event) => {
            event.preventDefault();
            onTake(card.id);
          }}
        >
          <Plain text={card.id} />
          <span class="hint">{about(card)}</span>
        </li>
      ))}
      {isOpen && shown.length === 0 && <Remark text="No model has this in its name" />}
      {numMore > 0 && <Remark text={`and ${numMore.toLocaleString("en")} more: write a part of the name`} />}
    </ul>
  );
}

function Remark({ text }: { text: string }) {
  return <li role="option" aria-disabled="true" aria-selected="false">{text}</li>;
}

function about(card: ModelCard): string {
  const length = card.context_length ? `${card.context_length.toLocaleString("en")} tokens` : "";
  return [length, card.parent ? "adapter" : "", card.loaded === false ? "not in memory" : ""].filter(Boolean).join(" · ");
}
