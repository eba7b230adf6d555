import { afterAll, describe, expect, it } from 'vitest';
import { ops, type Tensor } from '../../lib/index.js';
import { expectClose, limit, summary } from '../helpers/compare.js';
import {
  activation,
  device,
  expectWithinLimits,
  floatTypes,
  integerTensor,
  type Pair,
  pair,
  type Results,
  roundingErrors,
  type Truth,
  takeResults,
  valuesOf,
} from '../helpers/parity.js';
import { type FloatType, integers, normal } from '../helpers/random.js';
import * as reference from '../reference/index.js';

afterAll(() => console.log(summary()));

/** Each op is a single step: the naive pipeline computes exactly, then rounds activations to `dtype` (the rest to f32). */
async function check(
  op: string,
  name: string,
  dtype: FloatType,
  results: Results<Tensor>,
  truth: Truth,
  stored: { activations: string[] },
): Promise<void> {
  const errors = roundingErrors(truth, dtype);
  for (const [key, tensor] of Object.entries({ ...results.outputs, ...results.gradients })) {
    const isActivation = stored.activations.includes(key);
    expect(tensor.dtype, `dtype of ${key}`).toBe(isActivation ? dtype : 'f32');
    if (!isActivation) errors[key] = 0;
  }
  expectWithinLimits(`${op} ${dtype}`, name, dtype, await takeResults(results), truth, errors);
}

/** Weights of a norm, f32, away from 0. */
function normWeight(width: number, seed: number): Pair {
  return pair(
    normal([width], seed, 0.3).map((value) => 1 + value),
    [width],
    'f32',
  );
}

// [leading shape, C, input scale, shift]: a shift is what a one-pass variance does not survive
const normShapes: [number[], number, number, number][] = [
  [[1], 3, 1, 0],
  [[1], 8, 1, 0],
  [[2, 31], 24, 1, 0],
  [[64], 40, 100, 0],
  [[97], 96, 1, 0],
  [[257], 160, 1, 8],
  [[3], 1023, 1, 0],
  [[1023], 7, 1, 0],
];

function shifted(shape: number[], seed: number, dtype: FloatType, scale: number, shift: number): Pair {
  return pair(
    normal(shape, seed, scale).map((value) => value + shift),
    shape,
    dtype,
  );
}

describe.each(floatTypes)('layerNorm %s', (dtype) => {
  it.each(normShapes)('%j C=%d x%d + %d', async (rows, width, scale, shift) => {
    const x = shifted([...rows, width], 1, dtype, scale, shift);
    const weight = normWeight(width, 2);
    const bias = pair(normal([width], 3), [width], 'f32');
    const gradOutput = activation([...rows, width], 4, dtype);
    const { output, mean, rstd } = ops.layerNorm(x.tensor, weight.tensor, bias.tensor);
    const saved = { x: x.tensor, weight: weight.tensor, mean, rstd };
    const { gradX, gradWeight, gradBias } = ops.layerNormBackward(gradOutput.tensor, saved);
    const results = { outputs: { output, mean, rstd }, gradients: { x: gradX, weight: gradWeight, bias: gradBias } };
    const expected = reference.layerNormBackward(gradOutput.exact, x.exact, weight.exact);
    const truth: Truth = {
      outputs: { ...reference.layerNorm(x.exact, weight.exact, bias.exact) },
      gradients: { x: expected.gradX, weight: expected.gradWeight, bias: expected.gradBias },
    };
    await check('layerNorm', `C=${width}`, dtype, results, truth, { activations: ['output', 'x'] });
  });

  it('takes eps', async () => {
    const x = activation([5, 24], 1, dtype, 0.1);
    const [weight, bias] = [normWeight(24, 2), pair(normal([24], 3), [24], 'f32')];
    const { output } = ops.layerNorm(x.tensor, weight.tensor, bias.tensor, { eps: 0.1 });
    const truth = {
      outputs: { output: reference.layerNorm(x.exact, weight.exact, bias.exact, 0.1).output },
      gradients: {},
    };
    await check('layerNorm', 'eps=0.1', dtype, { outputs: { output }, gradients: {} }, truth, {
      activations: ['output'],
    });
  });
});

