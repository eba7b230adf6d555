/** The SAS attention module (arXiv 2507.07694): parameters, their state dict, and what a forward keeps for its backward. */
import * as check from './checks.js';
import { Device, getDevice } from './device.js';
import { type DType, dtypes, floats } from './dtype.js';
import { ArgumentError, DisposedError, DTypeError, ShapeError } from './errors.js';
import type { HostArray } from './host_array.js';
import * as block from './sas_block.js';
import { forget, scope, track } from './scope.js';
import { operands, overwrite, random, type Tensor } from './tensor.js';

export type { SasGradients } from './sas_block.js';

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

let activationsOf: (op: string, owner: SasAttention, saved: SasSaved) => block.Activations;

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
  #activations: block.Activations | null;

  /** @internal */
  constructor(owner: SasAttention, activations: block.Activations) {
    this.#owner = owner;
    this.#activations = activations;
    for (const tensor of Object.values(activations)) forget(tensor);
    track(this);
  }

  /** Whether the memory has been given up. */
  get disposed(): boolean {
    return this.#activations === null;
  }

  /** Gives up the memory; a second call does nothing. */
  dispose(): void {
    for (const tensor of Object.values(this.#activations ?? {})) tensor.dispose();
    this.#activations = null;
  }

  /** As `dispose()`, for `using`. */
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
      const made = block.parameterTable(this.config).map(([name, shape, fanIn], stream): [string, Tensor] => {
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
    this.#checkAlive(op);
    const { save = true } = check.options(op, options, ['save']);
    check.boolean(op, 'save', save);
    const { output, activations } = block.forward(op, this.config, this.parameters, { q, k, v }, save);
    return { output, saved: activations && new SasSaved(this, activations) };
  }

  /**
   * The gradients of `forward`: gradOutput [B, Tq, H*D] of `config.dtype` and the `saved` of that call, which stays usable.
   * gradQ, gradK and gradV are shaped as q, k and v.
   */
  backward(gradOutput: Tensor, saved: SasSaved): block.SasGradients {
    const op = 'SasAttention.backward';
    this.#checkAlive(op);
    return block.backward(op, this.config, this.parameters, gradOutput, activationsOf(op, this, saved));
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
    const names = entries.map(([name]) => name);
    block.checkNames(op, [...this.parameters.keys()], names);
    const given = new Map(entries);
    for (const [name, entry] of given) checkEntry(op, name, entry, this.#parameter(name).shape);
    for (const [name, { data, dtype = 'f32' }] of given) overwrite(op, this.#parameter(name), data, dtype);
  }

  /** Disposes the parameters; a second call does nothing. */
  dispose(): void {
    for (const tensor of this.parameters.values()) tensor.dispose();
  }

  /** As `dispose()`, for `using`. */
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
  block.checkSizes(op, { heads, headDim, simHeads, simHeadDim, kernelSize });
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
