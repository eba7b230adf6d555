// Work that fails on the device: who learns of it and when, and what it leaves alone. Values are checked at once on the CPU, with the
// next wait on CUDA.
import { createHash } from 'node:crypto';
import { describe, expect, it, test } from 'vitest';
import { getDevice, ops, SasError, Tensor } from '../../lib/index.js';
import { f32, values } from '../api/helpers.js';
import type { Named } from '../helpers/op.js';
import { opTable } from '../helpers/op_table.js';
import { device, timeout } from '../helpers/parity.js';

/** A tensor of that size whose op fails, as a CUDA device learns with the next wait only. */
const failing = (shape: readonly number[]): Tensor => {
  const width = shape.reduce((product, size) => product * size, 1);
  const gradOutput = Tensor.from(new Float32Array(width), [1, 1, width]);
  const token = Tensor.from([1], [1, 1], { dtype: 'i32' });
  return ops.embeddingBackward(gradOutput, token, { vocabulary: 1 }).gradTokenTable.reshape(shape);
};
const failure = /^embeddingBackward: token 1 at position 0 is outside the vocabulary of 1$/;

describe('work that fails on the device', () => {
  test('rejects the next wait on what depends on it, with the name of the op', async () => {
    const table = f32(4, 2);
    const wrong = ops.embedding(Tensor.from([0, 4], [1, 2], { dtype: 'i32' }), table);
    const dependent = ops.gelu(wrong);
    const independent = ops.gelu(table);
    // The last first: all have run before the device tells of the failure.
    expect(await values(independent)).toEqual(new Array(8).fill(0));
    await expect(wrong.data()).rejects.toThrow(/^embedding: /);
    await expect(dependent.data()).rejects.toThrow(/^embedding: /);
    await expect(dependent.reshape([4]).raw()).rejects.toBeInstanceOf(SasError);
    await expect(table.device.synchronize()).rejects.toThrow(/^embedding: /);
    await expect(table.device.synchronize()).resolves.toBeUndefined();
  });

  test.each([-1, 4, 2 ** 31 - 1])('token %i outside of the vocabulary', async (token) => {
    const tokens = Tensor.from([token], [1, 1], { dtype: 'i32' });
    await expect(ops.embedding(tokens, f32(4, 2)).data()).rejects.toThrow(/^embedding: /);
    const { gradTokenTable } = ops.embeddingBackward(f32(1, 1, 2), tokens, { vocabulary: 4 });
    await expect(gradTokenTable.data()).rejects.toThrow(/^embeddingBackward: /);
    await expect(getDevice().synchronize()).rejects.toThrow();
  });

  test.each([-1, 3])('target %i outside of the classes', async (target) => {
    const targets = Tensor.from([target], [1], { dtype: 'i32' });
    await expect(ops.crossEntropy(f32(1, 3), targets).loss.data()).rejects.toThrow(/^crossEntropy: /);
    await expect(getDevice().synchronize()).rejects.toThrow();
  });

  test('a failure that nobody waits for is not an unhandled rejection', async () => {
    ops.embedding(Tensor.from([9], [1, 1], { dtype: 'i32' }), f32(4, 2)).dispose();
    await new Promise((resolve) => setTimeout(resolve, 20));
    await expect(getDevice().synchronize()).rejects.toThrow(/^embedding: /);
  });

  test('among many that nobody has waited for, exactly what depends on it fails', async () => {
    const table = f32(4, 2);
    const outputs = Array.from({ length: 600 }, (_, i) =>
      ops.embedding(Tensor.from([i % 250 === 249 ? -i : 0], [1, 1], { dtype: 'i32' }), table),
    );
    const sums = outputs.slice(1).map((output, i) => ops.add(output, outputs[i] as Tensor));
    const results = await Promise.allSettled(sums.map((sum) => sum.data()));
    const failed = results.flatMap((result, i) =>
      result.status === 'rejected' ? [`${i + 1} ${result.reason.message}`] : [],
    );
    const problem = (i: number) => `embedding: token -${i} at position 0 is outside the vocabulary of 4`;
    expect(failed).toEqual([249, 499].flatMap((i) => [`${i} ${problem(i)}`, `${i + 1} ${problem(i)}`]));
    await expect(getDevice().synchronize()).rejects.toThrow(problem(249));
  });

  test('writing new content heals a tensor', async () => {
    const wrong = ops.embedding(Tensor.from([9], [1, 1], { dtype: 'i32' }), f32(4, 2));
    await expect(wrong.data()).rejects.toThrow(/^embedding: /);
    wrong.copyFrom([1, 2]);
    expect(await values(wrong)).toEqual([1, 2]);
    await expect(getDevice().synchronize()).rejects.toThrow();
  });
});

const hashOf = (data: Float32Array | Int32Array): string => createHash('sha1').update(data).digest('hex');

/** The op's operands as its first random case has them, and what calls it. */
const inPlace = opTable.filter((op) => op.inPlace);

