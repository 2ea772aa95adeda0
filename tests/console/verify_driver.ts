// Verifies what it is given, one JSON object a line, and answers each with one line: the reports of the page's verifier
// and the forms that it makes, so that another implementation can be held beside them. Knows no files.

import { createInterface } from "node:readline";
import { argumentsForm, formOf, readStream, reasoningOf } from "../../console/src/views/play/verify/answer_form";
import { readBundle } from "../../console/src/views/play/verify/bundle";
import { fromBase64, fromUtf8, toBase64, toHex, utf8 } from "../../console/src/views/play/verify/bytes";
import { canonicalBytes, readJson } from "../../console/src/views/play/verify/json";
import { requestForms } from "../../console/src/views/play/verify/request_form";
import { transcriptDigest } from "../../console/src/views/play/verify/transcript";
import { parseTrustFile } from "../../console/src/views/play/verify/trust_file";
import { verify } from "../../console/src/views/play/verify/verification";

interface Asked {
  bundle?: string; // base64, as all bytes here
  trust?: string;
  stream?: string;
  request?: Record<string, unknown>;
  canonical?: string;
  arguments?: string;
  said?: { text: string; reasoning: string; calls: { name: string; arguments: string }[]; finish: string }; // bytes gone
  lacks?: string; // an algorithm that this browser's WebCrypto has not
}

function bytes(text: string) {
  return fromBase64(text, "the driver's input");
}

let lacking: string | undefined;
const known = SubtleCrypto.prototype.importKey;
SubtleCrypto.prototype.importKey = function (this: SubtleCrypto, ...given: unknown[]) {
  const name = (given[2] as { name: string }).name;
  if (name === lacking) return Promise.reject(new DOMException("Unrecognized name", "NotSupportedError"));
  return (known as (...given: unknown[]) => Promise<CryptoKey>).apply(this, given);
} as typeof known;

async function answer(asked: Asked): Promise<unknown> {
  lacking = asked.lacks;
  if (asked.canonical !== undefined) return { form: toBase64(canonicalBytes(readJson(bytes(asked.canonical), "it"))) };
  if (asked.arguments !== undefined) return { form: toBase64(utf8(argumentsForm(asked.arguments))) };
  const stream = asked.stream === undefined ? null : bytes(asked.stream);
  const said = stream === null ? null : await readStream(stream);
  const requests = asked.request === undefined ? [] : requestForms(asked.request);
  const digest = stream === null ? null : await transcriptDigest(stream);
  if (asked.bundle === undefined) {
    return {
      requests: requests.map(toBase64),
      digest: digest && toHex(digest),
      form: said && toBase64(said.form),
      reasoning: said?.reasoning && toBase64(said.reasoning),
      model: said?.model ?? null,
    };
  }
  const trust = await parseTrustFile(fromUtf8(bytes(asked.trust!), "the trust file"));
  if (asked.said !== undefined) {
    const forms = { form: formOf(asked.said), reasoning: reasoningOf(asked.said), model: null };
    const known = { digest: null, ...forms, requests, areBytesGone: true };
    return await verify(await readBundle(bytes(asked.bundle)), known, trust);
  }
  const shown =
    stream === null && requests.length === 0
      ? null
      : { digest, form: said?.form ?? null, reasoning: said?.reasoning ?? null, model: said?.model ?? null, requests };
  return await verify(await readBundle(bytes(asked.bundle)), shown, trust);
}

for await (const line of createInterface({ input: process.stdin })) {
  let told: unknown;
  try {
    told = await answer(JSON.parse(line) as Asked);
  } catch (error) {
    told = { refused: (error as Error).message, kind: (error as Error).constructor.name };
  }
  console.log(JSON.stringify(told, (name, value: unknown) => (name === "statement" || value instanceof Map ? undefined : value)));
}
