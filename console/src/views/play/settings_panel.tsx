// What is asked beside the conversation: how tokens are drawn, where an answer ends, tools, the form it is held to.

import { Checkbox, Field, NumberInput, Select, TextArea } from "../../kit";
import { EFFORTS, parseSchema, parseTools, type Settings } from "./asking";

interface PanelProps {
  settings: Settings;
  onChange: (change: Partial<Settings>) => void; // on top of the settings of that moment: fields may change at once
}

type NumberName = {
  [Name in keyof Settings]: Settings[Name] extends number | null ? (null extends Settings[Name] ? Name : never) : never;
}[keyof Settings];

const NUMBERS: readonly { name: NumberName; label: string; min: number; max?: number; step?: number }[] = [
  { name: "temperature", label: "Temperature", min: 0, max: 100, step: 0.1 },
  { name: "topP", label: "Top p", min: 0, max: 1, step: 0.05 },
  { name: "topK", label: "Top k", min: 0, step: 1 },
  { name: "minP", label: "Min p", min: 0, max: 1, step: 0.01 },
  { name: "maxTokens", label: "Max tokens", min: 0, step: 1 },
  { name: "seed", label: "Seed", min: -(2 ** 53) + 1, max: 2 ** 53 - 1, step: 1 },
  { name: "presencePenalty", label: "Presence penalty", min: -2, max: 2, step: 0.1 },
  { name: "frequencyPenalty", label: "Frequency penalty", min: -2, max: 2, step: 0.1 },
  { name: "repetitionPenalty", label: "Repetition penalty", min: 0.01, max: 100, step: 0.05 },
];

const TOOLS_EXAMPLE = '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]';

export function SettingsPanel({ settings, onChange: set }: PanelProps) {
  const numSet = NUMBERS.filter(({ name }) => settings[name] !== null).length;
  return (
    <div class="play-settings">
      <Field label="System prompt">
        <TextArea value={settings.system} onChange={(system) => set({ system })} rows={2} />
      </Field>
      <details>
        <summary>Parameters{numSet > 0 ? ` (${numSet} set)` : ""}</summary>
        <p class="hint">Only what you fill in is sent; the rest is the server's.</p>
        <Numbers settings={settings} onChange={set} />
        <Field label="Stop texts" hint="One a line">
          <TextArea value={settings.stop} onChange={(stop) => set({ stop })} rows={2} mono />
        </Field>
      </details>
      <details>
        <summary>Tools{settings.tools.trim() ? " (set)" : ""}</summary>
        <Field
          label="Tools, as JSON"
          hint="OpenAI's list. Calls are shown, and you write what each tool says."
          error={parseTools(settings.tools).error}
        >
          <TextArea value={settings.tools} onChange={(tools) => set({ tools })} rows={8} mono placeholder={TOOLS_EXAMPLE} />
        </Field>
      </details>
      <details>
        <summary>Response format{settings.schema.trim() ? " (set)" : ""}</summary>
        <Field label="JSON schema" hint="The answer is held to it, token by token." error={parseSchema(settings.schema).error}>
          <TextArea value={settings.schema} onChange={(schema) => set({ schema })} rows={6} mono placeholder='{"type": "object"}' />
        </Field>
      </details>
      <Checkbox
        label="Show token probabilities"
        hint="Each answer can then be shown token by token, with the likeliest others."
        checked={settings.showsChances}
        onChange={(showsChances) => set({ showsChances })}
      />
      {settings.showsChances && (
        <Field label="Others told for each token" hint="0 to 20">
          <NumberInput
            value={settings.numAlternatives}
            onChange={(value) => set({ numAlternatives: Math.max(0, Math.min(20, Math.trunc(value ?? 0))) })}
            min={0}
            max={20}
            step={1}
          />
        </Field>
      )}
    </div>
  );
}

function Numbers({ settings, onChange: set }: PanelProps) {
  return (
    <div class="play-numbers">
      {NUMBERS.map(({ name, label, ...bounds }) => (
        <Field key={name} label={label}>
          <NumberInput value={settings[name]} onChange={(value) => set({ [name]: value })} placeholder="unset" {...bounds} />
        </Field>
      ))}
      <Select
        label="Reasoning effort"
        value={settings.effort}
        options={[{ value: "", title: "unset" }, ...EFFORTS.map((value) => ({ value, title: value }))]}
        onChange={(effort) => set({ effort })}
      />
    </div>
  );
}
