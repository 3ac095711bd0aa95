// The ollama client of npm.
import { KEY, SCRIPTED, URL_, holds, load, main, same } from './common.mjs';

const { Ollama } = await load('ollama');
const C = new Ollama({ host: URL_, headers: { authorization: `Bearer ${KEY}` } });
const messages = [{ role: 'user', content: 'hi' }];
const options = { num_predict: 16 };
const format = { type: 'object', properties: { sunny: { type: 'boolean' } }, required: ['sunny'] };

await main({
  async lists() {
    const { models } = await C.list();
    same(models.length, 1);
    holds((await C.show({ model: models[0].name })).details, 'no details');
  },
  async chat() {
    const answer = await C.chat({ model: 'any', messages, options });
    holds(answer.done && answer.message.content && answer.eval_count > 0, JSON.stringify(answer));
    let last;
    for await (const part of await C.chat({ model: 'any', messages, options, stream: true })) last = part;
    holds(last.done, 'no end');
  },
  async abort() {
    const stream = await C.chat({
      model: 'any',
      messages: [{ role: 'user', content: 'Count. @endless' }],
      stream: true,
    });
    try {
      for await (const _ of stream) stream.abort();
    } catch (error) {
      same(error.name, 'AbortError');
    }
    holds((await C.generate({ model: 'any', prompt: 'hi', options })).done, 'no answer after an abort');
  },
  ...(!SCRIPTED && {
    async schema() {
      const answer = await C.chat({ model: 'any', messages, format, options: { num_predict: 200 } });
      same(typeof JSON.parse(answer.message.content).sunny, 'boolean');
    },
  }),
});
