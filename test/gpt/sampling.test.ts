/** Generated text: the distribution that the temperature asks for, and the last position of the right context. */
import { afterAll, beforeAll, describe, expect, it, test } from 'vitest';
import { DEFAULT_CONFIG, type TrainConfig } from '../../lib/gpt/config.js';
import { train } from '../../lib/gpt/loop.js';
import { Gpt } from '../../lib/gpt/model.js';
import { disposeRun, modelConfig, type Run, startRun } from '../../lib/gpt/run.js';
import { generate, printable } from '../../lib/gpt/sampling.js';
import { getDevice } from '../../lib/index.js';

const device = getDevice('cpu');
const bytes = (text: string) => Uint8Array.from(Buffer.from(text));

describe('a model whose logits are known, whatever it reads', () => {
  const config = { ...DEFAULT_CONFIG, width: 2, layers: 1, heads: 1, hidden: 2, seq: 1 };
  const model = new Gpt(modelConfig(config, 'mha'), device);
  afterAll(() => model.dispose());
  /** The last norm gives (1, 0), so that the head's first column is what comes out. */
  beforeAll(() => {
    const of = (name: string) => model.parameters.get(name);
    of('norm.weight')?.copyFrom(Float32Array.of(0, 0));
    of('norm.bias')?.copyFrom(Float32Array.of(1, 0));
    const logit = (byte: number) => ({ 97: 3, 98: 2, 99: 1 })[byte] ?? -100;
    of('head.weight')?.copyFrom(Float32Array.from({ length: 512 }, (_, i) => (i % 2 === 0 ? logit(i / 2) : 0)));
  });

  test.each([0.5, 1, 2])('draws from softmax(logits / %d)', async (temperature) => {
    const length = 1500;
    const text = await generate(model, device, { prompt: bytes('a'), length, temperature, seed: 1 });
    const drawn = [...text.subarray(1)];
    const weights = [3, 2, 1].map((logit) => Math.exp(logit / temperature));
    const sum = weights.reduce((a, b) => a + b);
    for (const [i, byte] of [97, 98, 99].entries()) {
      const expected = (weights[i] ?? Number.NaN) / sum;
      const actual = drawn.filter((each) => each === byte).length / length;
      // Four standard deviations.
      expect(Math.abs(actual - expected)).toBeLessThan(4 * Math.sqrt((expected * (1 - expected)) / length));
    }
    expect(drawn.every((byte) => byte >= 97 && byte <= 99)).toBe(true);
  });

  it('draws the same text from the same seed only', async () => {
    const draw = async (seed: number) =>
      Buffer.from(await generate(model, device, { prompt: bytes('a'), length: 60, temperature: 2, seed })).toString();
    expect(await draw(5)).toBe(await draw(5));
    expect(await draw(5)).not.toBe(await draw(6));
  });

  it('stops where it is told to, with what it has', async () => {
    let left = 3;
    const shouldStop = () => left-- === 0;
    const text = await generate(model, device, { prompt: bytes('ab'), length: 9, temperature: 1, seed: 0, shouldStop });
    expect(text.length).toBe(5);
  });
});

describe('a model that knows the alphabet', () => {
  const letters = Uint8Array.from({ length: 2600 }, (_, i) => 97 + (i % 26));
  const config: TrainConfig = {
    ...DEFAULT_CONFIG,
    ...{ width: 32, layers: 1, heads: 2, seq: 8, batch: 16, steps: 150, lr: 1e-2 },
  };
  let run: Run;
  beforeAll(async () => {
    run = startRun(config, 'mha', device);
    await train(
      run,
      { name: 'letters', train: letters, validation: letters, hash: '' },
      { onStep: () => {}, onValidation: () => {}, saveCheckpoint: async () => {}, shouldStop: () => false },
    );
  });
  afterAll(() => disposeRun(run));

  test.each([
    ['one letter', 'f', 'ghijklmnopqrst'],
    ['less than the model reads', 'wxy', 'zabcdefghijklm'],
    ['more than the model reads', 'mmmmabcdefghijk', 'lmnopqrstuvwxy'],
  ])('goes on after a prompt of %s', async (_, prompt, expected) => {
    const { length } = expected;
    const text = await generate(run.model, device, { prompt: bytes(prompt), length, temperature: 0.1, seed: 0 });
    expect(Buffer.from(text).toString()).toBe(prompt + expected);
  });
});

test('a terminal gets no control characters and no broken UTF-8', () => {
  expect(printable(bytes('tab\tline\nbell\u0007 escape\u001b[2J é'))).toBe('tab\tline\nbell\uFFFD escape\uFFFD[2J é');
  expect(printable(Uint8Array.of(0x61, 0xc3, 0x28))).toBe('a\uFFFD(');
});
