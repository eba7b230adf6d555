// Weights that change between two uses: what a device keeps of them (copies in 16 bits, packed weights) follows their content.
import { describe, expect, test } from 'vitest';
import { elements } from '../../lib/checks.js';
import { type DType, ops, scope, Tensor } from '../../lib/index.js';
import type { ExpandWeights } from '../../lib/ops/expand.js';
import { device, timeout } from '../helpers/parity.js';
import { normal } from '../helpers/random.js';

type Weights = Readonly<Record<string, Tensor>>;
interface Use {
  readonly name: string;
  /** Shapes of the weights, by name. */
  readonly shapes: Readonly<Record<string, readonly number[]>>;
  /** What depends on them. */
  run(weights: Weights, dtype: DType): Tensor[];
}

const filled = (shape: readonly number[], seed: number, dtype: DType = 'f32') =>
  Tensor.from(normal(shape, seed, 0.5), shape, { dtype, device });

const linear = (inputs: number, outputs: number): Use => ({
  name: `linear ${inputs} -> ${outputs}`,
  shapes: { weight: [outputs, inputs], bias: [outputs] },
  run({ weight, bias }, dtype) {
    const [x, gradOutput] = [filled([3, inputs], 1, dtype), filled([3, outputs], 2, dtype)];
    return [ops.linear(x, weight, bias), ops.linearBackward(gradOutput, x, weight).gradX];
  },
});

function expansion(name: string, sizes: { H: number; D: number; Hs: number; Ds?: number }): Use {
  const { H, D, Hs, Ds } = sizes;
  const heads = { headWeight: [Hs, H, 3], headBias: [Hs], headResidualWeight: [Hs, Hs, 3], headResidualBias: [Hs] };
  const features = Ds && {
    ...{ featureWeight: [Ds, D], featureBias: [Ds] },
    ...{ featureResidualWeight: [Ds, Ds], featureResidualBias: [Ds] },
  };
  return {
    name,
    shapes: { ...heads, ...features },
    run(weights, dtype) {
      const [x, gradOutput] = [filled([1, 3, H, D], 1, dtype), filled([1, 3, Hs, Ds ?? D], 2, dtype)];
      const all = weights as unknown as ExpandWeights;
      return [ops.expand(x, all), ops.expandBackward(gradOutput, x, all).gradX];
    },
  };
}

const uses = [
  linear(8, 12),
  linear(70, 61), // more than one chunk of AdamW, none of whole groups of four
  expansion('expand', { H: 2, D: 4, Hs: 8, Ds: 6 }),
  expansion('expand of few heads', { H: 2, D: 4, Hs: 4, Ds: 6 }),
  expansion('expand without features', { H: 4, D: 8, Hs: 8 }),
];
const dtypes = ['bf16', 'f16', 'f32'] as const;

const bitsOf = (tensors: readonly Tensor[]) =>
  Promise.all(
    tensors.map(async (tensor) => {
      const data = await tensor.data();
      tensor.dispose();
      return [...data];
    }),
  );
const draw = ({ shapes }: Use, seed: number): Weights =>
  Object.fromEntries(Object.entries(shapes).map(([name, shape], i) => [name, filled(shape, seed + i)]));
const constant = (shape: readonly number[], value = 0) =>
  Tensor.from(new Float32Array(elements(shape)).fill(value), shape, { device });

/** What the use gives with tensors of the same values that nothing has been made of. */
async function anew(use: Use, weights: Weights, dtype: DType): Promise<number[][]> {
  const copies: [string, Tensor][] = [];
  for (const [name, tensor] of Object.entries(weights)) {
    copies.push([name, Tensor.from(await tensor.data(), tensor.shape, { device })]);
  }
  const result = await bitsOf(use.run(Object.fromEntries(copies), dtype));
  for (const [, tensor] of copies) tensor.dispose();
  return result;
}

const stateOf = (parameter: Tensor, gradient?: Tensor) => ({
  parameter,
  gradient: gradient ?? constant(parameter.shape, 0.25),
  firstMoment: constant(parameter.shape),
  secondMoment: constant(parameter.shape),
});

/** Of any shape; its op fails on the device. */
function failing(shape: readonly number[]): Tensor {
  const size = elements(shape);
  const token = Tensor.from([1], [1, 1], { dtype: 'i32' });
  return ops.embeddingBackward(constant([1, 1, size]), token, { vocabulary: 1 }).gradTokenTable.reshape(shape);
}

