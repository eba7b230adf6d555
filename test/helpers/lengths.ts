/** Loops whose tensors have another size in every step: what a cache of memory by size would hoard for. */
import { type Device, ops, scope, Tensor } from '../../lib/index.js';
import { Draw } from './draw.js';

/** Shapes, step by step: of batches of sequences of a width. */
export const loops = {
  /** T = 1 to 3000. */
  rising: (steps: number) => (step: number) => [1, 1 + Math.floor((step * 3000) / steps), 384],
  /** 8 to 257 tokens. */
  random: () => {
    const draw = new Draw(1);
    return () => [64, 8 + draw.below(250), 80];
  },
  /** The same, smaller: for many steps. */
  small: () => {
    const draw = new Draw(2);
    return () => [4, 8 + draw.below(250), 80];
  },
} as const;

/** Five small ops, and a wait. */
export function chain(device: Device): (shape: readonly number[]) => Promise<unknown> {
  return async (shape) => {
    const weight = Tensor.zeros([shape.at(-1) ?? 0], { device });
    const last = scope(() => {
      const x = Tensor.zeros(shape, { device });
      const normed = ops.layerNorm(x, weight, weight).output;
      const sum = ops.add(ops.gelu(normed), x);
      return ops.rmsNorm(sum, weight).output;
    });
    weight.dispose();
    await last.data();
    last.dispose();
  };
}

/** As much memory as those take, but next to no work: for a device that takes seconds for an op on a million elements. */
export function copies(device: Device): (shape: readonly number[]) => Promise<unknown> {
  return async (shape) => {
    const array = new Float32Array(shape.reduce((product, size) => product * size, 1));
    scope(() => {
      for (let i = 0; i < 5; i++) Tensor.from(array, shape, { device });
    });
    const one = Tensor.from([1], [1], { device });
    await one.data();
    one.dispose();
  };
}

/** The peak of live memory, and the most that was reserved after any step, in bytes. */
export async function follow(
  device: Device,
  steps: number,
  shapeOf: (step: number) => readonly number[],
  run: (shape: readonly number[]) => Promise<unknown>,
): Promise<{ peak: number; reserved: number }> {
  let reserved = 0;
  for (let step = 0; step < steps; step++) {
    await run(shapeOf(step));
    reserved = Math.max(reserved, device.memory().reserved);
  }
  return { peak: device.memory().peak, reserved };
}
