import { binding } from '../binding.js';
import * as check from '../checks.js';
import { floats } from '../dtype.js';
import { operands, produce, type Tensor } from '../tensor.js';

const parameters = 'parameters are f32';

/** x W^T + b. x [..., K], weight [N, K] f32, bias [N] f32 -> [..., N], the dtype of x. */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  const op = check.call('linear', arguments.length, 3);
  const { device, buffers } = operands(op, { x, weight }, { bias });
  const [, K] = check.shape(op, 'x', x, ['...', 'K']);
  const [N] = check.shape(op, 'weight', weight, ['N', K], `x has width ${K}`);
  check.dtype(op, 'x', x, floats);
  check.dtype(op, 'weight', weight, 'f32', parameters);
  if (bias) {
    check.shape(op, 'bias', bias, [N], check.because('weight', weight));
    check.dtype(op, 'bias', bias, 'f32', parameters);
  }
  return produce(op, device, { output: [[...x.shape.slice(0, -1), N], x.dtype] }, (to) =>
    binding.linear(buffers.x, buffers.weight, buffers.bias, to.output),
  ).output;
}

/** The gradients of a `linear` with a bias. */
export interface LinearGradients {
  /** As x. */
  gradX: Tensor;
  /** [N, K] f32. */
  gradWeight: Tensor;
  /** [N] f32. */
  gradBias: Tensor;
}

/** The gradients of `linear`: gradOutput [..., N], x and weight as in the forward. `bias: false` leaves gradBias out. */
export function linearBackward(
  gradOutput: Tensor,
  x: Tensor,
  weight: Tensor,
  options?: { bias?: true },
): LinearGradients;
export function linearBackward(
  gradOutput: Tensor,
  x: Tensor,
  weight: Tensor,
  options?: { bias?: boolean },
): Omit<LinearGradients, 'gradBias'> & { gradBias?: Tensor };
export function linearBackward(
  gradOutput: Tensor,
  x: Tensor,
  weight: Tensor,
  options?: { bias?: boolean },
): Omit<LinearGradients, 'gradBias'> & { gradBias?: Tensor } {
  const op = check.call('linearBackward', arguments.length, 4);
  const { device, buffers } = operands(op, { gradOutput, x, weight });
  const [, K] = check.shape(op, 'x', x, ['...', 'K']);
  const [N] = check.shape(op, 'weight', weight, ['N', K], `x has width ${K}`);
  check.shape(op, 'gradOutput', gradOutput, [...x.shape.slice(0, -1), N], 'the shape of the output');
  check.dtype(op, 'x', x, floats);
  check.dtype(op, 'gradOutput', gradOutput, x.dtype, `x has dtype ${x.dtype}`);
  check.dtype(op, 'weight', weight, 'f32', parameters);
  const { bias = true } = check.options(op, options, ['bias']);
  return produce(
    op,
    device,
    {
      gradX: [x.shape, x.dtype],
      gradWeight: [[N, K], 'f32'],
      gradBias: check.boolean(op, 'bias', bias) ? [[N], 'f32'] : undefined,
    },
    (to) => binding.linearBackward(buffers.gradOutput, buffers.x, buffers.weight, to.gradX, to.gradWeight, to.gradBias),
  );
}
