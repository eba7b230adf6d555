/**
 * The ops, each with its backward twin; nothing is recorded and nothing hidden. Every op checks its arguments (ShapeError,
 * DTypeError, ArgumentError, DeviceError, DisposedError; OutOfMemoryError for its outputs), enqueues, and returns at once.
 * A failure on the device rejects the next wait on a tensor that depends on it. A GPU that finds a token or target out of range
 * tells at the next wait only: until then the op's outputs, and what is computed from them, hold NaN.
 */
export { type AdamWOptions, type AdamWState, adamW } from './adamw.js';
export { add, addBackward } from './add.js';
export { aggregate, aggregateBackward } from './aggregate.js';
export {
  type AttentionBackwardOptions,
  type AttentionMeanOptions,
  type AttentionOptions,
  type AttentionResult,
  type AttentionSaved,
  attention,
  attentionBackward,
  attentionMean,
} from './attention.js';
export { clipGradNorm } from './clip_grad_norm.js';
export { type ConcatSizes, concat, concatBackward } from './concat.js';
export { type CrossEntropyOptions, crossEntropy, crossEntropyBackward } from './cross_entropy.js';
export { embedding, embeddingBackward } from './embedding.js';
export { type ExpandKept, type ExpandOptions, type ExpandWeights, expand, expandBackward } from './expand.js';
export { type GeluOptions, gelu, geluBackward } from './gelu.js';
export { type LayerNormResult, layerNorm, layerNormBackward } from './layer_norm.js';
export { type LinearGradients, linear, linearBackward } from './linear.js';
export * as naive from './naive.js';
export { type RmsNormResult, rmsNorm, rmsNormBackward } from './rms_norm.js';
export { type RopeOptions, rope, ropeBackward } from './rope.js';
export { tensorProduct, tensorProductBackward } from './tensor_product.js';
