// The examples of the view "Learn" as that view makes them: a description of a server on standard input, every example of
// the routes that were asked for on standard output. Bundled with esbuild; knows no browser and sends nothing.

import { example, languagesOf, type Asked } from "../../console/src/views/learn/examples";
import { readRoutes } from "../../console/src/views/learn/openapi";
import { sampleBody, sampleQuery } from "../../console/src/views/learn/sample";

let text = "";
for await (const piece of process.stdin) text += piece;
const { document, origin, model, hasKey, values } = JSON.parse(text);
const schemas = document.components.schemas;
const made = readRoutes(document).map((route) => {
  const asked: Asked = { route, origin, values, query: sampleQuery(route), body: sampleBody(route, schemas, model), hasKey };
  const examples = Object.fromEntries(languagesOf(route).map(({ id }) => [id, example(id, asked)]));
  return { id: route.id, examples };
});
console.log(JSON.stringify(made));