describe.each(floatTypes)('rmsNorm %s', (dtype) => {
  it.each(normShapes)('%j C=%d x%d + %d', async (rows, width, scale, shift) => {
    const x = shifted([...rows, width], 1, dtype, scale, shift);
    const weight = normWeight(width, 2);
    const gradOutput = activation([...rows, width], 4, dtype);
    const { output, rstd } = ops.rmsNorm(x.tensor, weight.tensor);
    const saved = { x: x.tensor, weight: weight.tensor, rstd };
    const { gradX, gradWeight } = ops.rmsNormBackward(gradOutput.tensor, saved);
    const forward = reference.rmsNorm(x.exact, weight.exact);
    const backward = reference.rmsNormBackward(gradOutput.exact, x.exact, weight.exact);
    const truth: Truth = {
      outputs: { output: forward.output, rstd: forward.rstd },
      gradients: { x: backward.gradX, weight: backward.gradWeight },
    };
    const results = { outputs: { output, rstd }, gradients: { x: gradX, weight: gradWeight } };
    await check('rmsNorm', `C=${width}`, dtype, results, truth, { activations: ['output', 'x'] });
  });

  it('takes eps', async () => {
    const x = activation([5, 24], 1, dtype, 0.1);
    const weight = normWeight(24, 2);
    const { output } = ops.rmsNorm(x.tensor, weight.tensor, { eps: 0.1 });
    const truth = { outputs: { output: reference.rmsNorm(x.exact, weight.exact, 0.1).output }, gradients: {} };
    await check('rmsNorm', 'eps=0.1', dtype, { outputs: { output }, gradients: {} }, truth, {
      activations: ['output'],
    });
  });
});

describe.each(floatTypes)('gelu %s', (dtype) => {
  it.each([
    ['none', 1, 1],
    ['none', 1000, 1],
    ['none', 1023, 4],
    ['none', 257, 100],
    ['tanh', 1, 1],
    ['tanh', 1000, 1],
    ['tanh', 1023, 4],
    ['tanh', 257, 100],
  ] as const)('%s, %d values x%d', async (approximate, size, scale) => {
    const x = activation([size], 1, dtype, scale);
    const gradOutput = activation([size], 2, dtype);
    const results = {
      outputs: { output: ops.gelu(x.tensor, { approximate }) },
      gradients: { x: ops.geluBackward(gradOutput.tensor, x.tensor, { approximate }) },
    };
    const truth = {
      outputs: { output: reference.gelu(x.exact, approximate) },
      gradients: { x: reference.geluBackward(gradOutput.exact, x.exact, approximate) },
    };
    await check('gelu', `${approximate} x${scale}`, dtype, results, truth, { activations: ['output', 'x'] });
  });

  it('is the erf form by default', async () => {
    const x = activation([257], 3, dtype);
    expect(await valuesOf(ops.gelu(x.tensor))).toEqual(await valuesOf(ops.gelu(x.tensor, { approximate: 'none' })));
  });
});

describe.each(floatTypes)('add %s', (dtype) => {
  it.each([[1], [7], [1023]])('%d values', async (size) => {
    const [a, b, gradOutput] = [1, 2, 3].map((seed) => activation([size], seed, dtype));
    const { gradA, gradB } = ops.addBackward(gradOutput.tensor);
    const results = { outputs: { output: ops.add(a.tensor, b.tensor) }, gradients: { a: gradA, b: gradB } };
    const gradients = { a: gradOutput.exact, b: gradOutput.exact };
    const truth = { outputs: { output: reference.add64(a.exact, b.exact) }, gradients };
    await check('add', `${size}`, dtype, results, truth, { activations: ['output', 'a', 'b'] });
  });
});

