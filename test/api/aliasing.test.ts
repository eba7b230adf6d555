/** Operands that share memory: refused by every op that writes in place, wherever they meet. */
import { describe, expect, it } from 'vitest';
import { ArgumentError, ops, Tensor } from '../../lib/index.js';
import type { Named } from '../helpers/op.js';
import { opTable } from '../helpers/op_table.js';
import { f32, thrownBy, values } from './helpers.js';

/** Two tensors over one memory, each of its own shape and both as long as the shorter. */
const sharing: Named<(size: number) => readonly [Tensor, Tensor]> = {
  'the same tensor': (size) => {
    const tensor = f32(size);
    return [tensor, tensor];
  },
  views: (size) => {
    const tensor = f32(size);
    return [tensor.reshape([size]), tensor.reshape([1, size]).reshape([size])];
  },
  'the outputs of addBackward': (size) => {
    const { gradA, gradB } = ops.addBackward(f32(size));
    return [gradA, gradB];
  },
  'wrapped arrays that overlap by one element': (size) => {
    const array = new Float32Array(2 * size - 1);
    return [Tensor.wrap(array.subarray(size - 1), [size]), Tensor.wrap(array.subarray(0, size), [size])];
  },
  'one wrapped array inside another': (size) => {
    const array = new Float32Array(size);
    return [Tensor.wrap(array, [size]), Tensor.wrap(array.subarray(0, size), [size])];
  },
};

describe.each(opTable.filter((op) => op.inPlace).map((op) => [op.name, op] as const))('%s', (_, op) => {
  const size = 5;
  const [item] = op.repeated;
  const names = Object.keys(item.inputs);
  const call = (x: Named<Tensor>): unknown =>
    (op.forward.call as (...args: unknown[]) => unknown)(...op.forward.args(x, item.options, {}));
  const distinct = (): Named<Tensor> =>
    Object.fromEntries(names.map((name, i) => [name, Tensor.from(new Float32Array(size).fill((i + 1) / 8), [size])]));

  /** Which operands the op changes. */
  async function findWritten(): Promise<Set<string>> {
    const x = distinct();
    call(x);
    const changed = new Set<string>();
    for (const [i, name] of names.entries()) {
      if ((await values(x[name])).some((value) => value !== (i + 1) / 8)) changed.add(name);
    }
    return changed;
  }

  it.each(Object.keys(sharing))('refuses %s, if one of the two is written', async (how) => {
    const written = await findWritten();
    expect(written.size).toBeGreaterThan(0);
    for (const a of names) {
      for (const b of names) {
        if (a === b) continue;
        const [first, second] = (sharing[how] as (typeof sharing)[string])(size);
        const x = { ...distinct(), [a]: first, [b]: second };
        if (!written.has(a) && !written.has(b)) {
          call(x);
          continue;
        }
        const before = await Promise.all(names.map((name) => values(x[name])));
        const error = thrownBy(() => call(x));
        expect(error).toBeInstanceOf(ArgumentError);
        expect(error.message).toMatch(new RegExp(`^${op.name}: \\S+ and \\S+ share memory, and \\S+ is written$`));
        expect(await Promise.all(names.map((name) => values(x[name])))).toEqual(before);
      }
    }
  });
});

it('the message names the two as the caller does', () => {
  const state = () => ({ parameter: f32(2), gradient: f32(2), firstMoment: f32(2), secondMoment: f32(2) });
  const [a, b] = [state(), state()];
  expect(thrownBy(() => ops.adamW([a, { ...b, gradient: a.firstMoment }], { lr: 1, step: 1 })).message).toBe(
    'adamW: states[0].firstMoment and states[1].gradient share memory, and states[0].firstMoment is written',
  );
  expect(thrownBy(() => ops.clipGradNorm([a.gradient, b.gradient, a.gradient], 1)).message).toBe(
    'clipGradNorm: gradients[0] and gradients[2] share memory, and gradients[2] is written',
  );
  const skipped = Tensor.from([0], [], { dtype: 'i32' });
  ops.adamW([a, b], { lr: 1, step: 1, skipped });
});

it('neighbours in one array are no neighbours too many', async () => {
  const array = new Float32Array(5).fill(2);
  ops.clipGradNorm([Tensor.wrap(array.subarray(2), [3]), Tensor.wrap(array.subarray(0, 2), [2])], 1);
  await Tensor.from([0], [1]).device.synchronize();
  expect(Math.hypot(...array)).toBeCloseTo(1, 5);
});

it('a short operand does not hide a long one that begins before it', () => {
  const array = new Float32Array(8);
  const part = (begin: number, end: number) => Tensor.wrap(array.subarray(begin, end), [end - begin]);
  const moments = (size: number) => ({ firstMoment: f32(size), secondMoment: f32(size) });
  // Gradients are only read and may overlap; the second parameter lies in the first gradient, behind the second one.
  const states = [
    { parameter: f32(8), gradient: part(0, 8), ...moments(8) },
    { parameter: part(4, 6), gradient: part(1, 3), ...moments(2) },
  ];
  expect(thrownBy(() => ops.adamW(states, { lr: 1, step: 1 })).message).toBe(
    'adamW: states[0].gradient and states[1].parameter share memory, and states[1].parameter is written',
  );
});
