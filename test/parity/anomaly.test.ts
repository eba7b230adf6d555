/** SAS_ANOMALY=1: the first op whose result is not finite is named at the next wait. */
import { describe, expect, it } from 'vitest';

process.env.SAS_ANOMALY = '1'; // before the device is opened
const { AnomalyError, getDevice, ops, Tensor } = await import('../../lib/index.js');

const device = getDevice();
const tensor = (values: readonly number[], shape: readonly number[] = [values.length], dtype: 'f32' | 'f16' = 'f32') =>
  Tensor.from(values, shape).to({ dtype });

describe('SAS_ANOMALY=1', () => {
  it('the first op is named, not those that the value spreads to; others are sound', async () => {
    const large = tensor([1, 2, 3e38, 3e38], [2, 2]);
    const sum = ops.add(large, large);
    const message = 'add: its result of shape [2, 2] has Infinity at [1, 0]';
    const error = await ops
      .gelu(sum)
      .data()
      .catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(AnomalyError);
    expect(error).toMatchObject({ code: 'SAS_ANOMALY', message });
    await expect(ops.gelu(large).data()).resolves.toHaveLength(4);
    await expect(device.synchronize()).rejects.toThrow(message);
    await expect(device.synchronize()).resolves.toBeUndefined();
  });

  it('70,000 in f16', async () => {
    const sum = ops.add(tensor([1, 60000], [2], 'f16'), tensor([1, 10000], [2], 'f16'));
    await expect(sum.raw()).rejects.toThrow('add: its result of shape [2] has Infinity at [1]');
    await expect(device.synchronize()).rejects.toThrow();
  });

  it('far inside a large result', async () => {
    const values = new Float32Array(3 * 2 ** 20 + 7).fill(1);
    values[2 ** 21 + 5] = Number.NaN;
    const x = Tensor.from(values, [values.length]);
    await expect(ops.gelu(x).data()).rejects.toThrow(
      `gelu: its result of shape [${values.length}] has NaN at [2097157]`,
    );
    await expect(device.synchronize()).rejects.toThrow();
  });

  it("what the caller brings is the caller's; the op that meets it is named", async () => {
    const infinite = tensor([1, Number.NEGATIVE_INFINITY]);
    expect([...(await infinite.data())]).toEqual([1, Number.NEGATIVE_INFINITY]);
    const sum = ops.add(infinite, tensor([1, 1]));
    await expect(sum.data()).rejects.toThrow('add: its result of shape [2] has -Infinity at [1]');
    await expect(device.synchronize()).rejects.toThrow();
  });

  it('in place', async () => {
    const parameter = tensor([1, 2]);
    const [firstMoment, secondMoment] = [Tensor.zeros([2]), Tensor.zeros([2])];
    const gradient = tensor([1, Number.NaN]);
    ops.adamW([{ parameter, gradient, firstMoment, secondMoment }], { lr: 0.1, step: 1 });
    await expect(device.synchronize()).rejects.toThrow('adamW: its result of shape [2] has NaN at [1]');
    parameter.copyFrom([1, 2]);
    expect([...(await parameter.data())]).toEqual([1, 2]);
  });

  it('a query that sees no key has a logSumExp of -Infinity', async () => {
    const q = Tensor.randn([1, 3, 1, 2], { seed: 1 });
    const [k, v] = [Tensor.randn([1, 2, 1, 2], { seed: 2 }), Tensor.randn([1, 2, 1, 2], { seed: 3 })];
    const { output, logSumExp } = ops.attention(q, k, v, { causal: true });
    expect((await output.data()).slice(0, 2)).toEqual(new Float32Array(2));
    expect((await logSumExp.data())[0]).toBe(Number.NEGATIVE_INFINITY);
    await expect(device.synchronize()).resolves.toBeUndefined();
  });

  it('a bad token is no anomaly, whatever it leaves', async () => {
    const outside = ops.embedding(Tensor.from([9], [1, 1], { dtype: 'i32' }), tensor([1, 2, 3, 4], [2, 2]));
    const message = 'embedding: token 9 at position 0 is outside the vocabulary of 2';
    await expect(outside.data()).rejects.toThrow(message);
    await expect(device.synchronize()).rejects.toThrow(message);
  });
});