describe.each(floatTypes)('embedding %s', (dtype) => {
  // [B, T, V, C, Tmax (0: no position table)]
  it.each([
    [1, 1, 1, 1, 1],
    [2, 31, 5, 24, 40], // every token many times
    [1, 257, 1000, 40, 257],
    [3, 64, 50, 7, 0],
    [1, 1023, 11, 8, 1023],
  ])('B=%d T=%d V=%d C=%d Tmax=%d', async (batch, time, vocabulary, width, positions) => {
    const tokens = integers(batch * time, 1, vocabulary);
    const tokenTable = pair(normal([vocabulary, width], 2), [vocabulary, width], 'f32');
    const hasPositions = positions > 0;
    const positionTable = hasPositions ? pair(normal([positions, width], 3), [positions, width], 'f32') : undefined;
    const gradOutput = activation([batch, time, width], 4, dtype);
    const ids = integerTensor(tokens, [batch, time]);
    const output = ops.embedding(ids, tokenTable.tensor, positionTable?.tensor, { dtype });
    const sizes = hasPositions ? { vocabulary, positions } : { vocabulary };
    const { gradTokenTable, gradPositionTable } = ops.embeddingBackward(gradOutput.tensor, ids, sizes);
    const expected = reference.embeddingBackward(gradOutput.exact, tokens, vocabulary, Math.max(positions, time));
    const gradients: Record<string, Tensor> = { tokenTable: gradTokenTable };
    const truth: Truth = {
      outputs: { output: reference.embedding(tokens, batch, tokenTable.exact, positionTable?.exact) },
      gradients: { tokenTable: expected.gradTokenTable },
    };
    expect(gradPositionTable === undefined).toBe(!hasPositions);
    if (gradPositionTable !== undefined) {
      gradients.positionTable = gradPositionTable;
      truth.gradients.positionTable = expected.gradPositionTable;
    }
    const results = { outputs: { output }, gradients };
    await check('embedding', `V=${vocabulary}`, dtype, results, truth, { activations: ['output'] });
  });

  it.each([24, 7])('a token outside of the vocabulary rejects the wait, width %d', async (width) => {
    const tokens = new Int32Array(700).fill(1);
    const table = activation([5, width], 1, 'f32').tensor;
    const run = (ids: Tensor) => {
      const output = ops.embedding(ids, table, undefined, { dtype });
      return { output, ...ops.embeddingBackward(output, ids, { vocabulary: 5 }) };
    };
    const sound = run(integerTensor(tokens, [2, 350]));
    const gradOutput = sound.output;
    tokens.set([5, 2 ** 31 - 1, -1], 603); // the first is reported
    const ids = integerTensor(tokens, [2, 350]);
    const { output } = run(ids);
    const { gradTokenTable } = ops.embeddingBackward(gradOutput, ids, { vocabulary: 5 });
    const problem = 'token 5 at position 603 is outside the vocabulary of 5';
    await valuesOf(sound.gradTokenTable);
    await expect(valuesOf(output)).rejects.toThrow(`embedding: ${problem}`);
    await expect(valuesOf(gradTokenTable)).rejects.toThrow(`embeddingBackward: ${problem}`);
    await expect(device.synchronize()).rejects.toThrow(`embedding: ${problem}`);
    expect(await valuesOf(run(integerTensor(tokens.fill(1), [2, 350])).output)).toEqual(await valuesOf(sound.output));
  });
});

describe.each(floatTypes)('rope %s', (dtype) => {
  it.each([
    [1, 1, 1, 8, {}],
    [2, 31, 3, 24, {}],
    [1, 97, 2, 40, { interleaved: true }],
    [1, 1023, 1, 96, { base: 500 }],
    [1, 2, 2, 112, { offset: 1000, interleaved: true }],
    [2, 5, 1, 2, { offset: 7 }],
  ])('B=%d T=%d H=%d D=%d %j', async (batch, time, heads, width, options) => {
    const shape = [batch, time, heads, width];
    const [x, gradOutput] = [activation(shape, 1, dtype), activation(shape, 2, dtype)];
    const results = {
      outputs: { output: ops.rope(x.tensor, options) },
      gradients: { x: ops.ropeBackward(gradOutput.tensor, options) },
    };
    const truth = {
      outputs: { output: reference.rope(x.exact, options) },
      gradients: { x: reference.ropeBackward(gradOutput.exact, options) },
    };
    await check('rope', `T=${time} D=${width}`, dtype, results, truth, { activations: ['output', 'x'] });
  });
});

