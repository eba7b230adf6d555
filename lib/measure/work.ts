/** How much an op has to do: the numbers that rates and arithmetic intensities are stated in. */

import type { Sizes } from '../sas_block.js';

export interface Work {
  /** Useful floating-point operations, a multiply-add counted as 2. Recomputed work does not count. */
  readonly flops: number;
  /** Bytes of the tensors that go in and come out, each moved once. */
  readonly bytes: number;
}

export interface Passes {
  readonly forward: Work;
  readonly backward: Work;
}

/** Reference heads of the paper's 125M model: 12 real heads of 64 to 36 simulated heads of 96, kernel 5. */
export const REFERENCE = { heads: 12, headDim: 64, simHeads: 36, simHeadDim: 96, kernelSize: 5 } as const;

/** Parameters and their gradients are f32 whatever the activations are. */
const PARAMETER_BYTES = 4;

export const sum = (parts: readonly Work[]): Work => ({
  flops: parts.reduce((total, { flops }) => total + flops, 0),
  bytes: parts.reduce((total, { bytes }) => total + bytes, 0),
});
export const sumPasses = (parts: readonly Passes[]): Passes => ({
  forward: sum(parts.map(({ forward }) => forward)),
  backward: sum(parts.map(({ backward }) => backward)),
});

/** x [rows, inputs] W^T + b; backward: the products for x and for W. `elementBytes` is the size of an activation. */
export function linearWork(rows: number, inputs: number, outputs: number, elementBytes = 4): Passes {
  const flops = 2 * rows * inputs * outputs;
  const parameters = (count: number) => PARAMETER_BYTES * (count * inputs * outputs + outputs);
  return {
    forward: { flops, bytes: elementBytes * rows * (inputs + outputs) + parameters(1) },
    backward: { flops: 2 * flops, bytes: elementBytes * rows * (2 * inputs + outputs) + parameters(2) },
  };
}

/** One tensor [tokens, H, D] -> [tokens, H', D' or D]: Q and K are expanded in `inHeads` and `features`, V in heads only. */
export function expandWork(tokens: number, sizes: Sizes, features: boolean, elementBytes = 4, inHeads = true): Passes {
  const { heads: H, headDim: D, simHeads: S, simHeadDim: E, kernelSize: K } = sizes;
  const headFlops = inHeads ? 2 * D * K * (H * S + S * S) : 0;
  const featureFlops = features ? 2 * S * (D * E + E * E) : 0;
  const flops = tokens * (headFlops + featureFlops);
  const input = elementBytes * tokens * H * D;
  const output = elementBytes * tokens * S * (features ? E : D);
  const featureParameters = features ? D * E + E * E + 2 * E : 0;
  const headParameters = inHeads ? (H * S + S * S) * K + 2 * S : 0;
  const parameters = PARAMETER_BYTES * (headParameters + featureParameters);
  return {
    forward: { flops, bytes: input + output + parameters },
    backward: { flops: 2 * flops, bytes: output + 2 * input + 2 * parameters },
  };
}

export interface AttentionSizes {
  readonly batch: number;
  /** Queries and keys alike. */
  readonly length: number;
  readonly heads: number;
  /** Of a query and a key. */
  readonly width: number;
  readonly valueWidth: number;
}

/** Causal: half of the full square of scores. */
export function attentionWork(sizes: AttentionSizes, elementBytes = 4): Passes {
  const { batch, length, heads, width, valueWidth } = sizes;
  const rows = batch * length * heads;
  const flops = rows * length * (width + valueWidth);
  const logSumExp = 4 * rows;
  /** q, k, v and the output, or as many gradients. */
  const tensors = elementBytes * rows * 2 * (width + valueWidth);
  return {
    forward: { flops, bytes: tensors + logSumExp },
    backward: { flops: 2.5 * flops, bytes: 2 * tensors + logSumExp },
  };
}

/**
 * SAS attention over projected q, k, v [batch, length, H, D]: three expansions, attention, the output projection. Of the
 * ablations, 'heads' has D' = D, and 'features' H' = H with nothing to expand in v.
 */
export function sasWork(
  batch: number,
  length: number,
  sizes: Sizes,
  elementBytes = 4,
  expansion: 'both' | 'heads' | 'features' = 'both',
): Passes {
  const { heads, headDim, simHeads, simHeadDim } = sizes;
  const tokens = batch * length;
  const attended = { batch, length, heads: simHeads, width: simHeadDim, valueWidth: headDim };
  const parts = { heads: expansion !== 'features', features: expansion !== 'heads' };
  const query = expandWork(tokens, sizes, parts.features, elementBytes, parts.heads);
  return sumPasses([
    query,
    query,
    ...(parts.heads ? [expandWork(tokens, sizes, false, elementBytes)] : []),
    attentionWork(attended, elementBytes),
    linearWork(tokens, heads * headDim, heads * headDim, elementBytes),
  ]);
}
