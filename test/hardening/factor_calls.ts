/** Right calls of `concat` and `tensorProduct` and their backward twins. */
import { ops } from '../../lib/index.js';
import * as reference from '../helpers/reference/index.js';
import type { Draw } from './draw.js';
import type { Generate, Maker } from './library_operands.js';

/** One number of heads for both parts, or one head for either. */
function concatHeads(draw: Draw): readonly [headsA: number, headsB: number] {
  const heads = draw.size();
  return [draw.chance(0.3) ? 1 : heads, draw.chance(0.3) ? 1 : heads];
}

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
