import { binding } from '../binding.js';
import * as check from '../checks.js';
import { operands, produce, type Tensor } from '../tensor.js';

/**
 * Scales f32 gradients in place, all by min(1, maxNorm / (norm + 1e-6)), where norm is the L2 norm of all their elements
 * together. Returns that norm as it was before, [] f32. A gradient whose op failed leaves all of them as they are, and the norm rejects.
 * No two gradients may share memory (ArgumentError): the sum of the gradients of tied weights is one tensor.
 */
export function clipGradNorm(gradients: readonly Tensor[], maxNorm: number): Tensor {
  const op = check.call('clipGradNorm', arguments.length, 2);
  const named = check.list(op, 'gradients', gradients).map((tensor, i) => [`gradients[${i}]`, tensor] as const);
  const { device, buffers } = operands(op, Object.fromEntries(named));
  for (const [name, tensor] of named) {
    check.shape(op, name, tensor, ['...']);
    check.dtype(op, name, tensor, 'f32', 'gradients of parameters are f32');
  }
  check.finite(op, 'maxNorm', maxNorm, { min: 0 });
  return produce(op, device, { norm: [[], 'f32'] }, (to) =>
    binding.clipGradNorm(Object.values(buffers), to.norm, maxNorm),
  ).norm;
}
