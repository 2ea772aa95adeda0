// The statement about one answer: in-toto Statement v1 with a SLSA Provenance v1 predicate, and the build type of ours.
// What every reader of a statement goes by is there, and is what it should be; the rest is told as it stands.

import { type Bytes, fromHex, utf8 } from "./bytes";
import { demand } from "./fault";
import { STATEMENT } from "./grant";
import { commit, derivedNonce } from "./hashing";
import { asList, asTable, asText, type Json, readJson, type Table } from "./json";

const PREDICATE = "https://slsa.dev/provenance/v1";
const BUILD_TYPE = "urn:headrace:answer:v1";
const MAX_SUBJECTS = 16;
const MAX_DEPENDENCIES = 4096;
const OTHERS = ["record", "tool", "tool-result"];

// Subjects: the answer's canonical form and its reasoning's, salted; the bytes that were sent, unsalted.
export const ANSWER = "answer";
export const REASONING = "reasoning";
export const BODY = "body";

export interface Statement {
  recordId: string;
  responseId: string;
  subjects: ReadonlyMap<string, Bytes>;
  external: Table;
  internal: Table;
  digests: ReadonlyMap<string, string>; // what the answer was made with: model, adapter, tokenizer, template, ...
  modelNames: ReadonlySet<string>; // what its model is called: by who asked, on the way, and by the backend
  node: string;
  startedOn: string;
  finishedOn: string;
}

export function readStatement(payload: Bytes): Statement {
  const found = asTable(readJson(payload, "the statement"), "the statement");
  const isOne = found.get("_type") === STATEMENT && found.get("predicateType") === PREDICATE;
  demand(isOne, "the statement is of another type, or has another kind of predicate.");
  const predicate = asTable(found.get("predicate"), "the predicate");
  const definition = asTable(predicate.get("buildDefinition"), "the buildDefinition");
  const run = asTable(predicate.get("runDetails"), "the runDetails");
  demand(definition.get("buildType") === BUILD_TYPE, `the statement's buildType is not ${BUILD_TYPE}.`);
  const external = asTable(definition.get("externalParameters"), "the externalParameters");
  const internal = asTable(definition.get("internalParameters"), "the internalParameters");
  checkParameters(external, internal);
  const dependencies = asList(definition.get("resolvedDependencies"), "the dependencies");
  demand(dependencies.length <= MAX_DEPENDENCIES, `the statement has more than ${MAX_DEPENDENCIES} dependencies.`);
  const told = asTable(run.get("metadata"), "the metadata");
  const byproducts = new Map(
    asList(run.get("byproducts"), "the byproducts").map((one) => {
      const product = asTable(one, "a byproduct");
      return [asText(product.get("name"), "its name"), asText(product.get("uri"), "its uri")];
    }),
  );
  const response = asText(byproducts.get("response"), "the response's uri");
  const node = asText(asTable(run.get("builder"), "the builder").get("id"), "the builder's id");
  return {
    recordId: asText(told.get("invocationId"), "the invocationId"),
    responseId: response.replace(/^urn:headrace:response:/, ""),
    subjects: readSubjects(found.get("subject")),
    external,
    internal,
    digests: digestsOf(dependencies.map(readDependency)),
    modelNames: namesOf(external, internal),
    node: node.replace(/^urn:headrace:node:/, ""),
    startedOn: asText(told.get("startedOn"), "startedOn"),
    finishedOn: asText(told.get("finishedOn"), "finishedOn"),
  };
}

function checkParameters(external: Table, internal: Table): void {
  asText(external.get("model"), "the model");
  asText(asTable(internal.get("outcome"), "the outcome").get("state"), "the outcome's state");
  for (const name of ["way", "principal", "engine"]) asTable(internal.get(name), `the statement's ${name}`);
  for (const one of asList(internal.get("tools") ?? [], "the statement's tools")) {
    const tool = asTable(one, "a tool");
    asText(tool.get("name"), "a tool's name");
    asText(tool.get("manifest"), "a tool's manifest");
    if (tool.has("decision")) {
      const isAllowed = asTable(tool.get("decision"), "a decision").get("is_allowed");
      demand(typeof isAllowed === "boolean", "a decision is neither yes nor no.");
    }
  }
}

function readSubjects(found: Json | undefined): Map<string, Bytes> {
  const told = asList(found, "the subjects");
  const isFew = told.length >= 1 && told.length <= MAX_SUBJECTS;
  demand(isFew, `the statement must have 1 to ${MAX_SUBJECTS} subjects.`);
  const subjects = new Map<string, Bytes>();
  for (const one of told) {
    const subject = asTable(one, "a subject");
    const digest = asTable(subject.get("digest"), "a subject's digest").get("sha256");
    subjects.set(asText(subject.get("name"), "a subject's name"), readDigest(digest));
  }
  demand(subjects.size === told.length, "the statement has two subjects of one name.");
  return subjects;
}

function readDependency(one: Json): Table {
  const found = asTable(one, "a dependency");
  if (asText(found.get("name"), "a dependency's name") === "record") asText(found.get("uri"), "a record's uri");
  if (found.has("annotations")) asTable(found.get("annotations"), "a dependency's annotations");
  const isSaid = found.has("digest") || found.has("uri");
  demand(isSaid, "a dependency has neither digest nor uri (in-toto ResourceDescriptor v1).");
  if (found.has("digest")) readDigest(asTable(found.get("digest"), "a digest").get("sha256"));
  return found;
}

function readDigest(value: Json | undefined): Bytes {
  const digest = fromHex(asText(value, "a SHA-256"), "a SHA-256");
  demand(digest.length === 32, "a SHA-256 has 64 hexadecimal digits.");
  return digest;
}

function digestsOf(dependencies: Table[]): Map<string, string> {
  const found = new Map<string, string>();
  for (const one of dependencies) {
    const name = one.get("name") as string;
    const digest = one.get("digest");
    if (!OTHERS.includes(name) && digest instanceof Map) found.set(name, `sha256:${digest.get("sha256") as string}`);
  }
  return found;
}

function namesOf(external: Table, internal: Table): Set<string> {
  const way = internal.get("way") as Table;
  const names = [external.get("model"), way.get("model"), way.get("told_model"), way.get("route")];
  return new Set(names.filter((name): name is string => typeof name === "string" && name !== ""));
}

// What tells that a nonce is a record's, and nothing else of it.
export async function opening(nonce: Bytes): Promise<Bytes> {
  return commit(await derivedNonce(nonce, "opening"), utf8(""));
}