describe.each(floatTypes)('crossEntropy %s', (dtype) => {
  // [leading shape, V, ignoreIndex, share of ignored targets, input scale]
  it.each([
    [[1], 1, -100, 0, 1],
    [[1], 50, -100, 0, 1],
    [[2, 31], 97, -1, 0.3, 1],
    [[64], 1023, -100, 0.5, 1],
    [[5], 5003, 0, 0.4, 1], // target 0 is the ignored one
    [[128], 40, -100, 0.1, 100],
    [[3], 24, -100, 1, 1], // nothing counts: loss 0, gradient 0
  ])('%j V=%d ignoreIndex=%d', async (shape, vocabulary, ignoreIndex, ignored, scale) => {
    const logits = activation([...shape, vocabulary], 1, dtype, scale);
    const rows = reference.sizeOf(shape);
    const isIgnored = integers(rows, 2, 1000).map((value) => (value < 1000 * ignored ? 1 : 0));
    const targets = integers(rows, 3, vocabulary).map((target, i) => (isIgnored[i] ? ignoreIndex : target));
    const targetTensor = integerTensor(targets, shape);
    const { loss, logSumExp } = ops.crossEntropy(logits.tensor, targetTensor, { ignoreIndex });
    const gradLoss = pair(Float32Array.of(0.37), [], 'f32');
    const saved = { logits: logits.tensor, targets: targetTensor, logSumExp };
    const gradLogits = ops.crossEntropyBackward(gradLoss.tensor, saved, { ignoreIndex });
    const forward = reference.crossEntropy(logits.exact, targets, ignoreIndex);
    const expected = reference.crossEntropyBackward(gradLoss.exact.data[0], logits.exact, targets, ignoreIndex);
    const truth: Truth = {
      outputs: { loss: forward.loss, logSumExp: forward.logSumExp },
      gradients: { logits: expected },
    };
    const results = { outputs: { loss, logSumExp }, gradients: { logits: gradLogits } };
    await check('crossEntropy', `V=${vocabulary}`, dtype, results, truth, { activations: ['logits'] });
  });

  it.each([40, 1100])('a target outside of %d classes rejects the wait', async (vocabulary) => {
    const logits = activation([2, 35, vocabulary], 1, dtype).tensor;
    const gradLoss = pair(Float32Array.of(1), [], 'f32').tensor;
    const targets = new Int32Array(70).fill(1);
    const sound = integerTensor(targets, [2, 35]);
    const { loss, logSumExp } = ops.crossEntropy(logits, sound);
    targets.set([-100, -2, vocabulary], 50); // -100 is ignored
    const wrong = integerTensor(targets, [2, 35]);
    const failed = ops.crossEntropy(logits, wrong).loss;
    const gradient = ops.crossEntropyBackward(gradLoss, { logits, targets: wrong, logSumExp });
    const problem = `target -2 at position 51 is outside the ${vocabulary} classes`;
    await valuesOf(loss);
    await expect(valuesOf(failed)).rejects.toThrow(`crossEntropy: ${problem}`);
    await expect(valuesOf(gradient)).rejects.toThrow(`crossEntropyBackward: ${problem}`);
    await expect(device.synchronize()).rejects.toThrow(`crossEntropy: ${problem}`);
    expect(await valuesOf(ops.crossEntropy(logits, sound).loss)).toEqual(await valuesOf(loss));
  });
});

describe('clipGradNorm', () => {
  const shapes = [[1], [7, 13], [100003], [64, 40]];
  it.each([0.5, 100, 1e6])('scales all gradients to a norm of %d at most', async (maxNorm) => {
    const gradients = shapes.map((shape, i) => pair(normal(shape, 10 + i), shape, 'f32'));
    const norm = ops.clipGradNorm(
      gradients.map(({ tensor }) => tensor),
      maxNorm,
    );
    const truth = reference.clipGradNorm(
      gradients.map(({ exact }) => exact),
      maxNorm,
    );
    expectClose(await valuesOf(norm), truth.norm, limit('f32', 'output', 0), 'clipGradNorm: norm');
    for (const [i, expected] of truth.gradients.entries()) {
      expectClose(
        await valuesOf(gradients[i].tensor),
        expected,
        limit('f32', 'output', 0),
        `clipGradNorm: gradient ${i}`,
      );
    }
  });
});

describe('adamW', () => {
  it.each([[{ lr: 0.1 }], [{ lr: 0.02, beta1: 0.8, beta2: 0.95, eps: 1e-3, weightDecay: 0.3 }]])(
    'three steps of %j',
    async (options) => {
      const shapes = [[1], [5, 7], [70001]];
      // Parameters small against the learning rate: an error of the update is not hidden by the parameter it is added to.
      const parameters = shapes.map((shape, i) => pair(normal(shape, 20 + i, 0.01), shape, 'f32'));
      const zeros = (shape: number[]) => pair(new Float32Array(reference.sizeOf(shape)), shape, 'f32');
      const [firstMoments, secondMoments] = [shapes.map(zeros), shapes.map(zeros)];
      let truth = shapes.map((_, i) => ({
        parameter: parameters[i].exact,
        gradient: parameters[i].exact,
        firstMoment: firstMoments[i].exact,
        secondMoment: secondMoments[i].exact,
      }));
      for (let step = 1; step <= 3; step++) {
        const gradients = shapes.map((shape, i) => pair(normal(shape, 100 * step + i), shape, 'f32'));
        const states = shapes.map((_, i) => ({
          parameter: parameters[i].tensor,
          gradient: gradients[i].tensor,
          firstMoment: firstMoments[i].tensor,
          secondMoment: secondMoments[i].tensor,
        }));
        ops.adamW(states, { ...options, step });
        truth = truth.map((state, i) =>
          reference.adamW({ ...state, gradient: gradients[i].exact }, { ...options, step }),
        );
        for (const [i, state] of states.entries()) {
          for (const name of ['parameter', 'firstMoment', 'secondMoment'] as const) {
            const label = `adamW: ${name} ${i} after step ${step}`;
            expectClose(await valuesOf(state[name]), truth[i][name], limit('f32', 'output', 0), label);
          }
        }
      }
    },
  );
});
