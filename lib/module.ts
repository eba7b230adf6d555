/** What the modules share: parameters under fixed names, their state dict, and what a forward keeps for its backward. */
import * as check from './checks.js';
import { Device, getDevice } from './device.js';
import { type DType, dtypes, floats } from './dtype.js';
import { ArgumentError, DisposedError, DTypeError, ShapeError } from './errors.js';
import { type HostArray, lengthOfArray } from './host_array.js';
import { forget, scope, track } from './scope.js';
import { operands, overwrite, random, Tensor } from './tensor.js';
import { fairly } from './turn.js';

/** One tensor of a state dict on the host. Uint16Array: the raw bits of `dtype`, 'bf16' or 'f16'. */
export interface StateEntry {
  readonly shape: readonly number[];
  readonly data: HostArray;
  readonly dtype?: DType;
}

/** A parameter: it begins uniform in +-1/sqrt(fanIn), as PyTorch does by default, or with ones (the weight of a norm). */
export type ParameterSpec = readonly [name: string, shape: readonly number[], fanIn: number | 'ones'];

/** What all modules can be told besides their sizes. */
export interface Placement {
  /** The dtype of activations; parameters are f32. Default 'f32'. */
  dtype?: DType;
  /** Default `getDevice()`. */
  device?: Device;
  /** Seed of the parameters, an integer of at least 0: the same parameters on every device. Default 0. */
  seed?: number;
}

/** The tensors that a backward pass reads, by name. */
export type Activations = Readonly<Record<string, Tensor>>;

let activationsOf: <A extends Activations>(op: string, owner: Module, saved: Saved<A>) => A;

/**
 * What a forward pass keeps for its backward pass, as views of its own: the tensors given to `forward` may be disposed. Goes
 * with `dispose()`, with the `scope` it was made in, or when it is collected.
 */
