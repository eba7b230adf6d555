// The attentions that a model can be built with, each at the sizes that follow from the model's own.

import {
  MatrixFactorizationAttention,
  MultiHeadAttention,
  MultiHeadLatentAttention,
  type SelfAttention,
  SimulatedAttention,
  TensorProductAttention,
} from '../attentions/index.js';
import type { Device } from '../index.js';
import type { ActivationDType, Attention, Positions } from './config.js';

/** What an attention's own sizes follow from. */
export interface AttentionSizes {
  width: number;
  heads: number;
  simHeads: number;
  simHeadDim: number;
  kernel: number;
  /** A learned vector per position, added to the embedding, or rotary queries and keys. */
  positions: Positions;
  dtype: ActivationDType;
  seed: number;
}

/** Key and value heads of GQA: groups of four query heads where that leaves more than one, else of two. */
const groupedHeads = (heads: number): number =>
  heads > 4 && heads % 4 === 0 ? heads / 4 : heads % 2 === 0 ? heads / 2 : 1;

/**
 * One layer's attention. Learned positions are added to the embedding: then only MLA, which cannot do without, turns
 * queries and keys.
 */
export function createAttention(attention: Attention, sizes: AttentionSizes, device: Device): SelfAttention {
  const { width, heads, simHeads, simHeadDim, kernel, positions, dtype, seed } = sizes;
  const headDim = width / heads;
  const common = { width, heads, dtype, device, seed };
  const rope = positions === 'rope' ? {} : null;
  const multiHead = (kvHeads: number) => new MultiHeadAttention({ ...common, kvHeads, rope });
  const simulated = { ...common, simHeads, simHeadDim, kernelSize: kernel, rope };
  switch (attention) {
    case 'mha':
      return multiHead(heads);
    case 'mqa':
      return multiHead(1);
    case 'gqa':
      return multiHead(groupedHeads(heads));
    case 'mla': {
      // The proportions of DeepSeek-V2, as far as the latent vector stays narrower than the token.
      const kvRank = Math.max(1, Math.min(4 * headDim, Math.floor(width / 2)));
      return new MultiHeadLatentAttention({ ...common, kvRank, ropeDim: 2 * Math.max(1, Math.round(headDim / 4)) });
    }
    case 'tpa':
      return new TensorProductAttention({ ...common, rope });
    case 'mfa':
      return new MatrixFactorizationAttention({ ...common, headDim: 2 * headDim, rope });
    case 'sas':
      return new SimulatedAttention(simulated);
    case 'sas-linear':
      return new SimulatedAttention({ ...simulated, kernelSize: 1 });
    case 'sas-heads':
      return new SimulatedAttention({ ...simulated, simHeadDim: headDim, expansion: 'heads' });
    case 'sas-features':
      return new SimulatedAttention({ ...simulated, simHeads: heads, expansion: 'features' });
    case 'sas-no-residual':
      return new SimulatedAttention({ ...simulated, residual: false });
    case 'sas-no-peaa':
      return new SimulatedAttention({ ...simulated, aggregation: false });
  }
}
