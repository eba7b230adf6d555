/** One step of the training loop in 16 bits against f32, what it says of itself, and what its clock counts. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, test } from 'vitest';
import { DEFAULT_CONFIG, type TrainConfig } from '../../lib/gpt/config.js';
import { sampleBatch, type TextData, validationBatches } from '../../lib/gpt/data.js';
import { enqueueStep, learningRate, type StepResult, train, validate } from '../../lib/gpt/loop.js';
import { disposeRun, type Run, startRun } from '../../lib/gpt/run.js';
import { getDevice, ops, scope, Tensor } from '../../lib/index.js';
import { norm, relativeError } from '../../lib/measure/relative_error.js';

const device = getDevice('cpu');
const sizes = { width: 32, layers: 1, heads: 2, simHeads: 4, simHeadDim: 16, kernel: 3, seq: 16, batch: 4 };
const letters = Uint8Array.from({ length: 2000 }, (_, i) => 97 + ((i * i) % 7));
const data: TextData = { name: 'letters', train: letters, validation: letters.subarray(1000), hash: '' };
const silent = { onStep: () => {}, onValidation: () => {}, saveCheckpoint: async () => {}, shouldStop: () => false };

const configOf = (changes: Partial<TrainConfig>): TrainConfig => ({ ...DEFAULT_CONFIG, ...sizes, ...changes });
const parameter = (run: Run, name: string): Tensor => {
  const tensor = run.model.parameters.get(name);
  if (!tensor) throw new Error(`no parameter ${name}`);
  return tensor;
};
const numbers = async (tensor: Tensor) => [...(await tensor.data())];
/** Loss and gradients of the first batch, without clipping. */
async function gradientsOf(run: Run): Promise<{ loss: number; gradients: Map<string, number[]> }> {
  const { batch, seq, seed } = run.config;
  const { random } = startRun(configOf({ seed }), 'mha', device);
  const { tokens, targets } = sampleBatch(data.train, random, batch, seq);
  const { loss, gradients } = scope(() => {
    const [input, target] = [tokens, targets].map((values) => Tensor.from(values, [batch, seq], { device }));
    if (!input || !target) throw new Error('two tensors were made');
    const { logits, saved } = run.model.forward(input);
    const { loss, logSumExp } = ops.crossEntropy(logits, target);
    const gradLogits = ops.crossEntropyBackward(Tensor.from([1], [], { device }), {
      logits,
      targets: target,
      logSumExp,
    });
    return { loss, gradients: run.model.backward(gradLogits, saved) };
  });
  const all = new Map<string, number[]>();
  for (const [name, gradient] of gradients) all.set(name, await numbers(gradient));
  const [value = Number.NaN] = await numbers(loss);
  return { loss: value, gradients: all };
}

/** Every parameter's change in one step, and what the step says of itself. */
async function oneStep(run: Run) {
  const before = new Map<string, number[]>();
  for (const [name, tensor] of run.model.parameters) before.set(name, await numbers(tensor));
  let result: StepResult | undefined;
  run.config = { ...run.config, steps: 1 };
  await train(run, data, { ...silent, onStep: (each) => (result = each) });
  const changes = new Map<string, number[]>();
  for (const [name, tensor] of run.model.parameters) {
    const old = before.get(name) ?? [];
    changes.set(
      name,
      (await numbers(tensor)).map((value, i) => value - (old[i] ?? Number.NaN)),
    );
  }
  if (!result) throw new Error('no step was taken');
  return { before, changes, result };
}

