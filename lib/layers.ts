/** Layers whose parameters go by name, `<name>.weight` and, where there is one, `<name>.bias`: what models are made of. */
import { layerNorm, runLayerNormBackward } from './ops/layer_norm.js';
import { linear, linearBackward } from './ops/linear.js';
import { rmsNorm, rmsNormBackward } from './ops/rms_norm.js';
import type { Tensor } from './tensor.js';

/** The gradients of parameters as they become known. */
export type Gradients = Map<string, Tensor>;

/** What the backward pass of a layer norm reads. */
export interface LayerNormSaved {
  x: Tensor;
  mean: Tensor;
  rstd: Tensor;
}

/** What the backward pass of an RMS norm reads. */
export interface RmsNormSaved {
  x: Tensor;
  rstd: Tensor;
}

export class Layers {
  constructor(private readonly parameters: ReadonlyMap<string, Tensor>) {}

  /** Throws where there is none. */
  parameter(name: string): Tensor {
    const tensor = this.parameters.get(name);
    if (!tensor) throw new Error(`no parameter '${name}'`);
    return tensor;
  }

  /** x [..., inputs] -> [..., outputs]; weight [outputs, inputs]. */
  linear(name: string, x: Tensor): Tensor {
    return linear(x, this.parameter(`${name}.weight`), this.parameters.get(`${name}.bias`));
  }

  /** Returns gradX and sets the gradients of the parameters, as the other backward passes do. */
  linearBackward(name: string, gradOutput: Tensor, x: Tensor, gradients: Gradients): Tensor {
    const bias = this.parameters.has(`${name}.bias`);
    const result = linearBackward(gradOutput, x, this.parameter(`${name}.weight`), { bias });
    gradients.set(`${name}.weight`, result.gradWeight);
    if (result.gradBias) gradients.set(`${name}.bias`, result.gradBias);
    return result.gradX;
  }

  layerNorm(name: string, x: Tensor): { output: Tensor; saved: LayerNormSaved } {
    const { output, ...saved } = layerNorm(x, this.parameter(`${name}.weight`), this.parameter(`${name}.bias`));
    return { output, saved: { x, ...saved } };
  }

  /** `residual`: the gradient that reaches x beside the norm, to be added to gradX. */
  layerNormBackward(
    name: string,
    gradOutput: Tensor,
    saved: LayerNormSaved,
    gradients: Gradients,
    residual?: Tensor,
  ): Tensor {
    const from = { ...saved, weight: this.parameter(`${name}.weight`) };
    const result = runLayerNormBackward('layerNormBackward', gradOutput, from, residual);
    gradients.set(`${name}.weight`, result.gradWeight);
    gradients.set(`${name}.bias`, result.gradBias);
    return result.gradX;
  }

  rmsNorm(name: string, x: Tensor): { output: Tensor; rstd: Tensor } {
    return rmsNorm(x, this.parameter(`${name}.weight`));
  }

  rmsNormBackward(name: string, gradOutput: Tensor, saved: RmsNormSaved, gradients: Gradients): Tensor {
    const result = rmsNormBackward(gradOutput, { ...saved, weight: this.parameter(`${name}.weight`) });
    gradients.set(`${name}.weight`, result.gradWeight);
    return result.gradX;
  }
}
