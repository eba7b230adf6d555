/** What the self-attentions share: x [B, T, C] -> [B, T, C] with every projection inside, and the layers they are made of. */
import * as check from '../checks.js';
import { type DType, dtypes } from '../dtype.js';
import { type Gradients, Layers } from '../layers.js';
import {
  type Activations,
  Module,
  type ParameterSpec,
  type Placement,
  placementNames,
  resolvedPlacement,
  Saved,
} from '../module.js';
import { add, runAdd } from '../ops/add.js';
import { attention, attentionBackward } from '../ops/attention.js';
import { type RopeOptions, rope, ropeAngles, ropeBackward } from '../ops/rope.js';
import { scope } from '../scope.js';
import { operands, type Tensor } from '../tensor.js';

/** What every self-attention can be told. */
export interface SelfAttentionConfig extends Placement {
  /** C: features per token. */
  width: number;
  /** H: attention heads. */
  heads: number;
  /** Whether a token sees only itself and those before it. Default true. */
  causal?: boolean;
}

/** What `backward` returns. */
export interface SelfAttentionGradients {
  /** [B, T, C] */
  gradX: Tensor;
  /** By name, f32, in the order of `parameters`. */
  gradParameters: ReadonlyMap<string, Tensor>;
}

/** What every backward pass reads, among others: a view of x. */
export type Kept = Activations & { readonly x: Tensor };

/** What the backward pass of the softmax attention inside reads. */
export type Attended = Record<'q' | 'k' | 'v' | 'heads' | 'logSumExp', Tensor>;

/** A self-attention with explicit forward and backward. Its parameters live until its own `dispose()`. */
export abstract class SelfAttention<A extends Kept = Kept> extends Module {
  /** The layers that it is made of. */
  protected readonly layers: Layers;
  readonly #width: number;
  readonly #dtype: DType;

  /** @internal */
  protected constructor(name: string, table: readonly ParameterSpec[], config: Required<SelfAttentionConfig>) {
    super(name, table, config);
    this.layers = new Layers(this.parameters);
    this.#width = config.width;
    this.#dtype = config.dtype;
  }

  /** Elements per token that a decoder keeps of each layer: what later tokens read. */
  abstract readonly cachedElements: number;

