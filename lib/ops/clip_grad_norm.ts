import { binding } from '../binding.js';
import * as check from '../checks.js';
import { listed, produce, type Tensor } from '../tensor.js';

/**
 * Scales f32 gradients in place, all by min(1, maxNorm / (norm + 1e-6)), where norm is the L2 norm of all their elements
 * together. Returns that norm as it was before, [] f32. A gradient whose op failed leaves all of them as they are, and the norm rejects.
 * No two gradients may share memory (ArgumentError): the sum of the gradients of tied weights is one tensor.
 */
export function clipGradNorm(gradients: readonly Tensor[], maxNorm: number): Tensor {
  const op = check.call('clipGradNorm', arguments.length, 2);
  const list = check.list(op, 'gradients', gradients);
  const name = (i: number) => `gradients[${i}]`;
  const { device, buffers } = listed(op, list, name);
  let at = 0;
  const here = () => name(at);
  for (const tensor of list) {
    check.shape(op, here, tensor, ['...']);
    check.dtype(op, here, tensor, 'f32', 'gradients of parameters are f32');
    at++;
  }
  check.finite(op, 'maxNorm', maxNorm, { min: 0 });
  return produce(op, device, { norm: [[], 'f32'] }, (to) => binding.clipGradNorm(buffers, to.norm, maxNorm)).norm;
}
