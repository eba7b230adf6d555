/** Right calls of `concat` and `tensorProduct` and their backward twins: of the binding, and of the library. */
import { type BufferHandle, binding } from '../../lib/binding.js';
import { ops } from '../../lib/index.js';
import * as reference from '../reference/index.js';
import type { Generator, Workshop } from './binding_operands.js';
import type { Draw } from './draw.js';
import type { Generate, Maker } from './library_operands.js';

/** One number of heads for both parts, or one head for either. */
function concatHeads(draw: Draw): readonly [headsA: number, headsB: number] {
  const heads = draw.size();
  return [draw.chance(0.3) ? 1 : heads, draw.chance(0.3) ? 1 : heads];
}

function concatShapes(shop: Workshop) {
  const { draw } = shop;
  const [tokens, widthA, widthB, [headsA, headsB]] = [draw.size(), draw.size(), draw.size(), concatHeads(draw)];
  return {
    t: shop.float(),
    sizes: [tokens, headsA, headsB, widthA, widthB] as const,
    a: [tokens, headsA, widthA] as const,
    b: [tokens, headsB, widthB] as const,
    output: [tokens, Math.max(headsA, headsB), widthA + widthB] as const,
  };
}

function productShapes(shop: Workshop) {
  const { draw } = shop;
  const [tokens, rank, heads, width] = [draw.size(), draw.size(), draw.size(), draw.size()];
  return {
    t: shop.float(),
    sizes: [tokens, rank, heads, width] as const,
    factors: [[tokens, rank, heads] as const, [tokens, rank, width] as const] as const,
    output: [tokens, heads, width] as const,
  };
}

export const bindingCalls: readonly Generator[] = [
  (shop) => {
    const { t, sizes, a, b, output } = concatShapes(shop);
    const [inputA, inputB, joined] = [shop.input(t, ...a), shop.input(t, ...b), shop.output(t, ...output)];
    return {
      name: 'concat',
      args: [t, ...sizes, inputA, inputB, joined],
      check: async () => {
        const [gradA, gradB] = [shop.output(t, ...a), shop.output(t, ...b)];
        binding.concatBackward(t, ...sizes, joined, gradA, gradB);
        // A part of all heads comes back as it was.
        const same = (shape: readonly number[], x: BufferHandle, y: BufferHandle) =>
          shape[1] === output[1] ? shop.same('concat', t, reference.sizeOf(shape), x, y) : undefined;
        await same(a, gradA, inputA);
        await same(b, gradB, inputB);
      },
    };
  },
  (shop) => {
    const { t, sizes, a, b, output } = concatShapes(shop);
    return {
      name: 'concatBackward',
      args: [t, ...sizes, shop.input(t, ...output), shop.output(t, ...a), shop.output(t, ...b)],
    };
  },
  (shop) => {
    const { t, sizes, factors, output } = productShapes(shop);
    return {
      name: 'tensorProduct',
      args: [t, ...sizes, ...factors.map((shape) => shop.input(t, ...shape)), shop.output(t, ...output)],
    };
  },
  (shop) => {
    const { t, sizes, factors, output } = productShapes(shop);
    const inputs = [output, ...factors].map((shape) => shop.input(t, ...shape));
    return {
      name: 'tensorProductBackward',
      args: [t, ...sizes, ...inputs, ...factors.map((shape) => shop.output(t, ...shape))],
    };
  },
];

function concatOperands(make: Maker) {
  const { draw } = make;
  const [dtype, T, widthA, widthB, [headsA, headsB]] = [
    make.float(),
    draw.size(),
    draw.size(),
    draw.size(),
    concatHeads(draw),
  ];
  return {
    dtype,
    sizes: { widthA, headsA, headsB },
    a: make.pair(dtype, 1, T, headsA, widthA),
    b: make.pair(dtype, 1, T, headsB, widthB),
    gradOutput: make.pair(dtype, 1, T, Math.max(headsA, headsB), widthA + widthB),
  };
}

function productOperands(make: Maker) {
  const { draw } = make;
  const [dtype, T, R, H, D] = [make.float(), draw.size(), draw.size(), draw.size(), draw.size()];
  return {
    dtype,
    headFactors: make.pair(dtype, 1, T, R, H),
    featureFactors: make.pair(dtype, 1, T, R, D),
    gradOutput: make.pair(dtype, 1, T, H, D),
  };
}

export const libraryCalls: readonly Generate[] = [
  (make) => {
    const { dtype, a, b } = concatOperands(make);
    return {
      name: 'concat',
      run: ops.concat,
      args: [a.tensor, b.tensor],
      dtype,
      truth: () => ({ output: reference.concat(a.exact, b.exact) }),
    };
  },
  (make) => {
    const { dtype, sizes, gradOutput } = concatOperands(make);
    return {
      name: 'concatBackward',
      run: ops.concatBackward,
      args: [gradOutput.tensor, sizes],
      dtype,
      truth: () => reference.concatBackward(gradOutput.exact, sizes),
    };
  },
  (make) => {
    const { dtype, headFactors, featureFactors } = productOperands(make);
    return {
      name: 'tensorProduct',
      run: ops.tensorProduct,
      args: [headFactors.tensor, featureFactors.tensor],
      dtype,
      truth: () => ({ output: reference.tensorProduct(headFactors.exact, featureFactors.exact) }),
    };
  },
  (make) => {
    const { dtype, headFactors, featureFactors, gradOutput } = productOperands(make);
    return {
      name: 'tensorProductBackward',
      run: ops.tensorProductBackward,
      args: [gradOutput.tensor, headFactors.tensor, featureFactors.tensor],
      dtype,
      truth: () => reference.tensorProductBackward(gradOutput.exact, headFactors.exact, featureFactors.exact),
    };
  },
];
