import { binding } from '../binding.js';
import * as check from '../checks.js';
import { floats } from '../dtype.js';
import { operands, produce, type Tensor } from '../tensor.js';

/** a + b, element by element (a residual connection). One shape, one float dtype; no broadcasting. */
export function add(a: Tensor, b: Tensor): Tensor {
  const op = 'add';
  const { device, buffers } = operands(op, { a, b });
  check.shape(op, 'a', a, ['...']);
  check.dtype(op, 'a', a, floats);
  check.shape(op, 'b', b, a.shape, 'the shape of a');
  check.dtype(op, 'b', b, a.dtype, `a has dtype ${a.dtype}`);
  return produce(op, device, { output: [a.shape, a.dtype] }, (to) => binding.add(buffers.a, buffers.b, to.output))
    .output;
}

/** The gradients of `add`: both are gradOutput itself, as views of its memory. */
export function addBackward(gradOutput: Tensor): { gradA: Tensor; gradB: Tensor } {
  operands('addBackward', { gradOutput });
  check.dtype('addBackward', 'gradOutput', gradOutput, floats);
  return { gradA: gradOutput.reshape(gradOutput.shape), gradB: gradOutput.reshape(gradOutput.shape) };
}
