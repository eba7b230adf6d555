// Log-likelihoods against a slow computation of its own, and the rules by which they become a score.

import { beforeAll, describe, expect, test } from 'vitest';
import type { Example, Request } from '../../../../bench/quality/eval/formats.js';
import { CheckpointModel } from '../../../../bench/quality/eval/model.js';
import { logLikelihoods, score } from '../../../../bench/quality/eval/score.js';
import { readTask } from '../../../../bench/quality/eval/task.js';
import { Failure } from '../../../../lib/failure.js';
import { loadCheckpoint, resumeRun } from '../../../../lib/gpt/checkpoint.js';
import { ATTENTIONS, type Attention } from '../../../../lib/gpt/config.js';
import { disposeRun, type Run } from '../../../../lib/gpt/run.js';
import { getDevice, Tensor } from '../../../../lib/index.js';
import { LetterModel, sample, tinyCheckpoint } from './model.js';

const device = getDevice('cpu');
const SAMPLES = ['arc.jsonl', 'hellaswag.jsonl', 'piqa.jsonl', 'sciq.json', 'socialiqa.jsonl', 'winogrande.jsonl'];
const EXAMPLES = SAMPLES.flatMap((name) => readTask(sample(name)).examples);
const UTF8 = { context: 'Où est le café ?', text: 'là-bas 🫖 井戸' };

/** Probabilities of the token after the given ones: the model on them alone, nothing padded, softmax in float64. */
async function next(run: Run, tokens: readonly number[]): Promise<number[]> {
  using input = Tensor.from(Int32Array.from(tokens), [1, tokens.length], { device });
  using logits = run.model.forward(input, { save: false }).logits;
  const row = Array.from((await logits.data()).slice(-256));
  const weights = row.map((logit) => Math.exp(logit - Math.max(...row)));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
}

/** Log-likelihood of one request, one token at a time. */
async function slowly(run: Run, { context, text }: Request): Promise<number> {
  const [before, after] = [context, ` ${text}`].map((part) => [...Buffer.from(part)]);
  const all = [...before, ...after];
  const seq = run.config.seq;
  // Where what is scored fits into the window, all of its tokens see the same beginning of it. Else each piece of half a window does.
  const piece = after.length <= seq ? after.length : seq / 2;
  let sum = 0;
  for (const i of after.keys()) {
    const at = before.length + i;
    const pieceEnd = Math.min(before.length + (Math.floor(i / piece) + 1) * piece, all.length);
    sum += Math.log((await next(run, all.slice(Math.max(0, pieceEnd - 1 - seq), at)))[all[at]]);
  }
  return sum;
}

describe.each(ATTENTIONS)('a %s checkpoint', (attention: Attention) => {
  let path: string;
  beforeAll(async () => {
    path = await tinyCheckpoint(attention);
  });

  test('agrees with the slow computation, whatever the batch', async () => {
    const requests = [...EXAMPLES.flatMap((example) => example.requests), UTF8];
    const checkpoint = await loadCheckpoint(path);
    const run = resumeRun(checkpoint, checkpoint.meta.config, device);
    const long = requests.filter(({ context, text }) => Buffer.byteLength(`${context} ${text}`) > run.config.seq + 1);
    expect(long.length).toBeGreaterThan(10);
    const truth: number[] = [];
    for (const request of requests) truth.push(await slowly(run, request));
    disposeRun(run);
    expect(new Set(truth).size).toBe(requests.length);

    const model = await CheckpointModel.open(path, device);
    for (const batch of [1, 3, 16, 1000]) {
      const { values, cut, split } = await logLikelihoods(model, requests, { batch });
      values.forEach((value, i) => {
        expect(Math.abs(value / truth[i] - 1), `${requests[i].text}: ${value}, ${truth[i]}`).toBeLessThan(1e-5);
      });
      expect([cut, split]).toEqual([long.length, 0]);
    }
    model.dispose();
  });

  test('scores alike in every batch size, and gives its memory back', async () => {
    await device.synchronize();
    const before = device.memory().live;
    const model = await CheckpointModel.open(path, device);
    const scores = [];
    for (const batch of [1, 2, 7, 64]) scores.push(await score(model, EXAMPLES, { batch }));
    for (const other of scores.slice(1)) expect(other).toEqual(scores[0]);
    model.dispose();
    await device.synchronize();
    expect(device.memory().live).toBe(before);
  });
});

