import { binding } from '../binding.js';
import * as check from '../checks.js';
import { floats } from '../dtype.js';
import { operands, produce, type Tensor } from '../tensor.js';

/** Settings of `crossEntropy` and its backward. */
export interface CrossEntropyOptions {
  /** Targets of this value do not count. Default -100. */
  ignoreIndex?: number;
}

/** What both directions need to know: rows, and the setting. */
function checked(op: string, logits: Tensor, targets: Tensor, options: CrossEntropyOptions | undefined) {
  const [rows] = check.shape(op, 'logits', logits, ['...', 'V']);
  check.dtype(op, 'logits', logits, floats);
  check.shape(op, 'targets', targets, logits.shape.slice(0, -1), check.because('logits', logits));
  check.dtype(op, 'targets', targets, 'i32');
  const { ignoreIndex = -100 } = check.options(op, options, ['ignoreIndex']);
  check.integer(op, 'ignoreIndex', ignoreIndex, { min: -(2 ** 31), max: 2 ** 31 - 1 });
  return { rows, ignoreIndex };
}

/**
 * The mean over targets of -log softmax(logits)[target]; 0 if none counts. logits [..., V], targets [...] i32 -> loss [] f32,
 * logSumExp [rows] f32. A target that is neither ignored nor in 0..V-1 is a failure on the device: the next wait on the loss
 * rejects.
 */
export function crossEntropy(
  logits: Tensor,
  targets: Tensor,
  options?: CrossEntropyOptions,
): { loss: Tensor; logSumExp: Tensor } {
  const op = check.call('crossEntropy', arguments.length, 3);
  const { device, buffers } = operands(op, { logits, targets });
  const { rows, ignoreIndex } = checked(op, logits, targets, options);
  return produce(op, device, { loss: [[], 'f32'], logSumExp: [[rows], 'f32'] }, (to) =>
    binding.crossEntropy(buffers.logits, buffers.targets, to.loss, to.logSumExp, ignoreIndex),
  );
}

/** The gradient of `crossEntropy` with respect to logits, in their dtype; gradLoss [] f32. */
export function crossEntropyBackward(
  gradLoss: Tensor,
  saved: { logits: Tensor; targets: Tensor; logSumExp: Tensor },
  options?: CrossEntropyOptions,
): Tensor {
  const op = check.call('crossEntropyBackward', arguments.length, 3);
  const { logits, targets, logSumExp } = check.record(op, 'saved', saved, ['logits', 'targets', 'logSumExp']);
  const { device, buffers } = operands(op, { gradLoss, logits, targets, logSumExp });
  const { rows, ignoreIndex } = checked(op, logits, targets, options);
  check.shape(op, 'gradLoss', gradLoss, [], 'the loss is a scalar');
  check.dtype(op, 'gradLoss', gradLoss, 'f32');
  check.shape(op, 'logSumExp', logSumExp, [rows], `logits has ${rows} rows`);
  check.dtype(op, 'logSumExp', logSumExp, 'f32');
  return produce(op, device, { gradLogits: [logits.shape, logits.dtype] }, (to) =>
    binding.crossEntropyBackward(
      buffers.gradLoss,
      buffers.logits,
      buffers.targets,
      buffers.logSumExp,
      to.gradLogits,
      ignoreIndex,
    ),
  ).gradLogits;
}
