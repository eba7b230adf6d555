import { binding } from '../binding.js';
import * as check from '../checks.js';
import { floats } from '../dtype.js';
import { operands, produce, type Tensor } from '../tensor.js';

/** What `layerNorm` returns. */
export interface LayerNormResult {
  /** [..., C], the dtype of x. */
  output: Tensor;
  /** [rows] f32. */
  mean: Tensor;
  /** [rows] f32, 1/deviation. */
  rstd: Tensor;
}

/**
 * Each row to mean 0 and variance 1 (biased, plus eps), times weight, plus bias (Ba et al., arXiv 1607.06450). x [..., C], weight [C] f32, bias [C] f32;
 * eps is 1e-5 by default.
 */
export function layerNorm(x: Tensor, weight: Tensor, bias: Tensor, options?: { eps?: number }): LayerNormResult {
  const op = check.call('layerNorm', arguments.length, 4);
  const { device, buffers } = operands(op, { x, weight, bias });
  const [rows, C] = check.shape(op, 'x', x, ['...', 'C']);
  check.dtype(op, 'x', x, floats);
  for (const [name, tensor] of Object.entries({ weight, bias })) {
    check.shape(op, name, tensor, [C], `x has width ${C}`);
    check.dtype(op, name, tensor, 'f32', 'parameters are f32');
  }
  const { eps = 1e-5 } = check.options(op, options, ['eps']);
  check.finite(op, 'eps', eps, { min: 0 });
  const outputs = { output: [x.shape, x.dtype], mean: [[rows], 'f32'], rstd: [[rows], 'f32'] } as const;
  return produce(op, device, outputs, (to) =>
    binding.layerNorm(buffers.x, buffers.weight, buffers.bias, to.output, to.mean, to.rstd, eps),
  );
}

/** The gradients of `layerNorm`: gradX as x, gradWeight and gradBias [C] f32. */
export function layerNormBackward(
  gradOutput: Tensor,
  saved: { x: Tensor; weight: Tensor; mean: Tensor; rstd: Tensor },
): { gradX: Tensor; gradWeight: Tensor; gradBias: Tensor } {
  return runLayerNormBackward(check.call('layerNormBackward', arguments.length, 2), gradOutput, saved);
}

/**
 * `layerNormBackward`, gradX plus `residual`, of x's shape and dtype, if given: the gradient that reaches x beside the norm.
 * `op` is its name in messages.
 */
export function runLayerNormBackward(
  op: string,
  gradOutput: Tensor,
  saved: { x: Tensor; weight: Tensor; mean: Tensor; rstd: Tensor },
  residual?: Tensor,
): { gradX: Tensor; gradWeight: Tensor; gradBias: Tensor } {
  const { x, weight, mean, rstd } = check.record(op, 'saved', saved, ['x', 'weight', 'mean', 'rstd']);
  const { device, buffers } = operands(op, { gradOutput, x, weight, mean, rstd }, { residual });
  const [rows, C] = check.shape(op, 'x', x, ['...', 'C']);
  check.dtype(op, 'x', x, floats);
  for (const [name, tensor] of Object.entries(residual ? { gradOutput, residual } : { gradOutput })) {
    check.shape(op, name, tensor, x.shape, 'the shape of x');
    check.dtype(op, name, tensor, x.dtype, `x has dtype ${x.dtype}`);
  }
  check.shape(op, 'weight', weight, [C], `x has width ${C}`);
  check.dtype(op, 'weight', weight, 'f32', 'parameters are f32');
  for (const [name, tensor] of Object.entries({ mean, rstd })) {
    check.shape(op, name, tensor, [rows], `x has ${rows} rows`);
    check.dtype(op, name, tensor, 'f32');
  }
  const outputs = { gradX: [x.shape, x.dtype], gradWeight: [[C], 'f32'], gradBias: [[C], 'f32'] } as const;
  return produce(op, device, outputs, (to) =>
    binding.layerNormBackward(
      buffers.gradOutput,
      buffers.x,
      buffers.weight,
      buffers.mean,
      buffers.rstd,
      buffers.residual,
      to.gradX,
      to.gradWeight,
      to.gradBias,
    ),
  );
}
