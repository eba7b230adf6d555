/** Parameter-efficient attention aggregation (arXiv 2507.07694, PEAA): the mean over groups, before the output projection. */
import { binding } from '../binding.js';
import * as check from '../checks.js';
import { floats } from '../dtype.js';
import { operands, produce, type Tensor } from '../tensor.js';

/**
 * M[b, t, h*D + d] = mean over g of x[b, t, g*H + h, d]: the output projection is affine, so averaging the groups before it
 * gives what averaging after it would, with 1/r of the work.
 *
 * x [B, T, r*H, D], heads H -> [B, T, H*D], same dtype.
 */
export function aggregate(x: Tensor, heads: number): Tensor {
  const op = check.call('aggregate', arguments.length, 2);
  const { device, buffers } = operands(op, { x });
  const [B, T, simHeads, D] = check.shape(op, 'x', x, ['B', 'T', 'r*H', 'D']);
  check.dtype(op, 'x', x, floats);
  const H = check.integer(op, 'heads', heads, { min: 1 });
  check.multiple(op, 'the number of heads of x', simHeads, H, `heads is ${H}`);
  return produce(op, device, { output: [[B, T, H * D], x.dtype] }, (to) => binding.aggregate(buffers.x, to.output))
    .output;
}

/** The gradient of `aggregate`: gradOutput [B, T, H*D], heads H, simHeads r*H -> [B, T, r*H, D]. */
export function aggregateBackward(gradOutput: Tensor, heads: number, simHeads: number): Tensor {
  const op = check.call('aggregateBackward', arguments.length, 3);
  const { device, buffers } = operands(op, { gradOutput });
  const [B, T, width] = check.shape(op, 'gradOutput', gradOutput, ['B', 'T', 'H*D']);
  check.dtype(op, 'gradOutput', gradOutput, floats);
  const H = check.integer(op, 'heads', heads, { min: 1 });
  check.multiple(op, 'simHeads', check.integer(op, 'simHeads', simHeads, { min: 1 }), H, `heads is ${H}`);
  const D = check.multiple(op, 'the width of gradOutput', width, H, `heads is ${H}`) / H;
  return produce(op, device, { gradX: [[B, T, simHeads, D], gradOutput.dtype] }, (to) =>
    binding.aggregateBackward(buffers.gradOutput, to.gradX),
  ).gradX;
}
