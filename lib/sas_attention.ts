/** The SAS attention module (arXiv 2507.07694): parameters, forward and backward composed of the ops. */
import * as check from './checks.js';
import { Device, getDevice } from './device.js';
import { type DType, dtypes, floats } from './dtype.js';
import { ArgumentError, DisposedError, DTypeError, ShapeError } from './errors.js';
import type { HostArray } from './host_array.js';
import { aggregate, aggregateBackward } from './ops/aggregate.js';
import { attention, attentionBackward, attentionMean } from './ops/attention.js';
import { type ExpandWeights, expand, expandBackward } from './ops/expand.js';
import { linear, linearBackward } from './ops/linear.js';
import { forget, scope, track } from './scope.js';
import { operands, overwrite, random, type Tensor } from './tensor.js';

/** The sizes and settings of a module; symbols as in the paper. */
export interface SasConfig {
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
  /** The dtype of activations; parameters are f32. Default 'f32'. */
  dtype?: DType;
  /** Default `getDevice()`. */
  device?: Device;
  /** Seed of the parameters, an integer of at least 0: the same parameters on every device. Default 0. */
  seed?: number;
}

/** One tensor of a state dict on the host. Uint16Array: the raw bits of `dtype`, 'bf16' or 'f16'. */
export interface StateEntry {
  readonly shape: readonly number[];
  readonly data: HostArray;
  readonly dtype?: DType;
}

/** What `backward` returns; gradients of parameters are f32, under the parameters' names. */
export interface SasGradients {
  gradQ: Tensor;
  gradK: Tensor;
  gradV: Tensor;
  gradParameters: ReadonlyMap<string, Tensor>;
}

type Projected = 'q' | 'k' | 'v';

/** The tensors that a backward pass reads. */
type Activations = Record<
  'q' | 'k' | 'v' | 'expandedQ' | 'expandedK' | 'expandedV' | 'heads' | 'logSumExp' | 'aggregated',
  Tensor
>;

/** Where the published module keeps each weight of an expansion (its state dict, after `sas_q.`, `sas_k.` or `sas_v.`). */
const layers: Readonly<Record<keyof ExpandWeights, string>> = {
  headWeight: '0.weight',
  headBias: '0.bias',
  headResidualWeight: '1.process.weight',
  headResidualBias: '1.process.bias',
  featureWeight: '2.weight',
  featureBias: '2.bias',
  featureResidualWeight: '3.process.weight',
  featureResidualBias: '3.process.bias',
};

let activationsOf: (op: string, owner: SasAttention, saved: SasSaved) => Activations;

/**
 * What a forward pass keeps for its backward pass, as views of its own: the tensors given to `forward` may be disposed. Goes
 * with `dispose()`, with the `scope` it was made in, or when it is collected.
 */
