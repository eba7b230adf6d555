import { binding } from '../binding.js';
import * as check from '../checks.js';
import { floats } from '../dtype.js';
import { operands, produce, type Tensor } from '../tensor.js';

/** Settings of `gelu` and its backward. */
export interface GeluOptions {
  /** 'none' is exact, through erf; 'tanh' is GPT-2's approximation. Default 'none'. */
  approximate?: 'none' | 'tanh';
}

function isTanh(op: string, options: GeluOptions | undefined): boolean {
  const { approximate = 'none' } = check.options(op, options, ['approximate']);
  return check.oneOf(op, 'approximate', approximate, ['none', 'tanh']) === 'tanh';
}

/** The Gaussian error linear unit of every element (Hendrycks and Gimpel, arXiv 1606.08415). x of any shape -> same shape and dtype. */
export function gelu(x: Tensor, options?: GeluOptions): Tensor {
  const op = check.call('gelu', arguments.length, 2);
  const { device, buffers } = operands(op, { x });
  check.shape(op, 'x', x, ['...']);
  check.dtype(op, 'x', x, floats);
  const tanh = isTanh(op, options);
  return produce(op, device, { output: [x.shape, x.dtype] }, (to) => binding.gelu(buffers.x, to.output, tanh)).output;
}

/** The gradient of `gelu` with respect to x: gradOutput as x -> same shape and dtype; `options` are those of the forward. */
export function geluBackward(gradOutput: Tensor, x: Tensor, options?: GeluOptions): Tensor {
  const op = check.call('geluBackward', arguments.length, 3);
  const { device, buffers } = operands(op, { gradOutput, x });
  check.shape(op, 'x', x, ['...']);
  check.dtype(op, 'x', x, floats);
  check.shape(op, 'gradOutput', gradOutput, x.shape, 'the shape of x');
  check.dtype(op, 'gradOutput', gradOutput, x.dtype, `x has dtype ${x.dtype}`);
  const tanh = isTanh(op, options);
  return produce(op, device, { gradX: [x.shape, x.dtype] }, (to) =>
    binding.geluBackward(buffers.gradOutput, buffers.x, to.gradX, tanh),
  ).gradX;
}
