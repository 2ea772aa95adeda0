// An answer token by token, coloured by how likely each was, with the likeliest others at its place.

import { Notice, Plain, useSession } from "../../kit";
import { chance, rank, shortfall, toldOf } from "./chances";
import { isTold, type Step, type Token } from "./step";
import { TokenList } from "./token_list";

export function TokensView({ step }: { step: Step }) {
  const { scopes } = useSession();
  const asked = Number(step.body?.top_logprobs ?? 0);
  const less = shortfall(step.tokens, asked, scopes);
  if (step.areTokensGone) return <p class="hint">The probabilities were not kept over the reload: they are too many.</p>;
  if (step.body?.logprobs !== true && step.tokens.length === 0) {
    return <p class="hint">Probabilities were not asked for. Switch them on beside the conversation and ask again.</p>;
  }
  return (
    <>
      {less && <Notice title={less} />}
      {step.reasoning && <p class="hint">Of the reasoning no probabilities are told.</p>}
      <p class="token-key">
        {["90 % or more", "50 to 90 %", "20 to 50 %", "5 to 20 %", "less than 5 %"].map((text, at) => (
          <span key={text} class={`token p${at}`}>{text}</span>
        ))}
      </p>
      <TokenList
        label="Tokens of the answer, each with its probability"
        count={step.tokens.length}
        token={(index) => {
          const token = step.tokens[index]!;
          const at = rank(token);
          return { text: token.text, kind: at === null ? "" : `p${at}`, told: toldOf(token) };
        }}
        detail={(index) => <Detail token={step.tokens[index]!} />}
      />
    </>
  );
}

function Detail({ token }: { token: Token }) {
  return (
    <>
      <p><Plain mono text={token.text} />: {toldOf(token)}</p>
      {token.others.length > 0 && (
        <ol class="others" aria-label="The likeliest tokens here">
          {token.others.map((other, at) => (
            <li key={at}>
              <Plain mono text={other.text} /> <span>{isTold(other) ? chance(other.logprob) : "not told"}</span>
            </li>
          ))}
        </ol>
      )}
    </>
  );
}
