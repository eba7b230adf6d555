import { binding } from '../binding.js';
import * as check from '../checks.js';
import { floats } from '../dtype.js';
import { operands, produce, type Tensor } from '../tensor.js';

/** a + b, element by element (a residual connection). One shape, one float dtype; no broadcasting. */
export function add(a: Tensor, b: Tensor): Tensor {
  const op = check.call('add', arguments.length, 2);
  const { device, buffers } = operands(op, { a, b });
  check.shape(op, 'a', a, ['...']);
  check.dtype(op, 'a', a, floats);
  check.shape(op, 'b', b, a.shape, 'the shape of a');
  check.dtype(op, 'b', b, a.dtype, `a has dtype ${a.dtype}`);
  return produce(op, device, { output: [a.shape, a.dtype] }, (to) => binding.add(buffers.a, buffers.b, to.output))
    .output;
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
