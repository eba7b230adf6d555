import * as check from '../checks.js';
import type { Device } from '../device.js';
import { ShapeError } from '../errors.js';
import type { Gradients } from '../layers.js';
import type { ParameterSpec } from '../module.js';
import type { ExpandOptions } from '../ops/expand.js';
import { type RopeOptions, ropeAngles } from '../ops/rope.js';
import * as block from '../sas_block.js';
import { forget, scope } from '../scope.js';
import { Tensor } from '../tensor.js';
import {
  applyRope,
  applyRopeBackward,
  flat,
  linearSpec,
  resolvedCommon,
  resolvedSizes,
  SelfAttention,
  type SelfAttentionConfig,
  split,
  sum,
  view,
} from './self_attention.js';

/** The sizes and settings of `SimulatedAttention`; symbols as in the paper. */
export interface SimulatedConfig extends SelfAttentionConfig {
  /** H': simulated heads, a multiple of `heads`; H itself with expansion 'features'. */
  simHeads: number;
  /** D': simulated features per head of query and key; C/H itself with expansion 'heads'. */
  simHeadDim: number;
  /** k: kernel size of the convolutions over heads, odd; 1 is the paper's linear variant, and all there is with 'features'. Default 5. */
  kernelSize?: number;
  /** Rotary positions of queries and keys, of pairs (2i, 2i + 1); null for none. Default null. */
  rope?: Pick<RopeOptions, 'base' | 'offset'> | null;
  /** Whether rotary positions apply to the simulated or to the projected queries and keys. Default 'expanded', in the same pass as the expansion. */
  ropeAt?: 'expanded' | 'projected';
  /** As `recompute` of `SasAttention`. Default true. */
  recompute?: boolean;
  /** Ablation: what is simulated. Default 'both'. */
  expansion?: 'both' | 'heads' | 'features';
  /** Ablation: whether each map has its residual layer (Y = C1 and Z = Z1 without). Default true. */
  residual?: boolean;
  /** Ablation: whether the groups of heads are averaged before the output projection (PEAA), or it reads all heads. Default true. */
  aggregation?: boolean;
}

type Kept = Record<'x', Tensor> & block.Activations;

/**
 * SAS, simulated attention score (arXiv 2507.07694), as a self-attention over tokens x, with the projections that `SasAttention`
 * leaves to its caller: q, k, v = x W^T + b [B, T, H, D], then what `SasAttention` does.
 *
 * Parameters: `query`, `key`, `value`, each `.weight` [C, C] and `.bias`, then those of `SasAttention`; an ablation lacks those of
 * the layers that it leaves out. Cached per token: the simulated key and value, H' (D' + D); 2 H D where they are simulated
 * anew for every later token.
 */
export class SimulatedAttention extends SelfAttention<Kept> {
  readonly config: Readonly<Required<SimulatedConfig>>;
  readonly #settings: block.Settings;
  /** What stands for the weights of layers that an ablation leaves out. */
  readonly #constants: ReadonlyMap<string, Tensor>;

  constructor(config: SimulatedConfig) {
    const known = resolved(check.call('SimulatedAttention', arguments.length, 1), config);
    const { rope: angles, ...plain } = known;
    const { width, heads, simHeadDim, ropeAt } = known;
    const sizes = { ...plain, headDim: width / heads };
    super('SimulatedAttention', parametersOf(known), known);
    this.config = Object.freeze(known);
    const rope: Pick<block.Settings, 'rope'> = angles && ropeAt === 'expanded' ? { rope: angles } : {};
    this.#settings = { ...sizes, scale: 1 / Math.sqrt(simHeadDim), ...rope };
    this.#constants = constants(block.parameterTable(sizes, known), block.parameterTable(sizes), known);
  }

  get cachedElements(): number {
    const { width, heads, simHeads, simHeadDim } = this.config;
    return simHeads * (simHeadDim + width / heads);
  }

