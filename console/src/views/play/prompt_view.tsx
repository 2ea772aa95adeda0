// What the model was given, as its template wrote it, with the beginning that was found in the cache in another colour.

import { useEffect, useState } from "preact/hooks";
import { fetchJson } from "../../api";
import { Busy, Notice, Plain, tokens } from "../../kit";
import type { Step } from "./step";
import { TokenList } from "./token_list";

interface Tokenized {
  count: number;
  tokens: number[];
  token_strs: string[] | null;
}

export function PromptView({ step }: { step: Step }) {
  const [found, take] = useState<Tokenized | null>(null);
  const [error, fail] = useState<unknown>(null);
  useEffect(() => {
    if (step.body === null) return undefined;
    const control = new AbortController();
    const { messages, tools, model } = step.body;
    // A route has no tokenizer; the model that it led to has one, if it is served here.
    const body = { model: step.facts?.model ?? model, messages, tools, return_token_strs: true };
    fetchJson<Tokenized>("/tokenize", { body, signal: control.signal }).then(take, (reason: unknown) => {
      if (!control.signal.aborted) fail(reason);
    });
    return () => control.abort();
  }, [step]);
  if (step.body === null) return <p class="hint">The prompt was not kept over the reload: the conversation is too long.</p>;
  const usage = step.usage;
  const cached = usage?.cachedTokens ?? 0;
  return (
    <>
      <p>
        {usage === null
          ? "How much of it was cached is told when the answer has ended."
          : `${tokens(cached)} of ${tokens(usage.promptTokens)} tokens were found in the cache and not computed again.`}
      </p>
      {error !== null && (
        <Notice title="The prompt cannot be shown token by token">
          <p><Plain text={error instanceof Error ? error.message : String(error)} /></p>
        </Notice>
      )}
      {error === null && found === null && <Busy label="Reading the prompt" />}
      {found !== null && usage !== null && found.count !== usage.promptTokens && (
        <Notice kind="warn" title="This is another prompt than the one that was counted">
          <p>
            It has {tokens(found.count)} tokens here, and the answer counted {tokens(usage.promptTokens)}: where the cached
            part ends is about right only.
          </p>
        </Notice>
      )}
      {found !== null && (
        <TokenList
          label="Tokens of the prompt, the cached ones first"
          count={found.count}
          token={(index) => ({
            text: found.token_strs?.[index] ?? `#${found.tokens[index]}`,
            kind: index < cached ? "cached" : "",
            told: `${index < cached ? "cached" : "computed"}, token ${found.tokens[index]}`,
          })}
        />
      )}
    </>
  );
}
