// Tensor.dataSync: what data() gives, waited for on this thread.
import { describe, expect, test } from 'vitest';
import { DisposedError, ops, SasError, Tensor } from '../../lib/index.js';

describe('Tensor.dataSync', () => {
  test.each(['f32', 'bf16', 'f16', 'i32'] as const)('gives what data() gives: %s', async (dtype) => {
    const tensor = Tensor.from([1, -2, 0, 300, 5], [5], { dtype });
    const values = tensor.dataSync();
    expect(values).toEqual(await tensor.data());
    expect([...values]).toEqual([1, -2, 0, 300, 5]);
    expect(tensor.dataSync()).not.toBe(values);
  });

  test('waits for the work that the tensor depends on', () => {
    const size = 1 << 16;
    let sum = Tensor.zeros([size]);
    const one = Tensor.from(new Float32Array(size).fill(1), [size]);
    for (let i = 0; i < 50; i++) sum = ops.add(sum, one); // queued: larger than what runs at once
    expect(sum.dataSync().every((value) => value === 50)).toBe(true);
  });

  test.each(['f32', 'bf16'] as const)('throws where data() rejects: %s', async (dtype) => {
    const tokens = Tensor.from([0, 4], [1, 2], { dtype: 'i32' });
    const wrong = ops.embedding(tokens, Tensor.zeros([4, 2]), undefined, { dtype });
    const dependent = ops.gelu(wrong);
    expect(() => dependent.dataSync()).toThrow(SasError);
    expect(() => dependent.dataSync()).toThrow(/^embedding: /);
    await expect(dependent.data()).rejects.toThrow(/^embedding: /);
    wrong.dispose();
    expect(() => wrong.dataSync()).toThrow(new DisposedError('Tensor.dataSync: this has been disposed'));
  });
});
