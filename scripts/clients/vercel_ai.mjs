// Vercel's AI SDK with its three providers over the four APIs.
import { Cut, KEY, SCRIPTED, URL_, holds, load, main, same } from './common.mjs';

const { generateText, streamText, generateObject, Output, stepCountIs, tool } = await load('ai');
const { createOpenAI } = await load('@ai-sdk/openai');
const { createOpenAICompatible } = await load('@ai-sdk/openai-compatible');
const { createAnthropic } = await load('@ai-sdk/anthropic');
const { z } = await load('zod');

const at = { baseURL: `${URL_}/v1`, apiKey: KEY };
const openai = createOpenAI(at);
const models = {
  compatible: createOpenAICompatible({ ...at, name: 'infall', supportsStructuredOutputs: true })('any'),
  openai_chat: openai.chat('any'),
  openai_responses: openai.responses('any'),
  anthropic: createAnthropic(at)('claude-any'),
};
const Place = z.object({ city: z.enum(['Oslo', 'Paris']), sunny: z.boolean() });
const city = z.object({ city: z.string().max(20) });
const seen = [];
const tools = {
  weather: tool({
    description: 'tells',
    inputSchema: city,
    execute: async () => {
      seen.push('weather');
      return 'sun';
    },
  }),
  now: tool({
    description: 'tells',
    inputSchema: z.object({}),
    execute: async () => {
      seen.push('now');
      return 'noon';
    },
  }),
};
const base = { maxRetries: 0, maxOutputTokens: 600 };

const checks = {};
for (const [name, model] of Object.entries(models)) {
  checks[`${name}_text`] = async () => {
    const answer = await generateText({ ...base, model, prompt: 'hi', maxOutputTokens: 16 });
    holds(answer.text && answer.usage.outputTokens > 0, 'no text');
    let text = '';
    for await (const more of streamText({ ...base, model, prompt: 'hi', maxOutputTokens: 16 }).textStream)
      text += more;
    holds(text, 'no streamed text');
  };
  checks[`${name}_abort`] = async () => {
    const stop = new AbortController();
    for await (const _ of streamText({
      ...base,
      model,
      prompt: 'Count. @endless',
      abortSignal: stop.signal,
      onError() {},
    }).textStream) {
      stop.abort();
      break;
    }
    holds(
      (await generateText({ ...base, model, prompt: 'hi', maxOutputTokens: 4 })).finishReason,
      'no answer after an abort',
    );
  };
  if (SCRIPTED) {
    checks[`${name}_tools`] = async () => {
      seen.length = 0;
      const answer = await generateText({ ...base, model, prompt: '@tools', tools, stopWhen: stepCountIs(4) });
      same([seen, answer.steps.length, answer.text], [['weather', 'now'], 2, ' Hello, <wörld>!']);
    };
    continue;
  }
  checks[`${name}_required`] = async () => {
    seen.length = 0;
    const answer = await generateText({
      ...base,
      model,
      prompt: 'Where?',
      tools,
      toolChoice: 'required',
      stopWhen: stepCountIs(2),
    });
    if (answer.finishReason === 'length') throw new Cut('maxOutputTokens');
    holds(seen.length >= 1, 'no call');
  };
  checks[`${name}_named`] = async () => {
    seen.length = 0;
    const answer = await generateText({
      ...base,
      model,
      prompt: 'Where?',
      tools,
      toolChoice: { type: 'tool', toolName: 'now' },
    });
    if (answer.finishReason === 'length') throw new Cut('maxOutputTokens');
    same([...new Set(seen)], ['now']);
  };
  checks[`${name}_object`] = async () => {
    const { object } = await generateObject({ ...base, model, prompt: 'Where?', schema: Place });
    holds(Place.safeParse(object).success, 'not the schema');
    const output = await generateText({ ...base, model, prompt: 'Where?', output: Output.object({ schema: Place }) });
    holds(Place.safeParse(output.output).success, 'not the schema (output)');
  };
  checks[`${name}_reasoning`] = async () => {
    const providerOptions = {
      infall: { reasoningEffort: 'low' },
      openai: { reasoningEffort: 'low', reasoningSummary: 'auto', forceReasoning: true },
      anthropic: { thinking: { type: 'enabled', budgetTokens: 1024 } },
    };
    const answer = await generateText({ ...base, model, prompt: 'hi', providerOptions });
    if (name !== 'openai_chat') holds(answer.reasoningText, 'no reasoning'); // that provider shows none
  };
}
await main(checks);
