// One route: what it takes and gives, how a program asks it, and, where that is safe, asking it from here.

import { useState } from "preact/hooks";
import { Badge, Field, Notice, Tabs, TextInput, useSession } from "../../kit";
import { CopyableCode } from "./code";
import { example, languagesOf, pathOf, type Asked, type Language } from "./examples";
import type { Route } from "./openapi";
import { Method } from "./reference";
import { isSafe, readBody } from "./running";
import { Runner } from "./runner";
import { sampleBody, sampleQuery } from "./sample";
import { typeOf } from "./schema";
import { SchemaTree } from "./schema_tree";
import type { Known } from "./view";

const LANGUAGE_KEY = "headrace-learn-language";

export function RoutePage({ route, known }: { route: Route; known: Known }) {
  const session = useSession();
  const sample = sampleBody(route, known.schemas, known.model);
  const [values, fill] = useState<Record<string, string>>({});
  const [query, ask] = useState<Record<string, string>>(() => sampleQuery(route));
  const [text, write] = useState(() => (sample === null ? "" : JSON.stringify(sample, null, 2)));
  const read = sample === null ? { body: null } : parsed(text);
  const asked: Asked = { route, origin: location.origin, values, query, body: read?.body ?? sample, hasKey: session.name !== null };
  return (
    <article>
      <p><a href="/console/learn/reference">All routes</a></p>
      <h1><Method method={route.method} /> <code>{route.path}</code></h1>
      <p>{route.summary}{route.isOpen && <> <Badge>needs no key</Badge></>}</p>
      <Parameters route={route} known={known} values={values} query={query} onValues={fill} onQuery={ask} />
      <h2>Examples</h2>
      <Examples asked={asked} />
      {isSafe(route) ? (
        <Runner
          route={route}
          path={pathOf(asked)}
          isComplete={route.parameters.every((one) => one.in !== "path" || values[one.name])}
          text={sample === null ? null : text}
          onText={write}
          read={() => readBody(route, text)}
        />
      ) : (
        <Notice title="This is not sent from here">It changes something, or keeps it. Ask it from a program of your own.</Notice>
      )}
      <Shapes route={route} known={known} />
    </article>
  );
}

function parsed(text: string): { body: unknown } | null {
  try {
    return { body: JSON.parse(text) };
  } catch {
    return null;
  }
}

interface ParametersProps {
  route: Route;
  known: Known;
  values: Record<string, string>;
  query: Record<string, string>;
  onValues: (values: Record<string, string>) => void;
  onQuery: (query: Record<string, string>) => void;
}

function Parameters({ route, known, values, query, onValues, onQuery }: ParametersProps) {
  if (route.parameters.length === 0) return null;
  return (
    <>
      <h2>Parameters</h2>
      <div class="learn-parameters">
        {route.parameters.map(({ name, in: place, schema }) => (
          <Field key={`${place} ${name}`} label={name} hint={place === "path" ? "part of the path" : `query, ${typeOf(schema, known.schemas)}`}>
            <TextInput
              mono
              value={(place === "path" ? values[name] : query[name]) ?? ""}
              onChange={(value) => (place === "path" ? onValues({ ...values, [name]: value }) : onQuery({ ...query, [name]: value }))}
            />
          </Field>
        ))}
      </div>
    </>
  );
}

function Examples({ asked }: { asked: Asked }) {
  const languages = languagesOf(asked.route);
  const [chosen, choose] = useState<Language>(remembered);
  const language = languages.some((one) => one.id === chosen) ? chosen : languages[0]!.id;
  const title = languages.find((one) => one.id === language)!.title;
  return (
    <Tabs
      label="Languages"
      tabs={languages}
      value={language}
      onChange={(id) => {
        choose(id);
        sessionStorage.setItem(LANGUAGE_KEY, id);
      }}
    >
      <CopyableCode label={`Example in ${title}`} text={example(language, asked)} />
    </Tabs>
  );
}

function remembered(): Language {
  return (sessionStorage.getItem(LANGUAGE_KEY) ?? "curl") as Language;
}

function Shapes({ route, known }: { route: Route; known: Known }) {
  return (
    <>
      {route.body && (
        <section>
          <h2>Body</h2>
          <p class="hint">{route.body.media}{route.body.isNeeded ? "" : ", may be left out"}</p>
          <SchemaTree schema={route.body.schema} schemas={known.schemas} />
        </section>
      )}
      <section>
        <h2>Answers</h2>
        {route.answers.map(({ media, schema }) => (
          <section key={media}>
            <h3>200, {media}</h3>
            <SchemaTree schema={schema} schemas={known.schemas} isAnswer />
          </section>
        ))}
        {route.refusal && (
          <section>
            <h3>Refusals</h3>
            <SchemaTree schema={route.refusal} schemas={known.schemas} isAnswer />
          </section>
        )}
      </section>
    </>
  );
}
