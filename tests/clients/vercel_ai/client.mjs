// Vercel's AI SDK against Headrace: the same tool loop over three of its providers, whole and streamed.
import assert from "node:assert/strict";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenResponses } from "@ai-sdk/open-responses";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const url = process.env.HEADRACE_URL;
const compatible = createOpenAICompatible({ name: "headrace", baseURL: `${url}/v1`, apiKey: "unused", includeUsage: true });
const models = {
  chat: compatible("scripted"),
  messages: createAnthropic({ baseURL: `${url}/v1`, apiKey: "unused" })("scripted"),
  responses: createOpenResponses({ name: "headrace", url: `${url}/v1/responses`, apiKey: "unused" })("scripted"),
};
const tools = {
  get_weather: tool({
    description: "The weather in a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `21 degrees in ${city}`,
  }),
};

const only = process.env.HEADRACE_ONLY;
for (const [name, model] of Object.entries(models)) {
  if (only && only !== name) continue;
  const options = { model, tools, prompt: "What is the weather in Paris?", stopWhen: stepCountIs(3), maxRetries: 0 };
  const whole = await generateText(options);
  assert.equal(whole.text, "It is 21 degrees in Paris.");
  assert.equal(whole.steps.length, 2);
  assert.ok(whole.usage.outputTokens > 0);
  console.log(`did tool loop over ${name}`);
  const streamed = streamText(options);
  let text = "";
  for await (const piece of streamed.textStream) text += piece;
  assert.ok(text.endsWith("It is 21 degrees in Paris."), text);
  console.log(`did tool loop over ${name} streamed`);
}

const { embedding } = await embed({ model: compatible.embeddingModel("scripted"), value: "a" });
assert.equal(embedding.length, 16);
console.log("did embedding");