export class SasSaved {
  static {
    activationsOf = (op, owner, saved) => {
      if (!(typeof saved === 'object' && saved !== null && #activations in saved)) {
        throw new ArgumentError(`${op}: saved is ${check.describe(saved)}, expected what forward returned as saved`);
      }
      if (!saved.#activations) throw new DisposedError(`${op}: saved has been disposed`);
      if (saved.#owner !== owner)
        throw new ArgumentError(`${op}: saved is of another module, expected one of this module`);
      return saved.#activations;
    };
  }

  readonly #owner: SasAttention;
  #activations: Activations | null;

  /** @internal */
  constructor(owner: SasAttention, activations: Activations) {
    this.#owner = owner;
    this.#activations = activations;
    for (const tensor of Object.values(activations)) forget(tensor);
    track(this);
  }

  get disposed(): boolean {
    return this.#activations === null;
  }

  /** Gives up the memory; a second call does nothing. */
  dispose(): void {
    for (const tensor of Object.values(this.#activations ?? {})) tensor.dispose();
    this.#activations = null;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * SAS attention over projected queries, keys and values: expand, attend over simulated heads, average the groups, project.
 * Its parameters live until its own `dispose()`, also when it is made inside a `scope`.
 */
export class SasAttention {
  readonly config: Readonly<Required<SasConfig>>;
  /** By name, in the order q, k, v, output; named and shaped as the published module's state dict. */
  readonly parameters: ReadonlyMap<string, Tensor>;

  /** Parameters uniform in +-1/sqrt(fan_in), as PyTorch does by default. */
  constructor(config: SasConfig) {
    this.config = Object.freeze(resolved(config));
    const { device, seed } = this.config;
    this.parameters = scope(() => {
      const made = parameterTable(this.config).map(([name, shape, fanIn], stream): [string, Tensor] => {
        const draw = { kind: 1, scale: 1 / Math.sqrt(fanIn), seed, stream } as const;
        return [name, random(`SasAttention: ${name}`, shape, { dtype: 'f32', device }, draw)];
      });
      for (const [, tensor] of made) forget(tensor);
      return new Map(made);
    });
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
    const op = 'SasAttention.forward';
    const { heads: H, headDim: D, dtype, causal, scale } = this.config;
    this.#checkAlive(op);
    operands(op, { q, k, v, ...Object.fromEntries(this.parameters) });
    const [B] = check.shape(op, 'q', q, ['B', 'Tq', H, D], `heads is ${H} and headDim ${D}`);
    const [, Tk] = check.shape(op, 'k', k, [B, 'Tk', H, D], `q has shape ${check.show(q.shape)}`);
    check.shape(op, 'v', v, [B, Tk, H, D], `k has shape ${check.show(k.shape)}`);
    for (const [name, tensor] of Object.entries({ q, k, v })) {
      check.dtype(op, name, tensor, dtype, 'the dtype of the module');
    }
    const { save = true } = check.options(op, options, ['save']);
    check.boolean(op, 'save', save);

    return scope(() => {
      const expandedQ = expand(q, this.#weights('q'));
      const expandedK = expand(k, this.#weights('k'));
      const expandedV = expand(v, this.#weights('v'));
      const project = (aggregated: Tensor): Tensor =>
        linear(aggregated, this.#parameter('output_dense.weight'), this.#parameter('output_dense.bias'));
      if (!save) {
        const aggregated = attentionMean(expandedQ, expandedK, expandedV, { heads: H, causal, scale });
        return { output: project(aggregated), saved: null };
      }
      const { output: heads, logSumExp } = attention(expandedQ, expandedK, expandedV, { causal, scale });
      const aggregated = aggregate(heads, H);
      const output = project(aggregated);
      const [viewQ, viewK, viewV] = [q, k, v].map((x) => x.reshape(x.shape)) as [Tensor, Tensor, Tensor];
      const inputs = { q: viewQ, k: viewK, v: viewV };
      return {
        output,
        saved: new SasSaved(this, { ...inputs, expandedQ, expandedK, expandedV, heads, logSumExp, aggregated }),
      };
    });
  }

  /**
   * The gradients of `forward`: gradOutput [B, Tq, H*D] of `config.dtype` and the `saved` of that call, which stays usable.
   * gradQ, gradK and gradV are shaped as q, k and v.
   */
  backward(gradOutput: Tensor, saved: SasSaved): SasGradients {
    const op = 'SasAttention.backward';
    const { heads: H, simHeads, dtype, causal, scale } = this.config;
    this.#checkAlive(op);
    const from = activationsOf(op, this, saved);
    operands(op, { gradOutput, ...Object.fromEntries(this.parameters) });
    check.shape(op, 'gradOutput', gradOutput, from.aggregated.shape, 'the shape of the output');
    check.dtype(op, 'gradOutput', gradOutput, dtype, 'the dtype of the module');

    return scope(() => {
      const projection = linearBackward(gradOutput, from.aggregated, this.#parameter('output_dense.weight'));
      const gradHeads = aggregateBackward(projection.gradX, H, simHeads);
      const { expandedQ, expandedK, expandedV, heads, logSumExp } = from;
      const attended = { q: expandedQ, k: expandedK, v: expandedV, output: heads, logSumExp };
      // In f32, also with 16-bit storage: rounding gradK here would drown the bias gradient that is 0 in exact arithmetic.
      const gradients = attentionBackward(gradHeads, attended, { causal, scale, gradDtype: 'f32' });
      gradHeads.dispose();
      const q = expandBackward(gradients.gradQ, from.q, this.#weights('q'));
      const k = expandBackward(gradients.gradK, from.k, this.#weights('k'));
      const v = expandBackward(gradients.gradV, from.v, this.#weights('v'));
      const gradParameters = new Map([
        ...named('q', q.gradWeights),
        ...named('k', k.gradWeights),
        ...named('v', v.gradWeights),
        ['output_dense.weight', projection.gradWeight],
        ['output_dense.bias', projection.gradBias],
      ] as const);
      return { gradQ: q.gradX, gradK: k.gradX, gradV: v.gradX, gradParameters };
    });
  }

  /** A copy of the parameters on the host, as the ops enqueued so far leave them. */
  async stateDict(): Promise<Map<string, { shape: number[]; data: Float32Array }>> {
    this.#checkAlive('SasAttention.stateDict');
    const entries = [...this.parameters].map(async ([name, tensor]) => {
      const data = (await tensor.data()) as Float32Array;
      return [name, { shape: [...tensor.shape], data }] satisfies [string, object];
    });
    return new Map(await Promise.all(entries));
  }

  /**
   * Replaces every parameter, in order with the ops around it; takes what `stateDict` and `loadSafetensors` return. Names and
   * shapes must match exactly (ArgumentError, ShapeError, DTypeError), and all is checked before anything is written.
   */
  loadStateDict(state: Iterable<readonly [string, StateEntry]>): void {
    const op = 'SasAttention.loadStateDict';
    this.#checkAlive(op);
    operands(op, Object.fromEntries(this.parameters));
    const entries = [...state];
    const given = new Map(entries);
    const twice = entries.filter(([name, entry]) => given.get(name) !== entry).map(([name]) => name);
    const missing = [...this.parameters.keys()].filter((name) => !given.has(name));
    const unexpected = [...given.keys()].filter((name) => !this.parameters.has(name));
    const faults = Object.entries({ missing, unexpected, twice }).filter(([, names]) => names.length);
    if (faults.length) {
      const found = faults.map(([fault, names]) => `${fault}: ${names.join(', ')}`).join('; ');
      throw new ArgumentError(`${op}: expected exactly the module's ${this.parameters.size} parameters; ${found}`);
    }
    for (const [name, entry] of given) checkEntry(op, name, entry, this.#parameter(name).shape);
    for (const [name, { data, dtype = 'f32' }] of given) overwrite(op, this.#parameter(name), data, dtype);
  }

  /** Disposes the parameters; a second call does nothing. */
  dispose(): void {
    for (const tensor of this.parameters.values()) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #checkAlive(op: string): void {
    for (const [name, tensor] of this.parameters) {
      if (tensor.disposed)
        throw new DisposedError(`${op}: the module has been disposed (its parameter ${name} is gone)`);
    }
  }

  #parameter(name: string): Tensor {
    return this.parameters.get(name) as Tensor;
  }

  /** The weights of one tensor's expansion; those of features are absent for v. */
  #weights(tensor: Projected): ExpandWeights {
    const entries = Object.entries(layers).map(([weight, layer]) => [
      weight,
      this.parameters.get(`sas_${tensor}.${layer}`),
    ]);
    return Object.fromEntries(entries) as ExpandWeights;
  }
}

/** The gradients of an expansion's weights under the names of the parameters. */
function named(tensor: Projected, gradWeights: ExpandWeights): [string, Tensor][] {
  const entries = Object.entries(gradWeights) as [keyof ExpandWeights, Tensor][];
  return entries.map(([weight, gradient]) => [`sas_${tensor}.${layers[weight]}`, gradient]);
}

/** The config with its defaults, checked. */
function resolved(config: SasConfig): Required<SasConfig> {
  const op = 'SasAttention';
  check.object(op, 'config', config);
  const known = [
    'heads',
    'headDim',
    'simHeads',
    'simHeadDim',
    'kernelSize',
    'causal',
    'scale',
    'dtype',
    'device',
    'seed',
  ] as const;
  const given = check.options(op, config, known);
  const { heads, headDim, simHeads, simHeadDim, kernelSize = 5 } = given;
  for (const [name, size] of Object.entries({ heads, headDim, simHeads, simHeadDim, kernelSize })) {
    check.integer(op, name, size, { min: 1 });
  }
  check.multiple(op, 'simHeads', simHeads, heads, `heads is ${heads}`);
  check.odd(op, 'kernelSize', kernelSize, 'the convolution is centred');
  const { causal = true, scale = 1 / Math.sqrt(simHeadDim), dtype = 'f32', seed = 0 } = given;
  check.boolean(op, 'causal', causal);
  check.finite(op, 'scale', scale);
  check.dtypeName(op, 'dtype', dtype, floats);
  check.integer(op, 'seed', seed, { min: 0 });
  const { device = getDevice() } = given;
  if (!(device instanceof Device)) {
    throw new ArgumentError(`${op}: device is ${check.describe(device)}, expected a Device (from getDevice)`);
  }
  return { heads, headDim, simHeads, simHeadDim, kernelSize, causal, scale, dtype, device, seed };
}

/** Name, shape and fan-in of every parameter. */
function parameterTable(config: Required<SasConfig>): [name: string, shape: number[], fanIn: number][] {
  const { heads: H, headDim: D, simHeads: Hs, simHeadDim: Ds, kernelSize: k } = config;
  const layer = (name: string, shape: number[]): [string, number[], number][] => {
    const fanIn = check.elements(shape.slice(1));
    return [
      [`${name}.weight`, shape, fanIn],
      [`${name}.bias`, shape.slice(0, 1), fanIn],
    ];
  };
  const headLayers = (tensor: string) => [
    ...layer(`${tensor}.0`, [Hs, H, k]),
    ...layer(`${tensor}.1.process`, [Hs, Hs, k]),
  ];
  const featureLayers = (tensor: string) => [
    ...layer(`${tensor}.2`, [Ds, D]),
    ...layer(`${tensor}.3.process`, [Ds, Ds]),
  ];
  return [
    ...['sas_q', 'sas_k'].flatMap((tensor) => [...headLayers(tensor), ...featureLayers(tensor)]),
    ...headLayers('sas_v'),
    ...layer('output_dense', [H * D, H * D]),
  ];
}

/** The entry of a state dict holds an f32 parameter of that shape, or one that widens to f32. */
function checkEntry(op: string, name: string, entry: StateEntry, shape: readonly number[]): void {
  const { shape: given, data, dtype = 'f32' } = check.object(op, name, entry);
  check.dtypeName(op, `${name}.dtype`, dtype, floats);
  if (!(data instanceof dtypes[dtype].array)) {
    throw new DTypeError(
      `${op}: ${name} has ${check.describe(data)}, expected a ${dtypes[dtype].array.name} (${dtype})`,
    );
  }
  if (given?.length !== shape.length || !shape.every((size, i) => size === given[i])) {
    throw new ShapeError(`${op}: ${name} has shape ${check.show(given ?? [])}, expected ${check.show(shape)}`);
  }
  check.count(op, name, data.length, shape);
}
