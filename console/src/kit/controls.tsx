// What a person presses and fills in. Each has a name that assistive technology reads: its Field's label, or its own.

import { createContext, type ComponentChildren } from "preact";
import { useContext, useId } from "preact/hooks";

interface ButtonProps {
  kind?: "plain" | "main" | "danger";
  onPress?: () => void; // a button of type "submit" needs none
  busy?: boolean; // what it began is still running: it cannot be pressed, and keeps its focus
  disabled?: boolean;
  type?: "button" | "submit";
  label?: string; // where its children are a sign and no words
  pressed?: boolean; // of a button that stays pressed
  children?: ComponentChildren;
}

export function Button({ kind = "plain", onPress, busy, disabled, type = "button", label, pressed, children }: ButtonProps) {
  return (
    <button
      type={type}
      class={`button ${kind}`}
      disabled={disabled}
      aria-disabled={busy || undefined}
      aria-busy={busy || undefined}
      aria-label={label}
      aria-pressed={pressed}
      onClick={(event) => {
        if (busy) event.preventDefault();
        else onPress?.();
      }}
    >
      {children}
    </button>
  );
}

interface Labelled {
  id: string;
  describedBy: string | undefined;
  isWrong: boolean;
}

const InField = createContext<Labelled | null>(null);

interface FieldProps {
  label: string;
  hint?: string | undefined;
  error?: string | null | undefined;
  children: ComponentChildren;
}

// A label, its input, and what there is to say about it.
export function Field({ label, hint, error, children }: FieldProps) {
  const id = useId();
  const described = [hint ? `${id}-hint` : "", error ? `${id}-error` : ""].filter(Boolean).join(" ");
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <InField.Provider value={{ id, describedBy: described || undefined, isWrong: Boolean(error) }}>
        {children}
      </InField.Provider>
      {hint && <p id={`${id}-hint`} class="hint">{hint}</p>}
      {error && <p id={`${id}-error`} class="wrong">{error}</p>}
    </div>
  );
}

function useLabelled(label: string | undefined) {
  const field = useContext(InField);
  return {
    id: field?.id,
    "aria-label": field ? undefined : label,
    "aria-describedby": field?.describedBy,
    "aria-invalid": field?.isWrong || undefined,
  };
}

interface InputProps<Value> {
  value: Value;
  onChange: (value: Value) => void;
  label?: string; // outside a Field
  disabled?: boolean;
  placeholder?: string;
}

interface TextProps extends InputProps<string> {
  type?: "text" | "password" | "search" | "url" | "datetime-local";
  autoComplete?: string;
  required?: boolean;
  mono?: boolean;
  autoFocus?: boolean;
}

export function TextInput({ value, onChange, label, disabled, placeholder, ...more }: TextProps) {
  return (
    <input
      {...useLabelled(label)}
      class={more.mono ? "mono" : undefined}
      type={(more.type ?? "text") as "text"}
      value={value}
      disabled={disabled}
      placeholder={placeholder}
      required={more.required}
      autoFocus={more.autoFocus}
      autocomplete={more.autoComplete ?? "off"}
      spellcheck={false}
      onInput={(event) => onChange(event.currentTarget.value)}
    />
  );
}

interface AreaProps extends InputProps<string> {
  rows?: number;
  mono?: boolean;
  onSubmit?: () => void; // Ctrl+Enter, or Cmd+Enter
}

export function TextArea({ value, onChange, label, disabled, placeholder, rows = 4, mono, onSubmit }: AreaProps) {
  return (
    <textarea
      {...useLabelled(label)}
      class={mono ? "mono" : undefined}
      rows={rows}
      value={value}
      disabled={disabled}
      placeholder={placeholder}
      onInput={(event) => onChange(event.currentTarget.value)}
      onKeyDown={(event) => {
        if (onSubmit && event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
          event.preventDefault();
          onSubmit();
        }
      }}
    />
  );
}

interface NumberProps extends InputProps<number | null> {
  min?: number;
  max?: number;
  step?: number | "any";
}

// `null`: nothing is filled in, or no number.
export function NumberInput({ value, onChange, label, disabled, placeholder, min, max, step = "any" }: NumberProps) {
  return (
    <input
      {...useLabelled(label)}
      type="number"
      inputMode="decimal"
      value={value ?? ""}
      min={min}
      max={max}
      step={step}
      disabled={disabled}
      placeholder={placeholder}
      onInput={(event) => {
        const read = event.currentTarget.valueAsNumber;
        onChange(Number.isNaN(read) ? null : read);
      }}
    />
  );
}

interface SelectProps<Value extends string> {
  label: string;
  value: Value;
  options: readonly (Value | { value: Value; title: string })[];
  onChange: (value: Value) => void;
  disabled?: boolean;
}

export function Select<Value extends string>({ label, value, options, onChange, disabled }: SelectProps<Value>) {
  const id = useId();
  const isInField = useContext(InField) !== null;
  const labelled = useLabelled(label);
  const input = (
    <select
      {...labelled}
      id={labelled.id ?? id}
      aria-label={undefined}
      value={value}
      disabled={disabled}
      onChange={(event) => onChange(event.currentTarget.value as Value)}
    >
      {options.map((one) => {
        const option = typeof one === "string" ? { value: one, title: one } : one;
        return <option key={option.value} value={option.value} selected={option.value === value}>{option.title}</option>;
      })}
    </select>
  );
  return isInField ? input : <div class="field"><label for={id}>{label}</label>{input}</div>;
}

interface CheckboxProps {
  label: string;
  checked: boolean;
  onChange: (checked: boolean) => void;
  disabled?: boolean;
  hint?: string;
}

export function Checkbox({ label, checked, onChange, disabled, hint }: CheckboxProps) {
  const id = useId();
  return (
    <div class="checkbox">
      <input
        id={id}
        type="checkbox"
        checked={checked}
        disabled={disabled}
        aria-describedby={hint ? `${id}-hint` : undefined}
        onChange={(event) => onChange(event.currentTarget.checked)}
      />
      <label for={id}>{label}</label>
      {hint && <p id={`${id}-hint`} class="hint">{hint}</p>}
    </div>
  );
}