describe('one step', () => {
  it.each([0.1, 1])(
    'is AdamW with clipping, as written down, with the last layers at %d times their values',
    async (factor) => {
      const run = startRun(configOf({ lr: 1e-2 }), 'mha', device);
      for (const tensor of [parameter(run, 'norm.weight'), parameter(run, 'head.weight')]) {
        tensor.copyFrom(Float32Array.from(await numbers(tensor), (value) => factor * value));
      }
      const { loss, gradients } = await gradientsOf(run);
      const { before, changes, result } = await oneStep(run);
      const length = norm([...gradients.values()].flat());
      expect(result.loss).toBeCloseTo(loss, 6);
      expect(result.gradNorm / length).toBeCloseTo(1, 5);
      expect(length > 1).toBe(factor === 1);
      const clip = Math.min(1, 1 / length);
      for (const [name, change] of changes) {
        const old = before.get(name) ?? [];
        const clipped = (gradients.get(name) ?? []).map((value) => clip * value);
        // The first step's moments, corrected, are the gradient and its square.
        const expected = clipped.map(
          (gradient, i) => -1e-2 * (gradient / (Math.abs(gradient) + 1e-8) + 0.1 * (old[i] ?? Number.NaN)),
        );
        expect(relativeError(change, expected), name).toBeLessThan(2e-3);
        const moments = run.moments.get(name);
        if (!moments) throw new Error(`no moments of ${name}`);
        const [first, second] = [clipped.map((value) => 0.1 * value), clipped.map((value) => 0.05 * value ** 2)];
        if (norm(clipped) < 1e-6) continue; // zero in exact arithmetic
        expect(relativeError(await numbers(moments.first), first), name).toBeLessThan(1e-4);
        expect(relativeError(await numbers(moments.second), second), name).toBeLessThan(1e-4);
      }
      disposeRun(run);
    },
  );

  // A gradient near epsilon tells what epsilon, the clipping and the scale of the loss make of one another.
  it.each(['bf16', 'f16'] as const)('in %s is that in f32, small gradients and their clipping too', async (dtype) => {
    const rareWeight = -4 / 32;
    const rare = 200; // a byte that the text lacks, made unlikely: the gradient of its row is its probability
    const step = async (type: 'f32' | 'bf16' | 'f16') => {
      const run = startRun(configOf({ dtype: type, lr: 1e-2 }), 'mha', device);
      parameter(run, 'norm.bias').copyFrom(new Float32Array(32).fill(1));
      const head = parameter(run, 'head.weight');
      const weights = Float32Array.from(await numbers(head), (value) => 4 * value);
      weights.fill(rareWeight, rare * 32, (rare + 1) * 32);
      head.copyFrom(weights);
      const { changes, result } = await oneStep(run);
      disposeRun(run);
      const row = (changes.get('head.weight') ?? []).slice(rare * 32, (rare + 1) * 32);
      return { row: row.map((change) => change / -1e-2 - 0.1 * rareWeight), result };
    };
    const [full, half] = [await step('f32'), await step(dtype)];
    expect(full.result.gradNorm).toBeGreaterThan(2);
    const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + Math.abs(value), 0) / 32;
    // Between 0 and 1, which a gradient far from epsilon gives.
    expect(mean(full.row)).toBeGreaterThan(0.2);
    expect(mean(full.row)).toBeLessThan(0.85);
    expect(relativeError(half.row, full.row)).toBeLessThan(0.03);
    expect(half.result.gradNorm / full.result.gradNorm).toBeCloseTo(1, 1);
    expect(half.result.loss / full.result.loss).toBeCloseTo(1, 2);
  });

  it('draws its batch from the training text, with the generator of the run', async () => {
    const [a, b] = [0, 1].map((seed) => startRun(configOf({ seed }), 'mha', device)) as [Run, Run];
    const state = a.random.state;
    const { loss, gradNorm } = enqueueStep(a, data);
    const moved = startRun(configOf({ seed: 0 }), 'mha', device);
    sampleBatch(data.train, moved.random, sizes.batch, sizes.seq);
    expect(a.random.state).toEqual(moved.random.state);
    expect(a.random.state).not.toEqual(state);
    expect(b.random.state).not.toEqual(state);
    for (const tensor of [loss, gradNorm]) tensor.dispose();
    for (const run of [a, b, moved]) disposeRun(run);
  });
});

test('the learning rate rises by equal steps, and its warm-up is a quarter of a short run', () => {
  expect([1, 2, 3].map((step) => learningRate(step, 12, 0.75))).toEqual([0.25, 0.5, 0.75]);
  expect(learningRate(12, 12, 0.75)).toBeCloseTo(0.075, 12);
  const rates = Array.from({ length: 750 }, (_, i) => learningRate(51 + i, 800, 1));
  expect(rates.every((rate, i) => i === 0 || rate < (rates[i - 1] ?? 0))).toBe(true);
});

test('validation is the mean loss over the 16 batches, and changes nothing', async () => {
  const run = startRun(configOf({}), 'mha', device);
  const before = await numbers(parameter(run, 'head.weight'));
  const state = run.random.state;
  const loss = await validate(run, data);
  const losses: number[] = [];
  for (const { tokens, targets } of validationBatches(data.validation, 16, sizes.batch, sizes.seq)) {
    const result = scope(() => {
      const of = (values: Int32Array) => Tensor.from(values, [sizes.batch, sizes.seq], { device });
      return ops.crossEntropy(run.model.forward(of(tokens), { save: false }).logits, of(targets)).loss;
    });
    losses.push(...(await numbers(result)));
    result.dispose();
  }
  expect(loss).toBeCloseTo(losses.reduce((sum, value) => sum + value, 0) / 16, 6);
  expect(await numbers(parameter(run, 'head.weight'))).toEqual(before);
  expect(run.random.state).toEqual(state);
  disposeRun(run);
});

test('the seconds of the steps leave out validation and checkpoints', async () => {
  const run = startRun(configOf({ steps: 102 }), 'mha', device);
  let inSteps = 0;
  let steps = 0;
  const pause = 400;
  const begun = performance.now();
  await train(run, data, {
    onStep: (_, seconds) => {
      inSteps += seconds;
      steps++;
    },
    onValidation: (step) => {
      const until = performance.now() + pause;
      while (step === 100 && performance.now() < until);
    },
    saveCheckpoint: async () => void (run.step === 100 && (await sleep(pause))),
    shouldStop: () => false,
  });
  const seconds = (performance.now() - begun) / 1000;
  expect(steps).toBe(102);
  expect(inSteps).toBeGreaterThan(0);
  expect(inSteps).toBeLessThan(seconds - (2 * pause) / 1000 + 0.05);
  disposeRun(run);
});

test('a run that is told to stop has saved where it stands, once', async () => {
  const run = startRun(configOf({ steps: 50 }), 'mha', device);
  const seen: number[] = [];
  const saved: number[] = [];
  const finished = await train(run, data, {
    ...silent,
    onStep: ({ step }) => seen.push(step),
    saveCheckpoint: async () => void saved.push(run.step),
    shouldStop: () => run.step === 7,
  });
  expect(finished).toBe(false);
  expect(seen).toEqual([1, 2, 3, 4, 5, 6, 7]);
  expect(saved).toEqual([7]);
  disposeRun(run);
});