describe.each(inPlace.map((op) => [op.name, op] as const))('%s, in place', (_, op) => {
  const [item] = op.repeated;
  const operandsOf = (): Named<Tensor> =>
    Object.fromEntries(
      Object.entries(item.inputs).map(([name, input], i) => [name, Tensor.from(input.values(i + 1), input.shape)]),
    );
  const call = (x: Named<Tensor>): unknown =>
    (op.forward.call as (...args: unknown[]) => unknown)(...op.forward.args(x, item.options, {}));
  const contents = (x: Named<Tensor>) =>
    Promise.all(Object.entries(x).map(async ([name, tensor]) => `${name}: ${hashOf(await tensor.data())}`));
  const names = Object.keys(item.inputs);

  for (const [moment, wait] of [
    ['not known yet', false],
    ['known', true],
  ] as const) {
    it.each(names)(`changes nothing if %s failed, which is ${moment}`, { timeout }, async (name) => {
      const x = operandsOf();
      const before = await contents(x);
      const bad = failing(x[name].shape);
      if (wait) await expect(device.synchronize()).rejects.toThrow(failure);
      const output = call({ ...x, [name]: bad });
      call({ ...x, [name]: bad });
      if (output instanceof Tensor) await expect(output.data()).rejects.toThrow(failure);
      await expect(device.synchronize()).rejects.toThrow(failure);
      await expect(device.synchronize()).resolves.toBeUndefined();
      expect(await contents(x)).toEqual(before);
      call(x); // and goes on
      expect(await contents(x)).not.toEqual(before);
      await device.synchronize();
    });
  }
});

describe('a training step with a bad token', () => {
  test.each([false, true])(
    'leaves parameters and moments as they are, with clipping %s',
    { timeout },
    async (clips) => {
      const state = { parameter: f32(4, 3), firstMoment: f32(4, 3), secondMoment: f32(4, 3) };
      const step = (token: number) => {
        const tokens = Tensor.from([token, 1], [1, 2], { dtype: 'i32' });
        const x = ops.embedding(tokens, state.parameter);
        const targets = Tensor.from([0, 2], [1, 2], { dtype: 'i32' });
        const { loss, logSumExp } = ops.crossEntropy(x, targets);
        const gradLogits = ops.crossEntropyBackward(Tensor.from([1], []), { logits: x, targets, logSumExp });
        const gradient = ops.embeddingBackward(gradLogits, tokens, { vocabulary: 4 }).gradTokenTable;
        const norm = clips ? ops.clipGradNorm([gradient], 0.1) : undefined;
        ops.adamW([{ ...state, gradient }], { lr: 0.1, step: 1 });
        return { loss, norm };
      };
      const all = () => Promise.all([state.parameter, state.firstMoment, state.secondMoment].map((x) => x.data()));
      const before = await all();
      const bad = step(4);
      await expect(bad.loss.data()).rejects.toThrow('embedding: token 4');
      if (bad.norm) await expect(bad.norm.data()).rejects.toThrow('embedding: token 4');
      await expect(device.synchronize()).rejects.toThrow('embedding: token 4');
      expect(await all()).toEqual(before);
      step(4); // nobody waits for this one
      const good = step(2);
      await good.loss.data();
      await expect(device.synchronize()).rejects.toThrow('embedding: token 4');
      const after = await all();
      expect(after).not.toEqual(before);
      expect(after.flatMap((array) => [...array]).every(Number.isFinite)).toBe(true);
    },
  );
});

describe('adamW with `skipped`', () => {
  const sizes = [3, 70001];
  const statesWith = (at: readonly [tensor: number, place: number] | null, value: number) =>
    sizes.map((size, i) => {
      const gradient = new Float32Array(size).fill(0.5);
      if (at && at[0] === i) gradient[at[1]] = value;
      const of = (array: Float32Array) => Tensor.from(array, [size]);
      const zeros = () => of(new Float32Array(size));
      return { parameter: zeros(), gradient: of(gradient), firstMoment: zeros(), secondMoment: zeros() };
    });
  const options = { lr: 0.1, step: 1 };

  it.each([Number.NaN, Infinity, -Infinity])('a gradient that is %d', { timeout }, async (value) => {
    for (const at of [
      [0, 0],
      [0, 2],
      [1, 0],
      [1, 40003],
      [1, 70000],
    ] as const) {
      const states = statesWith(at, value);
      const skipped = Tensor.from([5], [], { dtype: 'i32' });
      ops.adamW(states, { ...options, skipped });
      expect([...(await skipped.data())]).toEqual([6]);
      for (const { parameter, firstMoment, secondMoment } of states) {
        for (const tensor of [parameter, firstMoment, secondMoment]) {
          expect((await tensor.data()).every((element) => element === 0)).toBe(true);
        }
      }
    }
  });

  it('finite gradients: the same step as without, and no count', { timeout }, async () => {
    const [states, others] = [statesWith([1, 7], 3e38), statesWith([1, 7], 3e38)];
    const skipped = Tensor.from([0], [], { dtype: 'i32' });
    ops.adamW(states, { ...options, skipped });
    ops.adamW(others, options);
    expect([...(await skipped.data())]).toEqual([0]);
    for (const [i, { parameter }] of states.entries()) {
      expect(await parameter.data()).toEqual(await others[i].parameter.data());
    }
  });

  it('a gradient whose op failed is not counted', { timeout }, async () => {
    const [state] = statesWith(null, 0);
    const skipped = Tensor.from([0], [], { dtype: 'i32' });
    ops.adamW([{ ...state, gradient: failing([3]) }], { ...options, skipped });
    await expect(device.synchronize()).rejects.toThrow(failure);
    expect([...(await skipped.data())]).toEqual([0]);
  });
});
