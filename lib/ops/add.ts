import { binding } from '../binding.js';
import * as check from '../checks.js';
import { floats } from '../dtype.js';
import { operands, produce, type Tensor } from '../tensor.js';

/** a + b, element by element (a residual connection). One shape, one float dtype; no broadcasting. */
export function add(a: Tensor, b: Tensor): Tensor {
  const op = check.call('add', arguments.length, 2);
  return runAdd(op, { a, b });
}

/** `add` of two, or of three that are rounded once; `op` is its name in messages. */
export function runAdd(op: string, terms: { a: Tensor; b: Tensor; c?: Tensor }): Tensor {
  const { a, b, c } = terms;
  const { device, buffers } = operands(op, { a, b }, { c });
  check.shape(op, 'a', a, ['...']);
  check.dtype(op, 'a', a, floats);
  for (const [name, tensor] of Object.entries(c ? { b, c } : { b })) {
    check.shape(op, name, tensor, a.shape, 'the shape of a');
    check.dtype(op, name, tensor, a.dtype, `a has dtype ${a.dtype}`);
  }
  return produce(op, device, { output: [a.shape, a.dtype] }, (to) =>
    binding.add(buffers.a, buffers.b, buffers.c, to.output),
  ).output;
}

/**
 * The gradients of `add`: both are gradOutput itself, as views of its memory. The three are one memory: what scales one in
 * place scales all, so `clipGradNorm` and the like take one of them, not two.
 */
export function addBackward(gradOutput: Tensor): { gradA: Tensor; gradB: Tensor } {
  const op = check.call('addBackward', arguments.length, 1);
  operands(op, { gradOutput });
  check.dtype(op, 'gradOutput', gradOutput, floats);
  return { gradA: gradOutput.reshape(gradOutput.shape), gradB: gradOutput.reshape(gradOutput.shape) };
}