describe.each(uses.map((use) => [use.name, use] as const))('%s', (_, use) => {
  describe.each(dtypes)('%s', { timeout }, (dtype) => {
    /** Used, changed, used again without a wait in between: as if the weights had been new. */
    const follows = async (weights: Weights, change: () => void) => {
      const before = use.run(weights, dtype);
      change();
      const after = use.run(weights, dtype);
      const result = await bitsOf(after);
      expect(result).not.toEqual(await bitsOf(before));
      expect(result).toEqual(await anew(use, weights, dtype));
    };

    test('copyFrom, of one weight after the other', async () => {
      const weights = draw(use, 10);
      for (const [name, tensor] of Object.entries(weights)) {
        await follows(weights, () => tensor.copyFrom(normal(tensor.shape, name.length, 2)));
      }
    });

    test('adamW on all of them, step after step', async () => {
      const weights = draw(use, 20);
      const states = Object.values(weights).map((weight) => stateOf(weight));
      for (let step = 1; step <= 3; step++) await follows(weights, () => ops.adamW(states, { lr: 0.1, step }));
    });

    test('adamW on some of them', async () => {
      const weights = draw(use, 30);
      for (const weight of Object.values(weights)) {
        await follows(weights, () => ops.adamW([stateOf(weight)], { lr: 0.1, step: 1 }));
      }
    });

    test('clipGradNorm', async () => {
      const weights = draw(use, 40);
      await follows(weights, () => ops.clipGradNorm(Object.values(weights), 0.5));
    });

    test('other dtypes in turn', async () => {
      const weights = draw(use, 50);
      const states = Object.values(weights).map((weight) => stateOf(weight));
      for (let step = 1; step <= 2; step++) {
        ops.adamW(states, { lr: 0.1, step });
        const results = dtypes.map((other) => [other, use.run(weights, other)] as const);
        for (const [other, tensors] of results) {
          expect(await bitsOf(tensors)).toEqual(await anew(use, weights, other));
        }
      }
    });

    test('disposed, and their memory another weight', async () => {
      for (let i = 0; i < 4; i++) {
        const weights = draw(use, 60 + 10 * i);
        expect(await bitsOf(use.run(weights, dtype))).toEqual(await anew(use, weights, dtype));
        for (const weight of Object.values(weights)) weight.dispose();
      }
    });

    test('made by an op', async () => {
      for (let i = 0; i < 3; i++) {
        const weights = scope(() => {
          const terms = [draw(use, 100 + i), draw(use, 110)] as const;
          return Object.fromEntries(Object.entries(terms[0]).map(([name, a]) => [name, ops.add(a, terms[1][name])]));
        });
        expect(await bitsOf(use.run(weights, dtype))).toEqual(await anew(use, weights, dtype));
        for (const weight of Object.values(weights)) weight.dispose();
      }
    });

    test('trim', async () => {
      const weights = draw(use, 120);
      const before = await bitsOf(use.run(weights, dtype));
      await device.trim();
      expect(await bitsOf(use.run(weights, dtype))).toEqual(before);
    });

    test.each([
      ['as they were used', false],
      ['new since they were used', true],
    ])('adamW that a failed check stops, weights %s', async (_, change) => {
      const weights = draw(use, 130);
      await bitsOf(use.run(weights, dtype));
      if (change) for (const weight of Object.values(weights)) weight.copyFrom(normal(weight.shape, 7, 2));
      const expected = await anew(use, weights, dtype);
      const states = Object.values(weights).map((weight) => stateOf(weight, failing(weight.shape)));
      ops.adamW(states, { lr: 0.1, step: 1 });
      const after = use.run(weights, dtype);
      await expect(device.synchronize()).rejects.toThrow(/^embeddingBackward: /);
      expect(await bitsOf(after)).toEqual(expected);
      ops.adamW(
        Object.values(weights).map((weight) => stateOf(weight)),
        { lr: 0.1, step: 1 },
      );
      const next = await bitsOf(use.run(weights, dtype));
      expect(next).not.toEqual(expected);
      expect(next).toEqual(await anew(use, weights, dtype));
    });

    test.each([false, true])('adamW that skips an infinite gradient, weights new: %s', async (change) => {
      const weights = draw(use, 140);
      await bitsOf(use.run(weights, dtype));
      if (change) for (const weight of Object.values(weights)) weight.copyFrom(normal(weight.shape, 8, 2));
      const expected = await anew(use, weights, dtype);
      const skipped = Tensor.from([0], [], { dtype: 'i32', device });
      const states = Object.values(weights).map((weight) => stateOf(weight, constant(weight.shape, Infinity)));
      ops.adamW(states, { lr: 0.1, step: 1, skipped });
      expect(await bitsOf(use.run(weights, dtype))).toEqual(expected);
      expect(await skipped.data()).toEqual(Int32Array.of(1));
    });
  });
});

/** On CUDA, where something is kept. */
test.skipIf(device.info.kind !== 'cuda')(
  'what is kept is reserved memory, and goes with trim',
  { timeout },
  async () => {
    const SIZE = 1 << 20;
    await device.trim();
    const weight = constant([SIZE / 64, 64], 1);
    const x = filled([1, 64], 1, 'bf16');
    await device.synchronize();
    const before = device.memory().reserved;
    ops.linear(x, weight).dispose();
    await device.synchronize();
    expect(device.memory().reserved - before).toBeGreaterThanOrEqual(2 * SIZE);
    const kept = device.memory().reserved;
    for (let i = 0; i < 3; i++) {
      weight.copyFrom(new Float32Array(SIZE).fill(i));
      ops.linear(x, weight).dispose();
    }
    await device.synchronize();
    expect(device.memory().reserved).toBe(kept);
    await device.trim();
    expect(kept - device.memory().reserved).toBeGreaterThanOrEqual(2 * SIZE);
  },
);
