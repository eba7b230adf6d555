import { binding } from '../binding.js';
import * as check from '../checks.js';
import { floats } from '../dtype.js';
import { operands, produce, type Tensor } from '../tensor.js';

/** What `rmsNorm` returns. */
export interface RmsNormResult {
  /** [..., C], the dtype of x. */
  output: Tensor;
  /** [rows] f32, 1/root-mean-square. */
  rstd: Tensor;
}

/**
 * Each row divided by its root mean square (of mean square plus eps), times weight (Zhang and Sennrich, arXiv 1910.07467).
 * x [..., C], weight [C] f32; eps is 1e-6 by default.
 */
export function rmsNorm(x: Tensor, weight: Tensor, options?: { eps?: number }): RmsNormResult {
  const op = check.call('rmsNorm', arguments.length, 3);
  const { device, buffers } = operands(op, { x, weight });
  const [rows, C] = check.shape(op, 'x', x, ['...', 'C']);
  check.dtype(op, 'x', x, floats);
  check.shape(op, 'weight', weight, [C], `x has width ${C}`);
  check.dtype(op, 'weight', weight, 'f32', 'parameters are f32');
  const { eps = 1e-6 } = check.options(op, options, ['eps']);
  check.finite(op, 'eps', eps, { min: 0 });
  return produce(op, device, { output: [x.shape, x.dtype], rstd: [[rows], 'f32'] }, (to) =>
    binding.rmsNorm(buffers.x, buffers.weight, to.output, to.rstd, eps),
  );
}

/** The gradients of `rmsNorm`: gradX as x, gradWeight [C] f32. */
export function rmsNormBackward(
  gradOutput: Tensor,
  saved: { x: Tensor; weight: Tensor; rstd: Tensor },
): { gradX: Tensor; gradWeight: Tensor } {
  const op = check.call('rmsNormBackward', arguments.length, 2);
  const { x, weight, rstd } = check.record(op, 'saved', saved, ['x', 'weight', 'rstd']);
  const { device, buffers } = operands(op, { gradOutput, x, weight, rstd });
  const [rows, C] = check.shape(op, 'x', x, ['...', 'C']);
  check.dtype(op, 'x', x, floats);
  check.shape(op, 'gradOutput', gradOutput, x.shape, 'the shape of x');
  check.dtype(op, 'gradOutput', gradOutput, x.dtype, `x has dtype ${x.dtype}`);
  check.shape(op, 'weight', weight, [C], `x has width ${C}`);
  check.dtype(op, 'weight', weight, 'f32', 'parameters are f32');
  check.shape(op, 'rstd', rstd, [rows], `x has ${rows} rows`);
  check.dtype(op, 'rstd', rstd, 'f32');
  return produce(op, device, { gradX: [x.shape, x.dtype], gradWeight: [[C], 'f32'] }, (to) =>
    binding.rmsNormBackward(buffers.gradOutput, buffers.x, buffers.weight, buffers.rstd, to.gradX, to.gradWeight),
  );
}
