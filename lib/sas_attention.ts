/** The SAS attention module (arXiv 2507.07694) over projected queries, keys and values. */
import * as check from './checks.js';
import { Module, type Placement, placementNames, resolvedPlacement, Saved } from './module.js';
import type { ExpandWeights } from './ops/expand.js';
import * as block from './sas_block.js';
import type { Tensor } from './tensor.js';

export type { SasGradients } from './sas_block.js';

/** The sizes and settings of a module; symbols as in the paper. */
export interface SasConfig extends Placement {
  /** H: heads that the projections produce. */
  heads: number;
  /** D: features per head that the projections produce. */
  headDim: number;
  /** H': simulated heads, a multiple of `heads`. */
  simHeads: number;
  /** D': simulated features per head of query and key. */
  simHeadDim: number;
  /** k: kernel size of the convolutions over heads, odd; 1 is the paper's linear variant. Default 5. */
  kernelSize?: number;
  /** Default true. */
  causal?: boolean;
  /** The factor of the scores. Default 1/sqrt(simHeadDim). */
  scale?: number;
  /**
   * Whether `backward` computes parts of the expansions anew, or `forward` keeps them: 4 H' (5 D + 2 D') bytes per token in
   * f32 on the CPU; elsewhere they are always computed anew. The results are the same bits. Default true: keeping saves a
   * quarter of the backward expansions' work, and the time it takes to write and read as many bytes (measured: at most 1% of
   * a step).
   */
  recompute?: boolean;
}

/** What `SasAttention.forward` keeps for `backward`. */
export type SasSaved = Saved<block.Activations>;

/**
 * The SAS block alone, for queries, keys and values that are already projected (`SimulatedAttention` of
 * `sas-attention/attentions` also projects them): expand, attend over simulated heads, average the groups, project.
 * Its parameters are in the order q, k, v, output, named and shaped as the published module's state dict; they begin uniform
 * in +-1/sqrt(fan_in), as PyTorch does by default, and live until the module's own `dispose()`, also when it is made inside a
 * `scope`.
 */
export class SasAttention extends Module {
  readonly config: Readonly<Required<SasConfig>>;

  constructor(config: SasConfig) {
    const known = resolved(check.call('SasAttention', arguments.length, 1), config);
    super('SasAttention', block.parameterTable(known), known);
    this.config = Object.freeze(known);
  }

  /** The parameters of one expansion as `ops.expand` takes them: the same tensors, not copies; `v` has none of features. */
  expandWeights(tensor: 'q' | 'k' | 'v'): ExpandWeights {
    const op = this.begin('expandWeights', arguments.length, 1);
    check.oneOf(op, 'tensor', tensor, ['q', 'k', 'v']);
    return block.expandWeights(this.parameters, tensor);
  }

  /**
   * q [B, Tq, H, D], k and v [B, Tk, H, D] of `config.dtype` -> output [B, Tq, H*D], and what `backward` needs. With `save:
   * false` (inference) everything but the output is freed and `saved` is null; the mean over groups is then fused into
   * attention where the device can, and rounds less.
   */
  forward(q: Tensor, k: Tensor, v: Tensor, options?: { save?: true }): { output: Tensor; saved: SasSaved };
  forward(q: Tensor, k: Tensor, v: Tensor, options: { save: false }): { output: Tensor; saved: null };
  forward(q: Tensor, k: Tensor, v: Tensor, options?: { save?: boolean }): { output: Tensor; saved: SasSaved | null };
  forward(q: Tensor, k: Tensor, v: Tensor, options?: { save?: boolean }): { output: Tensor; saved: SasSaved | null } {
    const op = this.begin('forward', arguments.length, 4);
    const { save = true } = check.options(op, options, ['save']);
    check.boolean(op, 'save', save);
    const { output, activations } = block.forward(op, this.config, this.parameters, { q, k, v }, save);
    return { output, saved: activations && new Saved(this, activations) };
  }

  /**
   * The gradients of `forward`: gradOutput [B, Tq, H*D] of `config.dtype` and the `saved` of that call, which stays usable.
   * gradQ, gradK and gradV are shaped as q, k and v.
   */
  backward(gradOutput: Tensor, saved: SasSaved): block.SasGradients {
    const op = this.begin('backward', arguments.length, 2);
    return block.backward(op, this.config, this.parameters, gradOutput, this.activations(op, saved));
  }
}

/** The config with its defaults, checked. */
function resolved(op: string, config: SasConfig): Required<SasConfig> {
  const known = ['heads', 'headDim', 'simHeads', 'simHeadDim', 'kernelSize', 'causal', 'scale', 'recompute'] as const;
  const given = check.options(op, check.object(op, 'config', config), [...known, ...placementNames]);
  const { heads, headDim, simHeads, simHeadDim, kernelSize = 5 } = given;
  block.checkSizes(op, { heads, headDim, simHeads, simHeadDim, kernelSize });
  const { causal = true, scale = 1 / Math.sqrt(simHeadDim), recompute = true } = given;
  check.boolean(op, 'causal', causal);
  check.boolean(op, 'recompute', recompute);
  check.finite(op, 'scale', scale);
  return {
    heads,
    headDim,
    simHeads,
    simHeadDim,
    kernelSize,
    causal,
    scale,
    recompute,
    ...resolvedPlacement(op, given),
  };
}
