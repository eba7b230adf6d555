// What the attention modules (attentions.ts) are composed of: a step gives its output and takes a gradient back. The same
// steps are exact here and round as a storage type does in rounded_attentions.ts, so that the two cannot drift apart.
import { aggregate, aggregateBackward } from './aggregate.js';
import { type Array64, add64, relu, reluBackward, reshape64 } from './array64.js';
import { type AttentionGradients64, attention, attentionBackward } from './attention.js';
import { concat, concatBackward } from './concat.js';
import { headConvolution, headConvolutionBackward } from './expand.js';
import { linear, linearBackward } from './linear.js';
import { rmsNorm, rmsNormBackward } from './norm.js';
import { type RopeOptions64, rope, ropeBackward } from './rope.js';
import { type Parameters64, parameter64 } from './sas_attention.js';
import { tensorProduct, tensorProductBackward } from './tensor_product.js';

/** What happens to the values between two steps, and softmax attention, which has steps inside. */
export interface Arithmetic64 {
  /** What a step stores: an activation or the gradient of one. */
  stored(value: Array64): Array64;
  /** The same of a step inside an op that is made of several (the expansion). */
  inside(value: Array64): Array64;
  /** A parameter as an operand. */
  operand(parameter: Array64): Array64;
  /** The gradient of a parameter. */
  gradient(value: Array64): Array64;
  /** q [B, T, H, Dqk], k [B, T, Hkv, Dqk], v [B, T, Hkv, Dv] -> [B, T, H, Dv]; scale 1/sqrt(Dqk) */
  attention(q: Array64, k: Array64, v: Array64, options: { causal: boolean }): Attended64;
}

export interface Attended64 {
  output: Array64;
  backward(gradOutput: Array64): AttentionGradients64;
}

/** `omitMean` as in attentionBackward: scales for gradients that are exactly zero, not gradients. */
export function exactArithmetic({ omitMean = false } = {}): Arithmetic64 {
  const same = (value: Array64) => value;
  return {
    stored: same,
    inside: same,
    operand: same,
    gradient: same,
    attention: (q, k, v, { causal }) => ({
      output: attention(q, k, v, { causal }).output,
      backward: (gradOutput) => attentionBackward(gradOutput, q, k, v, { causal, omitMean }),
    }),
  };
}

/** A differentiable function at one input: `backward` takes the gradient of the output to that of the input. */
export interface Step64 {
  output: Array64;
  backward(gradOutput: Array64): Array64;
}

/** One after the other. */
export function chain(first: Step64, ...others: ((x: Array64) => Step64)[]): Step64 {
  return others.reduce((before, next) => {
    const after = next(before.output);
    return { output: after.output, backward: (gradOutput) => before.backward(after.backward(gradOutput)) };
  }, first);
}

export function identity(x: Array64): Step64 {
  return { output: x, backward: (gradOutput) => gradOutput };
}

/** The steps over the parameters of one module; each `backward` leaves the gradients of its parameters in `gradParameters`. */
export class Steps64 {
  readonly gradParameters: Parameters64;
  readonly #parameters: Parameters64;
  readonly #arithmetic: Arithmetic64;
  readonly #causal: boolean;

  constructor(
    parameters: Parameters64,
    arithmetic: Arithmetic64,
    { causal = true, gradParameters = new Map() }: { causal?: boolean; gradParameters?: Parameters64 } = {},
  ) {
    this.#parameters = parameters;
    this.#arithmetic = arithmetic;
    this.#causal = causal;
    this.gradParameters = gradParameters;
  }

