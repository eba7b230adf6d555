// The attentions that a model can be built with, each at the sizes that follow from the model's own.

import { latentParameters, MultiHeadLatentAttention } from '../attentions/latent_attention.js';
import {
  MatrixFactorizationAttention,
  matrixFactorizationParameters,
} from '../attentions/matrix_factorization_attention.js';
import { MultiHeadAttention, multiHeadParameters } from '../attentions/multi_head_attention.js';
import type { SelfAttention, SelfAttentionConfig } from '../attentions/self_attention.js';
import { SimulatedAttention, type SimulatedConfig, simulatedParameters } from '../attentions/simulated_attention.js';
import { TensorProductAttention, tensorProductParameters } from '../attentions/tensor_product_attention.js';
import { type Device, getDevice } from '../index.js';
import type { ParameterSpec } from '../module.js';
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

/** One layer's attention before it takes memory. */
interface Plan {
  parameters(): readonly ParameterSpec[];
  create(device: Device): SelfAttention;
}

const plan = <C extends SelfAttentionConfig>(
  Kind: new (config: C) => SelfAttention,
  parametersOf: (config: C) => readonly ParameterSpec[],
  config: C,
): Plan => ({
  parameters: () => parametersOf({ ...config, device: getDevice('cpu') }),
  create: (device) => new Kind({ ...config, device }),
});

export const createAttention = (attention: Attention, sizes: AttentionSizes, device: Device): SelfAttention =>
  planOf(attention, sizes).create(device);

/** Names and shapes of what `createAttention` would make. */
export const attentionParameters = (attention: Attention, sizes: AttentionSizes): readonly ParameterSpec[] =>
  planOf(attention, sizes).parameters();

/**
 * Learned positions are added to the embedding: then only MLA, which cannot do without, turns queries and keys.
 */
function planOf(attention: Attention, sizes: AttentionSizes): Plan {
  const { width, heads, simHeads, simHeadDim, kernel, positions, dtype, seed } = sizes;
  const headDim = width / heads;
  const common = { width, heads, dtype, seed };
  const rope = positions === 'rope' ? {} : null;
  const multiHead = (kvHeads: number) => plan(MultiHeadAttention, multiHeadParameters, { ...common, kvHeads, rope });
  const simulated = (changes: Partial<SimulatedConfig>) =>
    plan(SimulatedAttention, simulatedParameters, {
      ...common,
      simHeads,
      simHeadDim,
      kernelSize: kernel,
      rope,
      ...changes,
    });
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
      return plan(MultiHeadLatentAttention, latentParameters, {
        ...common,
        kvRank,
        ropeDim: 2 * Math.max(1, Math.round(headDim / 4)),
      });
    }
    case 'tpa':
      return plan(TensorProductAttention, tensorProductParameters, { ...common, rope });
    case 'mfa':
      return plan(MatrixFactorizationAttention, matrixFactorizationParameters, {
        ...common,
        headDim: 2 * headDim,
        rope,
      });
    case 'sas':
      return simulated({});
    case 'sas-linear':
      return simulated({ kernelSize: 1 });
    case 'sas-heads':
      return simulated({ simHeadDim: headDim, expansion: 'heads' });
    case 'sas-features':
      return simulated({ simHeads: heads, expansion: 'features' });
    case 'sas-no-residual':
      return simulated({ residual: false });
    case 'sas-no-peaa':
      return simulated({ aggregation: false });
  }
}