  /** `cachedElements` in bytes, in the dtype of activations. */
  get cachedBytes(): number {
    return this.cachedElements * dtypes[this.#dtype].bytes;
  }

  /** The number of elements of all parameters. */
  get parameterCount(): number {
    return [...this.parameters.values()].reduce((sum, { size }) => sum + size, 0);
  }

  /**
   * x [B, T, C] of `config.dtype` -> output [B, T, C], and what `backward` needs. With `save: false` (inference) everything
   * but the output is freed and `saved` is null.
   */
  forward(x: Tensor, options?: { save?: true }): { output: Tensor; saved: Saved<A> };
  forward(x: Tensor, options: { save: false }): { output: Tensor; saved: null };
  forward(x: Tensor, options?: { save?: boolean }): { output: Tensor; saved: Saved<A> | null };
  forward(x: Tensor, options?: { save?: boolean }): { output: Tensor; saved: Saved<A> | null } {
    const op = this.begin('forward', arguments.length, 2);
    const { save = true } = check.options(op, options, ['save']);
    check.boolean(op, 'save', save);
    this.#check(op, 'x', x);
    const { output, activations } = scope(() => {
      const { output, activations } = this.run(x, save);
      return { output, activations: save ? activations : null };
    });
    return { output, saved: activations && new Saved<A>(this, activations) };
  }

  /** The gradients of `forward`: gradOutput [B, T, C] of `config.dtype` and the `saved` of that call, which stays usable. */
  backward(gradOutput: Tensor, saved: Saved<A>): SelfAttentionGradients {
    const op = this.begin('backward', arguments.length, 2);
    const activations = this.activations(op, saved);
    this.#check(op, 'gradOutput', gradOutput);
    check.shape(op, 'gradOutput', gradOutput, activations.x.shape, 'the shape of x');
    return scope(() => {
      const gradients: Gradients = new Map();
      const gradX = this.differentiate(gradOutput, activations, gradients);
      const ordered = [...this.parameters.keys()].map((name): [string, Tensor] => [
        name,
        gradients.get(name) as Tensor,
      ]);
      return { gradX, gradParameters: new Map(ordered) };
    });
  }

  /** The forward pass. Without `save` the activations are not read. */
  protected abstract run(x: Tensor, save: boolean): { output: Tensor; activations: A };

  /** The backward pass: returns gradX and sets the gradient of every parameter. */
  protected abstract differentiate(gradOutput: Tensor, saved: A, gradients: Gradients): Tensor;

  #check(op: string, name: string, tensor: Tensor): void {
    operands(op, { [name]: tensor });
    check.shape(op, name, tensor, ['B', 'T', this.#width], `width is ${this.#width}`);
    check.dtype(op, name, tensor, this.#dtype, 'the dtype of the module');
  }

  /** Softmax attention and the output projection after it, [B, T, C]. */
  protected attended(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: { causal: boolean },
  ): { output: Tensor; attended: Attended } {
    const { output: heads, logSumExp } = attention(q, k, v, options);
    return { output: this.layers.linear('output', flat(heads)), attended: { q, k, v, heads, logSumExp } };
  }

  /** `attended` backwards: gradients of q, k and v. */
  protected attendedBackward(
    gradOutput: Tensor,
    { q, k, v, heads, logSumExp }: Attended,
    gradients: Gradients,
    options: { causal: boolean },
  ): { gradQ: Tensor; gradK: Tensor; gradV: Tensor } {
    const gradHeads = this.layers.linearBackward('output', gradOutput, flat(heads), gradients).reshape(heads.shape);
    return attentionBackward(gradHeads, { q, k, v, output: heads, logSumExp }, options);
  }
}

/** [B, T, n*D] -> [B, T, n, D] */
export const split = (x: Tensor, n: number): Tensor => x.reshape([...x.shape.slice(0, 2), n, -1]);

/** [B, T, n, D] -> [B, T, n*D] */
export const flat = (x: Tensor): Tensor => x.reshape([...x.shape.slice(0, 2), -1]);

/** A view that stays when x is disposed. */
export const view = (x: Tensor): Tensor => x.reshape(x.shape);

/** Rotary positions, where there are any. */
export const applyRope = (x: Tensor, options: RopeOptions | null): Tensor => (options ? rope(x, options) : x);

/** The gradient of `applyRope`. */
export const applyRopeBackward = (gradOutput: Tensor, options: RopeOptions | null): Tensor =>
  options ? ropeBackward(gradOutput, options) : gradOutput;

/** Gradients that meet again where their forward parted. */
export function sum(a: Tensor, b: Tensor, c?: Tensor, ...others: Tensor[]): Tensor {
  return others.reduce((total, next) => add(total, next), runAdd('add', { a, b, c }));
}

/** The parameters of a linear layer [outputs, inputs]. */
export function linearSpec(name: string, outputs: number, inputs: number, { bias = false } = {}): ParameterSpec[] {
  const weight: ParameterSpec = [`${name}.weight`, [outputs, inputs], inputs];
  return bias ? [weight, [`${name}.bias`, [outputs], inputs]] : [weight];
}

/** The parameter of an RMS norm. */
export const normSpec = (name: string, width: number): ParameterSpec[] => [[`${name}.weight`, [width], 'ones']];

/** Checks a config's option names and what all configs share; returns that with its defaults. */
export function resolvedCommon<C extends SelfAttentionConfig>(
  op: string,
  config: C,
  own: readonly (keyof C & string)[],
): Required<SelfAttentionConfig> {
  check.object(op, 'config', config);
  check.options(op, config, ['width', 'heads', 'causal', ...placementNames, ...own]);
  const { width, heads, causal = true } = config;
  check.boolean(op, 'causal', causal);
  return { ...resolvedSizes(op, { width, heads }), causal, ...resolvedPlacement(op, config) };
}

/** Sizes are integers of at least 1. */
export function resolvedSizes<S extends Record<string, number>>(op: string, sizes: S): S {
  for (const [name, size] of Object.entries(sizes)) check.integer(op, name, size, { min: 1 });
  return sizes;
}

/** D, by default C / H. */
export function resolvedHeadDim(op: string, headDim: number | undefined, width: number, heads: number): number {
  if (headDim !== undefined) return check.integer(op, 'headDim', headDim, { min: 1 });
  return check.multiple(op, 'width', width, heads, `heads is ${heads} and headDim not given`) / heads;
}

/** Checked settings of rotary positions, null for none, and the width that they rotate, by its name. */
export function resolvedRope(
  op: string,
  rope: RopeOptions | null,
  [name, width]: [string, number],
): Required<RopeOptions> | null {
  if (rope === null) return null;
  const { interleaved = false } = check.options(op, rope, ['base', 'offset', 'interleaved'], 'rope');
  check.boolean(op, 'rope.interleaved', interleaved);
  check.multiple(op, name, width, 2, 'rotary positions rotate pairs of features');
  return Object.freeze({ ...ropeAngles(op, rope, 'rope.'), interleaved });
}