export class Saved<A extends Activations = Activations> {
  static {
    activationsOf = (op, owner, saved) => {
      if (!(typeof saved === 'object' && saved !== null && #activations in saved)) {
        throw new ArgumentError(`${op}: saved is ${check.describe(saved)}, expected what forward returned as saved`);
      }
      if (!saved.#activations) throw new DisposedError(`${op}: saved has been disposed`);
      if (saved.#owner !== owner) throw new ArgumentError(`${op}: saved was returned by a different module's forward`);
      return saved.#activations;
    };
  }

  readonly #owner: Module;
  #activations: A | null;

  /** @internal */
  constructor(owner: Module, activations: A) {
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

/** Parameters live until the module's own `dispose()`, also when it is made inside a `scope`. */
export abstract class Module {
  /** By name, f32, in a fixed order. */
  readonly parameters: ReadonlyMap<string, Tensor>;
  /** As it stands in messages. */
  readonly #name: string;

  /** @internal */
  protected constructor(name: string, table: readonly ParameterSpec[], { device, seed }: Required<Placement>) {
    this.#name = name;
    this.parameters = scope(() => {
      const made = table.map(([key, shape, fanIn], stream): [string, Tensor] => {
        const op = `${name}: ${key}`;
        if (fanIn === 'ones')
          return [key, Tensor.from(new Float32Array(check.elements(shape)).fill(1), shape, { device })];
        const draw = { kind: 1, scale: 1 / Math.sqrt(fanIn), seed, stream } as const;
        return [key, random(op, shape, { dtype: 'f32', device }, draw)];
      });
      for (const [, tensor] of made) forget(tensor);
      return new Map(made);
    });
  }

  /** A copy of the parameters on the host, as the ops enqueued so far leave them. */
  stateDict(): Promise<Map<string, { shape: number[]; data: Float32Array }>> {
    return fairly(async () => {
      this.begin('stateDict', arguments.length, 0);
      const entries = [...this.parameters].map(async ([name, tensor]) => {
        const data = (await tensor.data()) as Float32Array;
        return [name, { shape: [...tensor.shape], data }] satisfies [string, object];
      });
      return new Map(await Promise.all(entries));
    });
  }

  /**
   * Replaces every parameter, in order with the ops around it; takes what `stateDict` and `loadSafetensors` return. Names and
   * shapes must match exactly (ArgumentError, ShapeError, DTypeError), and all is checked before anything is written.
   */
  loadStateDict(state: Iterable<readonly [string, StateEntry]>): void {
    const op = this.begin('loadStateDict', arguments.length, 1);
    operands(op, Object.fromEntries(this.parameters));
    const entries = check.entries(op, 'state', state);
    const names = entries.map(([name]) => name);
    checkNames(op, [...this.parameters.keys()], names);
    const given = new Map(entries);
    for (const [name, entry] of given) checkEntry(op, name, entry, this.parameter(name).shape);
    for (const [name, { data, dtype = 'f32' }] of given) overwrite(op, this.parameter(name), data, dtype);
  }

  /** Disposes the parameters; a second call does nothing. */
  dispose(): void {
    for (const tensor of this.parameters.values()) tensor.dispose();
  }

  /** As `dispose()`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** The name of a method in messages. Throws for arguments beyond its `most`, and once the module has been disposed. */
  protected begin(method: string, given: number, most: number): string {
    const op = check.call(`${this.#name}.${method}`, given, most);
    for (const [name, tensor] of this.parameters) {
      if (tensor.disposed)
        throw new DisposedError(`${op}: the module has been disposed (its parameter ${name} is gone)`);
    }
    return op;
  }

  /** What `forward` kept, if it was this module's. */
  protected activations<A extends Activations>(op: string, saved: Saved<A>): A {
    return activationsOf(op, this, saved);
  }

  protected parameter(name: string): Tensor {
    return this.parameters.get(name) as Tensor;
  }
}

/** Names of `Placement`, for `check.options`. */
export const placementNames = ['dtype', 'device', 'seed'] as const;

/** The placement with its defaults, checked. */
export function resolvedPlacement(
  op: string,
  { dtype = 'f32', device = getDevice(), seed = 0 }: Placement,
): Required<Placement> {
  check.dtypeName(op, 'dtype', dtype, floats);
  check.integer(op, 'seed', seed, { min: 0 });
  if (!(device instanceof Device)) {
    throw new ArgumentError(`${op}: device is ${check.describe(device)}, expected a Device (from getDevice)`);
  }
  return { dtype, device, seed };
}

/** Exactly the wanted names are given, each once. */
export function checkNames(op: string, wanted: readonly string[], given: readonly string[]): void {
  const missing = wanted.filter((name) => !given.includes(name));
  const unexpected = given.filter((name) => !wanted.includes(name));
  const twice = given.filter((name, i) => given.indexOf(name) !== i);
  const faults = Object.entries({ missing, unexpected, twice }).filter(([, names]) => names.length);
  if (!faults.length) return;
  const found = faults.map(([fault, names]) => `${fault}: ${names.join(', ')}`).join('; ');
  throw new ArgumentError(`${op}: expected exactly the module's ${wanted.length} parameters; ${found}`);
}

/** The entry of a state dict holds an f32 parameter of that shape, or one that widens to f32. */
function checkEntry(op: string, name: string, entry: StateEntry, shape: readonly number[]): void {
  const { shape: given, data, dtype = 'f32' } = check.record(op, name, entry, ['shape', 'data', 'dtype']);
  check.dtypeName(op, `${name}.dtype`, dtype, floats);
  if (!dtypes[dtype].isArray(data)) {
    throw new DTypeError(
      `${op}: ${name} has ${check.describe(data)}, expected a ${dtypes[dtype].array.name} (${dtype})`,
    );
  }
  if (given?.length !== shape.length || !shape.every((size, i) => size === given[i])) {
    throw new ShapeError(`${op}: ${name} has shape ${check.show(given ?? [])}, expected ${check.show(shape)}`);
  }
  check.count(op, name, lengthOfArray(data), shape);
}