test('choices longer than the window agree with the slow computation too', async () => {
  const path = await tinyCheckpoint('sas', 12);
  const checkpoint = await loadCheckpoint(path);
  const run = resumeRun(checkpoint, checkpoint.meta.config, device);
  const model = await CheckpointModel.open(path, device);
  // 11, 12 (the window), 13 and 30 tokens with their space.
  const requests = ['1234567890', '12345678901', '123456789012', 'honey, and wax for the combs.'].map((text) => ({
    context: 'Answer: honey',
    text,
  }));
  const { values, cut, split } = await logLikelihoods(model, requests, { batch: 2 });
  for (const [i, request] of requests.entries()) {
    const truth = await slowly(run, request);
    expect(Math.abs(values[i] / truth - 1), request.text).toBeLessThan(1e-5);
  }
  expect([cut, split]).toEqual([4, 2]);
  model.dispose();
  disposeRun(run);
});

describe('rules', () => {
  /** Each a costs 1 nat, each other byte `other`. */
  const byLetter = (other: number) => {
    const logit = (token: number) =>
      token === 97 ? -1 : token === 0 ? Math.log1p(-Math.exp(-1) - 254 * Math.exp(-other)) : -other;
    return new LetterModel(64, logit);
  };
  const ask = (texts: readonly string[], gold: number): Example => ({
    requests: texts.map((text) => ({ context: 'c', text })),
    gold,
  });
  const right = async (model: LetterModel, example: Example) => {
    const { acc, accNorm } = await score(model, [example], { batch: 8 });
    return [acc.value, accNorm.value];
  };

  test('acc takes the sum, acc_norm the sum per character', async () => {
    // -9 - 2 = -11 in 2 characters, against -9 - 9 = -18 in 1 character, the space included in the sum and not in the length.
    expect(await right(byLetter(9), ask(['aa', 'b'], 0))).toEqual([1, 1]);
    // -9 - 3 * 9 = -36 in 3 characters, against -9 - 9 = -18 in 1: -12 per character against -18.
    expect(await right(byLetter(9), ask(['bbb', 'b'], 0))).toEqual([0, 1]);
    expect(await right(byLetter(9), ask(['bbb', 'b'], 1))).toEqual([1, 0]);
  });

  test('characters are code points, not bytes and not UTF-16 units', async () => {
    // Four bytes, -9 - 4 * 9 = -45, in one character; -9 - 2 * 9 = -27 in two: -45 against -13.5. With bytes it were -11.25.
    expect(await right(byLetter(9), ask(['🫖', 'bb'], 1))).toEqual([1, 1]);
    // -9 - 8 * 9 = -81 in two characters (-40.5; four UTF-16 units were -20.25), and -9 - 3 * 9 = -36 in 1 (-36).
    expect(await right(byLetter(9), ask(['🫖🫖', '井'], 1))).toEqual([1, 1]);
  });

  test('of equal choices the first counts', async () => {
    for (const [gold, value] of [
      [0, 1],
      [1, 0],
    ]) {
      expect(await right(byLetter(9), ask(['bc', 'cb', 'bc'], gold))).toEqual([value, value]);
    }
    expect(await right(byLetter(9), ask(['only'], 0))).toEqual([1, 1]);
  });

  test('an empty choice is its space, and never the best per character', async () => {
    const model = byLetter(9);
    const { values } = await logLikelihoods(model, [{ context: 'c', text: '' }], { batch: 1 });
    expect(values[0]).toBeCloseTo(-9, 6);
    expect(await right(model, ask(['', 'b'], 0))).toEqual([1, 0]);
    expect(await right(model, ask(['b', ''], 0))).toEqual([0, 1]);
  });

  test('white space at the end of the context is scored with what follows', async () => {
    const { values } = await logLikelihoods(byLetter(9), [{ context: 'c \n', text: 'a' }], { batch: 1 });
    expect(values[0]).toBeCloseTo(-9 * 3 - 1, 5);
  });

  test('an empty context is the boundary', async () => {
    const seen: number[][] = [];
    const model = new LetterModel(8, (token, tokens) => {
      if (token === 0) seen.push([...tokens]);
      return 0;
    });
    for (const context of ['', ' ']) {
      const { values } = await logLikelihoods(model, [{ context, text: 'ab' }], { batch: 1 });
      expect(values[0]).toBeCloseTo(-(3 + context.length) * Math.log(256), 10);
    }
    expect(seen.map(([first]) => first)).toEqual(seen.map(() => 10));
  });

  test('the right end of a context is kept', async () => {
    const seen = new Set<string>();
    const model = new LetterModel(8, (_, tokens) => {
      seen.add(Buffer.from(tokens).toString());
      return 0;
    });
    const { cut } = await logLikelihoods(model, [{ context: 'abcdefghij', text: 'xyz' }], { batch: 1 });
    expect(cut).toBe(1);
    expect([...seen].at(-1)).toBe('fghij xy');
    // As long as the window and one more, the last token being no input: nothing is cut.
    const fits = await logLikelihoods(model, [{ context: 'abcde', text: 'xyz' }], { batch: 1 });
    expect(fits.cut).toBe(0);
    expect([...seen].at(-1)).toBe('abcde xy');
  });

  test('inputs come in batches, the longest first, equal ones once', async () => {
    const model = byLetter(9);
    const done: [number, number][] = [];
    const texts = ['b', 'bbbb', 'bbb', 'bb', 'bbbb'];
    const { values } = await logLikelihoods(
      model,
      texts.map((text) => ({ context: 'c', text })),
      { batch: 3, onProgress: (...state) => done.push(state) },
    );
    expect(model.calls).toEqual([
      [3, 5],
      [1, 2],
    ]);
    expect(done).toEqual([
      [3, 4],
      [4, 4],
    ]);
    expect(values.map((value) => Math.round(value))).toEqual(texts.map((text) => -9 * (text.length + 1)));
  });

  test('standard error', async () => {
    const examples = [0, 1, 1, 0].map((gold) => ask(['b', 'bb'], gold));
    const { n, acc, accNorm } = await score(byLetter(9), [...examples, ask(['b', 'bb'], 0)], { batch: 8 });
    expect(n).toBe(5);
    expect(acc.value).toBe(0.6);
    expect(acc.stderr).toBeCloseTo(Math.sqrt((0.6 * 0.4) / 4), 12);
    expect(accNorm.value).toBe(0.4);
    expect((await score(byLetter(9), examples.slice(0, 1), { batch: 8 })).acc).toEqual({ value: 1, stderr: null });
  });

  test('large logits neither overflow nor lose the answer', async () => {
    const model = new LetterModel(8, (token) => (token === 97 ? 3e38 : token === 32 ? 3e38 : -3e38));
    const { values } = await logLikelihoods(model, [{ context: 'c', text: 'a' }], { batch: 1 });
    expect(values[0]).toBeCloseTo(-2 * Math.log(2), 12);
  });

  test.each([Number.NaN, Number.POSITIVE_INFINITY])('a model that gives %d fails', async (logit) => {
    const model = new LetterModel(8, () => logit);
    await expect(score(model, [ask(['a', 'b'], 0)], { batch: 1 })).rejects.toThrow(Failure);
  });
});
