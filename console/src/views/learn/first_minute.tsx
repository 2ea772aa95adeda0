// The first minute: what each view shows, and three things to try. Text and links; knows no other view but by its name.

import { Badge, Plain, useSession } from "../../kit";
import { may } from "../../session";
import { VIEWS } from "../../views";
import { CopyableCode } from "./code";
import { example } from "./examples";
import { placeOf } from "./openapi";
import { sampleBody } from "./sample";
import type { Known } from "./view";

const SHOWS: Readonly<Record<string, string>> = {
  play: "Talk with a model: answers while they come, tools, forms of answers, two models side by side. It also shows what a caller cannot see elsewhere: how likely each word was, what of the prompt was already known, what it cost, and the signed record of the answer, verified here in the browser.",
  live: "Look into the machine while it works: who waits, who is read, who answers, how full memory is, and which beginnings of prompts are kept for whom.",
  traffic: "Where requests went and why: routes, backends, breakers, fallbacks, what each request cost. Take a backend out of service and bring it back.",
  manage: "Keys, budgets, limits, models and policies, what monitors have flagged, calls of tools that were withheld, and a list of everything that was changed, by whom.",
  learn: "This page: how to ask the server from a program.",
};

export function FirstMinute({ known }: { known: Known }) {
  const session = useSession();
  const chat = known.routes.find((route) => route.id === "post /v1/chat/completions");
  return (
    <>
      <h2>What each view shows</h2>
      <ul class="learn-views">
        {VIEWS.map((view) => (
          <li key={view.path}>
            <h3>
              {may(session, view.scopes) ? <a href={`/console/${view.path}`}>{view.title}</a> : view.title}{" "}
              {!may(session, view.scopes) && <Badge>needs {view.scopes.join(" or ")}</Badge>}
            </h3>
            <p>{SHOWS[view.path] ?? ""}</p>
          </li>
        ))}
      </ul>
      <h2>Three things to try</h2>
      <ol class="learn-steps">
        <li>
          <p>Ask from a program. This server speaks the protocols of OpenAI, Anthropic and Ollama: whatever speaks one of them works with the address below.</p>
          {chat && (
            <CopyableCode
              label="A first request with curl"
              text={example("curl", {
                route: chat,
                origin: location.origin,
                values: {},
                query: {},
                body: sampleBody(chat, known.schemas, known.model),
                hasKey: session.name !== null,
              })}
            />
          )}
          {session.name !== null && <p class="hint">Put your key into the variable HEADRACE_API_KEY first. You are signed in as <Plain text={session.name} />.</p>}
        </li>
        <li>
          <p>Watch it arrive: {may(session, ["observe", "admin"]) ? <a href="/console/live">Live</a> : "Live"} shows the request from the moment it waits to its last token.</p>
        </li>
        <li>
          <p>
            Ask the same again. What the server has read once it does not read twice: the answer's <code>usage</code> tells how many tokens of the prompt were cached.
            {" "}{chat && <a href={`/console/${placeOf(chat)}`}>All fields of the request</a>}
          </p>
        </li>
      </ol>
    </>
  );
}
