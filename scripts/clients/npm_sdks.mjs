// The official npm SDKs with their tool runners.
import { Cut, KEY, SCRIPTED, URL_, holds, load, main, same } from './common.mjs';

const { default: OpenAI } = await load('openai');
const { default: Anthropic } = await load('@anthropic-ai/sdk');
const { zodResponseFormat } = await load('openai/helpers/zod');
const { betaZodTool } = await load('@anthropic-ai/sdk/helpers/beta/zod');
const { z } = await load('zod');

const O = new OpenAI({ baseURL: `${URL_}/v1`, apiKey: KEY, maxRetries: 0 });
const A = new Anthropic({ baseURL: URL_, apiKey: KEY, maxRetries: 0 });
const said = [{ role: 'user', content: 'Weather? @tools' }];
const Place = z.object({ city: z.enum(['Oslo', 'Paris']), days: z.number().int() });
const seen = [];
const weather = (input) => {
  seen.push('weather');
  return `sun in ${input.city}`;
};
const now = () => {
  seen.push('now');
  return 'noon';
};
const tools = [
  betaZodTool({
    name: 'weather',
    description: 'tells',
    inputSchema: z.object({ city: z.string().max(20) }),
    run: weather,
  }),
  betaZodTool({ name: 'now', description: 'tells', inputSchema: z.object({}), run: now }),
];
const functions = [
  {
    type: 'function',
    function: {
      name: 'weather',
      parse: JSON.parse,
      function: weather,
      parameters: { type: 'object', properties: { city: { type: 'string', maxLength: 20 } }, required: ['city'] },
    },
  },
  {
    type: 'function',
    function: { name: 'now', parse: JSON.parse, function: now, parameters: { type: 'object', properties: {} } },
  },
];

const both = {
  async openai_chat() {
    const answer = await O.chat.completions.create({ model: 'any', messages: said, max_tokens: 16 });
    holds(answer.usage.completion_tokens > 0, 'no token');
    let text = '';
    for await (const chunk of await O.chat.completions.create({
      model: 'any',
      messages: said,
      max_tokens: 16,
      stream: true,
    }))
      text += chunk.choices[0]?.delta?.content || '';
    holds(text, 'no text');
  },
  async openai_abort() {
    const stream = await O.chat.completions.create({
      model: 'any',
      messages: [{ role: 'user', content: 'Count. @endless' }],
      stream: true,
    });
    for await (const _ of stream) {
      stream.controller.abort();
      break;
    }
    const answer = await O.chat.completions.create({
      model: 'any',
      messages: [{ role: 'user', content: 'hi' }],
      max_tokens: 4,
    });
    holds(answer.choices.length === 1, 'no answer after an abort');
  },
  async openai_responses_stream() {
    const stream = O.responses.stream({ model: 'any', input: 'hi', max_output_tokens: 16 });
    for await (const _ of stream);
    holds((await stream.finalResponse()).output_text, 'no text');
  },
  async anthropic_stream() {
    const final = await A.messages
      .stream({ model: 'any', messages: [{ role: 'user', content: 'hi' }], max_tokens: 16 })
      .finalMessage();
    holds(final.content[0].text && final.usage.output_tokens > 0, 'no text');
  },
};

const scripted = {
  async openai_run_tools() {
    for (const stream of [false, true]) {
      seen.length = 0;
      const runner = O.chat.completions.runTools({ model: 'any', messages: said, tools: functions, stream });
      same(await runner.finalContent(), ' Hello, <wörld>!');
      same(seen, ['weather', 'now']);
    }
  },
  async anthropic_tool_runner() {
    for (const stream of [false, true]) {
      seen.length = 0;
      const runner = A.beta.messages.toolRunner({
        model: 'any',
        messages: said,
        tools,
        max_tokens: 600,
        max_iterations: 4,
        stream,
      });
      for await (const turn of runner) if (stream) await turn.finalMessage();
      same(seen, ['weather', 'now']);
    }
  },
};

const real = {
  async openai_required() {
    const answer = await O.chat.completions.create({
      model: 'any',
      messages: said,
      tools: functions.map((f) => ({
        type: 'function',
        function: { name: f.function.name, parameters: f.function.parameters },
      })),
      tool_choice: 'required',
      max_tokens: 600,
    });
    if (answer.choices[0].finish_reason === 'length') throw new Cut('max_tokens');
    for (const call of answer.choices[0].message.tool_calls)
      holds(JSON.parse(call.function.arguments), 'no arguments');
  },
  async openai_parse() {
    const format = zodResponseFormat(Place, 'place');
    const answer = await O.chat.completions.parse({
      model: 'any',
      messages: said,
      response_format: format,
      max_tokens: 400,
    });
    holds(Place.safeParse(answer.choices[0].message.parsed).success, 'not the schema');
  },
  async anthropic_tool_runner_forced() {
    seen.length = 0;
    const runner = A.beta.messages.toolRunner({
      model: 'any',
      messages: said,
      tools,
      max_tokens: 600,
      max_iterations: 3,
      tool_choice: { type: 'any' },
    });
    const turns = [];
    for await (const turn of runner) turns.push(turn);
    if (turns.some((turn) => turn.stop_reason === 'max_tokens')) throw new Cut('max_tokens');
    same(turns.length, 3);
    holds(seen.length >= 2, `${seen.length} calls`);
  },
};

await main({ ...both, ...(SCRIPTED ? scripted : real) });
