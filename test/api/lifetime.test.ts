import { describe, expect, test } from 'vitest';
import { ArgumentError, DisposedError, ops, SasAttention, scope, Tensor } from '../../lib/index.js';
import { expectRefusal, f32, type Refusal, small, values } from './helpers.js';

const disposed = (...shape: number[]): Tensor => {
  const tensor = f32(...shape);
  tensor.dispose();
  return tensor;
};

describe('dispose', () => {
  test('may be called twice', () => {
    const t = f32(2);
    t.dispose();
    t.dispose();
    t[Symbol.dispose]();
    expect(t.disposed).toBe(true);
    expect(t.shape).toEqual([2]);
  });

  test.each<Refusal>([
    ['add: b has been disposed', DisposedError, () => ops.add(f32(2), disposed(2))],
    ['linear: bias has been disposed', DisposedError, () => ops.linear(f32(2, 3), f32(4, 3), disposed(4))],
    ['Tensor.reshape: this has been disposed', DisposedError, () => disposed(2).reshape([1, 2])],
    ['Tensor.to: this has been disposed', DisposedError, () => disposed(2).to({ dtype: 'bf16' })],
    ['Tensor.copyFrom: this has been disposed', DisposedError, () => disposed(2).copyFrom([1, 2])],
    ['clipGradNorm: gradients[1] has been disposed', DisposedError, () => ops.clipGradNorm([f32(2), disposed(2)], 1)],
  ])('use after it is an error: %s', (...refusal) => expectRefusal(refusal));

  test('reading after it rejects', async () => {
    await expect(disposed(2).data()).rejects.toThrow(new DisposedError('Tensor.data: this has been disposed'));
    await expect(disposed(2).raw()).rejects.toThrow('Tensor.raw: this has been disposed');
  });

  test('a view outlives its base, and the other way round', async () => {
    const base = Tensor.from([1, 2, 3, 4], [4]);
    const view = base.reshape([2, 2]);
    base.dispose();
    expect(await values(view)).toEqual([1, 2, 3, 4]);
    const second = view.reshape([4]);
    view.dispose();
    expect(await values(second)).toEqual([1, 2, 3, 4]);
  });

  test('ops that are queued finish on the memory they were given', async () => {
    const size = 1 << 20;
    const others = new Float32Array(size).fill(-1); // made now, so that nothing takes time later
    const ones = Tensor.from(new Float32Array(size).fill(1), [size]);
    let sum = ones.reshape([size]);
    for (let i = 0; i < 60; i++) {
      const next = ops.add(sum, ones);
      sum.dispose();
      sum = next;
    }
    ones.dispose();
    const pending = sum.data();
    sum.dispose();
    // Memory that is free by now, overwritten at once if anything is.
    const other = Tensor.from(others, [size]);
    expect((await pending).every((value) => value === 61)).toBe(true);
    other.dispose();
  });
});

describe('scope', () => {
  test('disposes what is not returned', () => {
    const kept: Tensor[] = [];
    const made: Tensor[] = [];
    const result = scope(() => {
      for (let i = 0; i < 8; i++) made.push(f32(1));
      kept.push(...made.slice(0, 7));
      const [a, b, c, d, e, f, g] = kept as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor];
      return [
        a,
        { b, deep: [{ c }] },
        new Map<unknown, unknown>([
          ['d', d],
          [e, 1],
        ]),
        new Set([f]),
        { g, none: null },
      ];
    });
    expect(result).toHaveLength(5);
    expect(made.map((t) => t.disposed)).toEqual([...kept.map(() => false), true]);
    for (const t of kept) t.dispose();
  });

  test('does not look into instances of other classes', () => {
    class Holder {
      constructor(readonly tensor: Tensor) {}
    }
    expect(scope(() => new Holder(f32(1))).tensor.disposed).toBe(true);
  });

  test('survives results that refer to themselves', () => {
    const loop = scope(() => {
      const node: { tensor: Tensor; self?: unknown } = { tensor: f32(1) };
      node.self = node;
      return node;
    });
    expect(loop.tensor.disposed).toBe(false);
  });

  test('leaves tensors from outside alone', () => {
    const outside = f32(1);
    scope(() => ops.add(outside, outside));
    expect(outside.disposed).toBe(false);
  });

  test('what an inner scope returns belongs to the outer one', () => {
    let inner: Tensor | undefined;
    const outer = scope(() => {
      const [a, b] = scope(() => [f32(1), f32(1)] as const);
      inner = a;
      return b;
    });
    expect(inner?.disposed).toBe(true);
    expect(outer.disposed).toBe(false);
  });

  test('disposes everything when the body throws', () => {
    let made: Tensor | undefined;
    expect(() =>
      scope(() => {
        made = scope(() => f32(1));
        throw new Error('mine');
      }),
    ).toThrow('mine');
    expect(made?.disposed).toBe(true);
  });

  test('refuses a body that returns a promise, and disposes what it made', async () => {
    let made: Tensor | undefined;
    expectRefusal([
      'scope: the body returned a promise, expected a synchronous body (a scope ends when its body returns: ' +
        'return the tensors, and await outside of the scope)',
      ArgumentError,
      () =>
        scope(async () => {
          made = f32(1);
          await null;
          return made.reshape([1, 1]);
        }),
    ]);
    expect(made?.disposed).toBe(true);
    await new Promise(setImmediate);
  });

  test('keeps the parameters of a module made inside, and a saved forward that is returned', () => {
    let lost: Tensor | undefined;
    const { module, saved, output } = scope(() => {
      const module = new SasAttention(small);
      const x = f32(1, 3, 2, 4);
      lost = x;
      return { module, ...module.forward(x, x, x) };
    });
    expect(lost?.disposed).toBe(true);
    expect([saved.disposed, output.disposed]).toEqual([false, false]);
    const { gradParameters } = module.backward(output, saved);
    expect(gradParameters.size).toBe(module.parameters.size);
    expect(scope(() => [module.forward(f32(1, 3, 2, 4), f32(1, 3, 2, 4), f32(1, 3, 2, 4)).saved])[0]?.disposed).toBe(
      false,
    );
    let dropped: { disposed: boolean } | undefined;
    scope(() => {
      const x = f32(1, 3, 2, 4);
      dropped = module.forward(x, x, x).saved;
    });
    expect(dropped?.disposed).toBe(true);
    module.dispose();
  });
});