  override dispose(): void {
    super.dispose();
    for (const tensor of this.#constants.values()) tensor.dispose();
  }

  protected run(x: Tensor, save: boolean): { output: Tensor; activations: Kept } {
    const { heads } = this.config;
    const angles = this.#projectedRope();
    const q = applyRope(split(this.layers.linear('query', x), heads), angles);
    const k = applyRope(split(this.layers.linear('key', x), heads), angles);
    const v = split(this.layers.linear('value', x), heads);
    const { output, activations } = block.forward(
      'SimulatedAttention',
      this.#settings,
      this.#weights(),
      { q, k, v },
      save,
    );
    return { output, activations: { x: view(x), ...(activations as block.Activations) } };
  }

  protected differentiate(gradOutput: Tensor, saved: Kept, gradients: Gradients): Tensor {
    const angles = this.#projectedRope();
    const { gradQ, gradK, gradV, gradParameters } = block.backward(
      'SimulatedAttention',
      this.#settings,
      this.#weights(),
      gradOutput,
      saved,
    );
    for (const [name, gradient] of gradParameters) gradients.set(name, gradient);
    return sum(
      this.layers.linearBackward('query', flat(applyRopeBackward(gradQ, angles)), saved.x, gradients),
      this.layers.linearBackward('key', flat(applyRopeBackward(gradK, angles)), saved.x, gradients),
      this.layers.linearBackward('value', flat(gradV), saved.x, gradients),
    );
  }

  #weights(): block.Parameters {
    return new Map([...this.parameters, ...this.#constants]);
  }

  #projectedRope(): RopeOptions | null {
    const { rope, ropeAt } = this.config;
    return rope && ropeAt === 'projected' ? { ...rope, interleaved: true } : null;
  }
}

/** The parameters of such a module, for whoever must know their sizes before they take memory. */
export const simulatedParameters = (config: SimulatedConfig): readonly ParameterSpec[] =>
  parametersOf(resolved('SimulatedAttention', config));

function parametersOf(known: Required<SimulatedConfig>): ParameterSpec[] {
  const { width, heads } = known;
  return [
    ...['query', 'key', 'value'].flatMap((name) => linearSpec(name, width, width, { bias: true })),
    ...block.parameterTable({ ...known, headDim: width / heads }, known),
  ];
}

/**
 * A head map that is left out becomes the identity, a residual layer nothing: [H', H', k] and the others of the complete block,
 * but those of features when there are none.
 */
function constants(
  present: readonly ParameterSpec[],
  complete: readonly ParameterSpec[],
  { expansion, device }: { expansion: string; device: Device },
): ReadonlyMap<string, Tensor> {
  const names = new Set(present.map(([name]) => name));
  const ofFeatures = /^sas_.\.[23]\./;
  const absent = complete.filter(([name]) => !names.has(name) && !(expansion === 'heads' && ofFeatures.test(name)));
  return scope(() => {
    const made = absent.map(([name, shape]): [string, Tensor] => {
      const data = new Float32Array(check.elements(shape));
      const [rows = 1] = shape;
      if (/^sas_.\.0\.weight$/.test(name)) for (let i = 0; i < rows; i++) data[i * rows + i] = 1;
      return [name, Tensor.from(data, shape, { device })];
    });
    for (const [, tensor] of made) forget(tensor);
    return new Map(made);
  });
}

function resolved(op: string, config: SimulatedConfig): Required<SimulatedConfig> {
  const own = [
    'simHeads',
    'simHeadDim',
    'kernelSize',
    'rope',
    'ropeAt',
    'recompute',
    'expansion',
    'residual',
    'aggregation',
  ] as const;
  const common = resolvedCommon(op, config, own);
  const { width, heads } = common;
  const { ropeAt = 'expanded', expansion = 'both', residual = true, aggregation = true, recompute = true } = config;
  check.oneOf(op, 'expansion', expansion, ['both', 'heads', 'features']);
  check.oneOf(op, 'ropeAt', ropeAt, ['expanded', 'projected']);
  check.boolean(op, 'residual', residual);
  check.boolean(op, 'aggregation', aggregation);
  check.boolean(op, 'recompute', recompute);
  const headDim = check.multiple(op, 'width', width, heads, `heads is ${heads}`) / heads;
  const { simHeads, simHeadDim } = resolvedSizes(op, { simHeads: config.simHeads, simHeadDim: config.simHeadDim });
  const kernelSize = expansion === 'features' ? 1 : (config.kernelSize ?? 5);
  block.checkSizes(op, { heads, headDim, simHeads, simHeadDim, kernelSize });
  if (expansion === 'features')
    checkSame(op, 'simHeads', simHeads, heads, `expansion is 'features' and heads ${heads}`);
  if (expansion === 'heads')
    checkSame(op, 'simHeadDim', simHeadDim, headDim, `expansion is 'heads', width / heads ${headDim}`);
  const angles = resolvedAngles(op, config.rope ?? null, ropeAt === 'expanded' ? simHeadDim : headDim);
  const variant = { ropeAt, recompute, expansion, residual, aggregation };
  return { ...common, simHeads, simHeadDim, kernelSize, rope: angles, ...variant };
}

function checkSame(op: string, name: string, size: number, wanted: number, because: string): void {
  if (size !== wanted) throw new ShapeError(`${op}: ${name} is ${size}, expected ${wanted} (${because})`);
}

function resolvedAngles(
  op: string,
  rope: ExpandOptions['rope'] | null,
  width: number,
): Required<Pick<RopeOptions, 'base' | 'offset'>> | null {
  if (!rope) return null;
  check.multiple(op, 'the width that rope rotates', width, 2, 'rotary positions rotate pairs of features');
  return Object.freeze(ropeAngles(op, check.options(op, rope, ['base', 'offset'], 'rope'), 'rope.'));
}
