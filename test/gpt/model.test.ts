import { describe, expect, test } from 'vitest';
import { ATTENTIONS, type Attention, DEFAULT_CONFIG, POSITIONS, type TrainConfig } from '../../lib/gpt/config.js';
import type { TextData } from '../../lib/gpt/data.js';
import { learningRate, train, validate } from '../../lib/gpt/loop.js';
import { Gpt, type ModelConfig } from '../../lib/gpt/model.js';
import { Random } from '../../lib/gpt/random.js';
import { disposeRun, modelConfig, startRun } from '../../lib/gpt/run.js';
import { getDevice, ops, scope, Tensor } from '../../lib/index.js';

const device = getDevice('cpu');
const tiny = { width: 32, layers: 2, heads: 2, simHeads: 6, simHeadDim: 24, kernel: 3, seq: 16, batch: 4 };
/** Parameters whose gradients are 0: softmax ignores what is added to all keys alike. */
const ignored: Partial<Record<Attention, string[]>> = {
  mla: [],
  tpa: [],
  mfa: [],
  mha: ['key.bias'],
  mqa: ['key.bias'],
  gqa: ['key.bias'],
  'sas-heads': ['sas_k.1.process.bias'],
  'sas-no-residual': ['key.bias', 'sas_k.0.bias', 'sas_k.2.bias'],
};

test.each([
  ['mha', 875_264],
  ['sas', 918_560],
] as const)('parameters of the default %s model', (attention, count) => {
  const model = new Gpt(modelConfig(DEFAULT_CONFIG, attention), device);
  expect(model.parameterCount).toBe(count);
  model.dispose();
});

test('models of one seed share the initial values of the parameters that both have', async () => {
  const config: TrainConfig = { ...DEFAULT_CONFIG, ...tiny };
  const [a, b] = (['mha', 'sas'] as const).map((attention) => startRun(config, attention, device));
  for (const name of ['token.weight', 'blocks.1.attention.value.bias', 'head.weight']) {
    expect(await a?.model.parameters.get(name)?.data()).toEqual(await b?.model.parameters.get(name)?.data());
  }
  for (const run of [a, b]) if (run) disposeRun(run);
});

// The loss along the gradient of one parameter must rise by the length of that gradient.
describe.each(ATTENTIONS.flatMap((attention) => POSITIONS.map((positions) => [attention, positions] as const)))(
  'gradients of the %s model with positions: %s',
  (attention, positions) => {
    const config: ModelConfig = { ...tiny, attention, positions, hidden: 80, vocabulary: 32, dtype: 'f32', seed: 5 };

    test('agree with central differences', async () => {
      const model = new Gpt(config, device);
      const random = Random.seeded(1, 'tokens');
      const draw = () =>
        Tensor.from(
          Int32Array.from({ length: 64 }, () => random.below(32)),
          [4, 16],
          { device },
        );
      const [tokens, targets] = [draw(), draw()];
      const lossNow = async () => {
        const loss = scope(() => ops.crossEntropy(model.forward(tokens, { save: false }).logits, targets).loss);
        const [value = Number.NaN] = await loss.data();
        loss.dispose();
        return value;
      };
      const gradients = scope(() => {
        const { logits, saved } = model.forward(tokens);
        const { logSumExp } = ops.crossEntropy(logits, targets);
        const gradLoss = Tensor.from([1], [], { device });
        return model.backward(ops.crossEntropyBackward(gradLoss, { logits, targets, logSumExp }), saved);
      });
      expect([...gradients.keys()].sort()).toEqual([...model.parameters.keys()].sort());

      const zero: string[] = [];
      for (const [name, parameter] of model.parameters) {
        const value = await parameter.data();
        const gradient = (await gradients.get(name)?.data()) ?? new Float32Array();
        const norm = Math.hypot(...gradient);
        if (norm < 1e-5) {
          zero.push(name);
          continue;
        }
        // Long enough that the f32 noise of the loss (5e-7) disappears, short enough to stay linear between the ReLUs' kinks.
        const length = Math.min(0.005, 2e-3 / norm);
        const at = async (sign: number) => {
          parameter.copyFrom(Float32Array.from(value, (v, i) => v + (sign * length * (gradient[i] ?? 0)) / norm));
          return lossNow();
        };
        const slope = ((await at(1)) - (await at(-1))) / (2 * length);
        parameter.copyFrom(value as Float32Array);
        expect(Math.abs(slope - norm), `${name}: slope ${slope}, gradient ${norm}`).toBeLessThan(0.03 * norm + 2e-4);
      }
      const names = positions === 'rope' ? [] : (ignored[attention] ?? ['sas_k.3.process.bias']);
      expect(zero).toEqual([0, 1].flatMap((i) => names.map((name) => `blocks.${i}.attention.${name}`)));
      for (const tensor of [...gradients.values(), tokens, targets]) tensor.dispose();
      model.dispose();
    });
  },
);

describe('training loop', () => {
  const letters = Uint8Array.from({ length: 2000 }, (_, i) => 97 + (i % 8));
  const data: TextData = { name: 'letters', train: letters, validation: letters, hash: '' };
  const silent = { onStep: () => {}, onValidation: () => {}, saveCheckpoint: async () => {}, shouldStop: () => false };

  test.each([
    ['mha', 'f32'],
    ['sas', 'f32'],
    ['sas', 'bf16'],
    ['sas', 'f16'],
    ['sas-linear', 'f32'],
  ] as const)('%s in %s learns a simple text by heart and gives all memory back', async (attention, dtype) => {
    await device.synchronize();
    const before = device.memory().live;
    const config: TrainConfig = { ...DEFAULT_CONFIG, ...tiny, dtype, steps: 60, lr: 1e-2 };
    const run = startRun(config, attention, device);
    const live: number[] = [];
    for (const steps of [30, 60]) {
      await train(run, data, { ...silent, shouldStop: () => run.step >= steps });
      await device.synchronize();
      live.push(device.memory().live);
    }
    // Position 0 has nothing to go by, so that one of 16 targets stays at up to ln(8).
    expect(await validate(run, data)).toBeLessThan(0.2);
    expect(live[1]).toBe(live[0]);
    disposeRun(run);
    await device.synchronize();
    expect(device.memory().live).toBe(before);
  });

  test('the learning rate warms up, peaks, and falls to a tenth along a cosine', () => {
    expect(learningRate(1, 800, 2e-3)).toBeCloseTo(4e-5, 12);
    expect(learningRate(50, 800, 2e-3)).toBeCloseTo(2e-3, 12);
    expect(learningRate(425, 800, 2e-3)).toBeCloseTo(1.1e-3, 12);
    expect(learningRate(800, 800, 2e-3)).toBeCloseTo(2e-4, 12);
  });
});
