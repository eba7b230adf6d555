/** The tensor product of Tensor Product Attention (arXiv 2501.06425): queries, keys and values from two small factors each. */
import { binding } from '../binding.js';
import * as check from '../checks.js';
import { type DType, floats } from '../dtype.js';
import { operands, produce, type Tensor } from '../tensor.js';

function checkFactors(
  op: string,
  headFactors: Tensor,
  featureFactors: Tensor,
): { outputShape: [B: number, T: number, H: number, D: number]; dtype: DType } {
  const [B, T, R, H] = check.shape(op, 'headFactors', headFactors, ['B', 'T', 'R', 'H']);
  const dtype = check.dtype(op, 'headFactors', headFactors, floats);
  const because = check.because('headFactors', headFactors);
  const [, , , D] = check.shape(op, 'featureFactors', featureFactors, [B, T, R, 'D'], because);
  check.dtype(op, 'featureFactors', featureFactors, dtype, `headFactors has dtype ${dtype}`);
  return { outputShape: [B, T, H, D], dtype };
}

/**
 * output[b, t, h, d] = 1/R sum over r of headFactors[b, t, r, h] * featureFactors[b, t, r, d], added up in f32.
 *
 * headFactors [B, T, R, H], featureFactors [B, T, R, D] -> [B, T, H, D], same dtype.
 */
export function tensorProduct(headFactors: Tensor, featureFactors: Tensor): Tensor {
  const op = check.call('tensorProduct', arguments.length, 2);
  const { device, buffers } = operands(op, { headFactors, featureFactors });
  const { outputShape, dtype } = checkFactors(op, headFactors, featureFactors);
  return produce(op, device, { output: [outputShape, dtype] }, (to) =>
    binding.tensorProduct(buffers.headFactors, buffers.featureFactors, to.output),
  ).output;
}

/** The gradients of `tensorProduct`, for gradOutput [B, T, H, D]: shapes and dtype of the factors. */
export function tensorProductBackward(
  gradOutput: Tensor,
  headFactors: Tensor,
  featureFactors: Tensor,
): { gradHeadFactors: Tensor; gradFeatureFactors: Tensor } {
  const op = check.call('tensorProductBackward', arguments.length, 3);
  const { device, buffers } = operands(op, { gradOutput, headFactors, featureFactors });
  const { outputShape, dtype } = checkFactors(op, headFactors, featureFactors);
  check.shape(op, 'gradOutput', gradOutput, outputShape, 'the shape of the output');
  check.dtype(op, 'gradOutput', gradOutput, dtype, `headFactors has dtype ${dtype}`);
  return produce(
    op,
    device,
    { gradHeadFactors: [headFactors.shape, dtype], gradFeatureFactors: [featureFactors.shape, dtype] },
    (to) =>
      binding.tensorProductBackward(
        buffers.gradOutput,
        buffers.headFactors,
        buffers.featureFactors,
        to.gradHeadFactors,
        to.gradFeatureFactors,
      ),
  );
}
