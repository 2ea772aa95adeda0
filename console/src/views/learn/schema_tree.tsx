// What a body or an answer is made of, as a tree that is opened branch by branch: a schema may contain itself.

import { useState } from "preact/hooks";
import { Badge } from "../../kit";
import type { Schema } from "./openapi";
import { objectsIn, rowsOf, typeOf, type Row, type Schemas } from "./schema";

const MANY = 12;

interface Within {
  schemas: Schemas;
  isAnswer: boolean;
}

// `isAnswer`: what is required of whoever writes it is always there for whoever reads it.
export function SchemaTree({ schema, schemas, isAnswer = false }: { schema: Schema; schemas: Schemas; isAnswer?: boolean }) {
  const objects = objectsIn(schema, schemas);
  if (objects.length === 0) return <p class="learn-type">{typeOf(schema, schemas)}</p>;
  return <Objects objects={objects} schemas={schemas} isAnswer={isAnswer} />;
}

function Objects({ objects, schemas, isAnswer }: { objects: readonly Schema[] } & Within) {
  return (
    <>
      {objects.map((one, index) => (
        <div key={index}>
          {objects.length > 1 && <p class="hint">{index === 0 ? "One of" : "or"} {one.title ?? "an object"}:</p>}
          <Fields rows={rowsOf(one, schemas)} schemas={schemas} isAnswer={isAnswer} />
        </div>
      ))}
    </>
  );
}

function Fields({ rows, schemas, isAnswer }: { rows: readonly Row[] } & Within) {
  const [isWhole, showWhole] = useState(false);
  const shown = isWhole ? rows : rows.slice(0, MANY);
  return (
    <>
      <ul class="learn-tree">{shown.map((row) => <Branch key={row.name} row={row} schemas={schemas} isAnswer={isAnswer} />)}</ul>
      {shown.length < rows.length && (
        <button type="button" class="link" onClick={() => showWhole(true)}>{rows.length - shown.length} more fields</button>
      )}
    </>
  );
}

function Branch({ row, schemas, isAnswer }: { row: Row } & Within) {
  const [isOpen, open] = useState(false);
  return (
    <li>
      <span class="learn-field">
        <code>{row.name}</code> <span class="learn-type">{row.type}</span>
        {[...row.rules, ...(row.standard === null ? [] : [`standard ${row.standard}`])].map((one) => <span key={one} class="learn-rules">, {one}</span>)}
        {row.isRequired && <> <Badge kind={isAnswer ? "info" : "warn"}>{isAnswer ? "always" : "required"}</Badge></>}
      </span>
      {row.told && <p class="hint">{row.told}</p>}
      {row.children.length > 0 && (
        <details onToggle={(event) => open(event.currentTarget.open)}>
          <summary>Fields of {row.name}</summary>
          {isOpen && <Objects objects={row.children} schemas={schemas} isAnswer={isAnswer} />}
        </details>
      )}
    </li>
  );
}