  /** x W^T + b, without b where the module has none. x [..., K] -> [..., N] */
  linear(name: string, x: Array64): Step64 {
    const weight = this.#operand(`${name}.weight`);
    const bias = this.#parameters.has(`${name}.bias`) ? this.#operand(`${name}.bias`) : undefined;
    return this.#step(linear(x, weight, bias), (gradOutput) => {
      const { gradX, gradWeight, gradBias } = linearBackward(gradOutput, x, weight);
      this.#keep(`${name}.weight`, gradWeight);
      if (bias !== undefined) this.#keep(`${name}.bias`, gradBias);
      return gradX;
    });
  }

  /** `linear`, its output seen as heads. x [B, T, C] -> [B, T, heads, N / heads] */
  heads(name: string, x: Array64, heads: number): Step64 {
    const { output, backward } = this.linear(name, x);
    const [batch, time, features] = output.shape;
    return { output: reshape64(output, [batch, time, heads, features / heads]), backward };
  }

  /** `linear` of all heads side by side. x [B, T, H, D] -> [B, T, N] */
  mergeHeads(name: string, x: Array64): Step64 {
    const [batch, time, heads, width] = x.shape;
    const { output, backward } = this.linear(name, reshape64(x, [batch, time, heads * width]));
    return { output, backward: (gradOutput) => reshape64(backward(gradOutput), x.shape) };
  }

  rmsNorm(name: string, x: Array64): Step64 {
    const weight = this.#operand(`${name}.weight`);
    return this.#step(rmsNorm(x, weight).output, (gradOutput) => {
      const { gradX, gradWeight } = rmsNormBackward(gradOutput, x, weight);
      this.#keep(`${name}.weight`, gradWeight);
      return gradX;
    });
  }

  /** x [B, T, H, D]; null: no rotation. */
  rope(x: Array64, options: RopeOptions64 | null): Step64 {
    if (options === null) return identity(x);
    return this.#step(rope(x, options), (gradOutput) => ropeBackward(gradOutput, options));
  }

  /** x [B, T, H, D] -> [B, T, H', D] */
  headConvolution(name: string, x: Array64): Step64 {
    const weight = this.#operand(`${name}.weight`);
    return this.#step(headConvolution(x, weight, this.#operand(`${name}.bias`)), (gradOutput) => {
      const { gradX, gradWeight, gradBias } = headConvolutionBackward(gradOutput, x, weight);
      this.#keep(`${name}.weight`, gradWeight);
      this.#keep(`${name}.bias`, gradBias);
      return gradX;
    });
  }

  /** x + process(relu(x)) */
  residual(x: Array64, process: (reluX: Array64) => Step64): Step64 {
    const branch = process(relu(x));
    return this.#step(add64(x, branch.output), (gradOutput) =>
      add64(gradOutput, reluBackward(branch.backward(gradOutput), x)),
    );
  }

  /** One op made of several steps. */
  fused(build: (inside: Steps64) => Step64): Step64 {
    const arithmetic = { ...this.#arithmetic, stored: this.#arithmetic.inside };
    const { output, backward } = build(
      new Steps64(this.#parameters, arithmetic, { gradParameters: this.gradParameters }),
    );
    return this.#step(output, backward);
  }

  /** The mean over groups of heads: x [B, T, r*H, D] -> [B, T, H, D] */
  aggregate(x: Array64, heads: number): Step64 {
    const [batch, time, simHeads, width] = x.shape;
    const mean = reshape64(aggregate(x, heads), [batch, time, heads, width]);
    return this.#step(mean, (gradOutput) =>
      aggregateBackward(reshape64(gradOutput, [batch, time, heads * width]), heads, simHeads),
    );
  }

  attention(q: Array64, k: Array64, v: Array64): Attended64 {
    return this.#arithmetic.attention(q, k, v, { causal: this.#causal });
  }

  concat(a: Array64, b: Array64): { output: Array64; backward(gradOutput: Array64): [gradA: Array64, gradB: Array64] } {
    const [headsA, widthA, headsB] = [a.shape[2], a.shape[3], b.shape[2]];
    return {
      output: concat(a, b),
      backward: (gradOutput) => {
        const { gradA, gradB } = concatBackward(gradOutput, { headsA, widthA, headsB });
        return [this.#arithmetic.stored(gradA), this.#arithmetic.stored(gradB)];
      },
    };
  }

  /** headFactors [B, T, R, H], featureFactors [B, T, R, D] -> [B, T, H, D] */
  tensorProduct(
    headFactors: Array64,
    featureFactors: Array64,
  ): { output: Array64; backward(gradOutput: Array64): [gradHeadFactors: Array64, gradFeatureFactors: Array64] } {
    return {
      output: this.#arithmetic.stored(tensorProduct(headFactors, featureFactors)),
      backward: (gradOutput) => {
        const gradients = tensorProductBackward(gradOutput, headFactors, featureFactors);
        return [
          this.#arithmetic.stored(gradients.gradHeadFactors),
          this.#arithmetic.stored(gradients.gradFeatureFactors),
        ];
      },
    };
  }

  /** Gradients of an input that several steps read. */
  sum(...gradients: Array64[]): Array64 {
    return gradients.reduce((sum, gradient) => this.#arithmetic.stored(add64(sum, gradient)));
  }

  #operand(name: string): Array64 {
    return this.#arithmetic.operand(parameter64(this.#parameters, name));
  }

  #keep(name: string, gradient: Array64): void {
    this.gradParameters.set(name, this.#arithmetic.gradient(gradient));
  }

  #step(output: Array64, backward: (gradOutput: Array64) => Array64): Step64 {
    const { stored } = this.#arithmetic;
    return { output: stored(output), backward: (gradOutput) => stored(backward(gradOutput)) };
  }
}
