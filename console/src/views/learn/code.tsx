// Code that is shown and copied. It holds names that others chose, so it is text and nothing else.

import { useState } from "preact/hooks";
import { Button } from "../../kit";

export function CopyableCode({ label, text }: { label: string; text: string }) {
  const [told, tell] = useState("");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      tell("Copied.");
    } catch {
      // Without TLS a browser gives no clipboard to a page of another machine.
      tell("The browser gives no clipboard here: select the text and copy it.");
    }
  };
  return (
    <div class="learn-code">
      <div class="learn-code-bar">
        <span role="status">{told}</span>
        <Button onPress={copy} label={`Copy: ${label}`}>Copy</Button>
      </div>
      <pre tabIndex={0} role="region" aria-label={label}><code>{text}</code></pre>
    </div>
  );
}
