/**
 * Calls of the public API, right and wrong. Right calls are held against float64; a wrong call must throw a SasError (or what
 * the caller's own getter throws) that is not the binding's: SAS_INTERNAL would mean that a check is missing above it.
 */
import { ArgumentError, type Device, type DType, SasError, Saved, scope, Tensor } from '../../lib/index.js';
import type { Resource } from '../../lib/scope.js';
import { relativeError } from '../helpers/compare.js';
import { type LibraryCall, libraryCalls } from '../helpers/library_calls.js';
import type { Named } from '../helpers/op.js';
import { oneTooMany, strangers } from '../helpers/surplus.js';
import { type Array64, norm64 } from '../reference/index.js';
import { aliased } from './aliases.js';
import { Draw, PlantedError, wrongArray, wrongNumber, wrongValue } from './draw.js';
import type { FuzzCounts } from './fuzz_binding.js';
import { Maker, type Call as OwnCall } from './library_operands.js';
import { ownCalls } from './own_calls.js';
import { inAnotherRealm } from './realm.js';

type Call = LibraryCall | OwnCall;

export async function fuzzLibrary(
  seed: number,
  enough: (calls: number) => boolean,
  devices: readonly Device[],
): Promise<FuzzCounts> {
  const counts: FuzzCounts = { calls: 0, refused: 0, compared: 0 };
  const draw = new Draw(seed);
  const live = devices.map((device) => device.memory().live);
  while (!enough(counts.calls)) await round(draw, devices, counts);
  for (const [i, device] of devices.entries()) {
    await device.synchronize().catch(() => {});
    const left = device.memory().live - (live[i] as number);
    if (left !== 0) throw new Error(`${left} bytes are still live on ${device.info.id} after the calls of the library`);
  }
  return counts;
}

/** What becomes of a right call before it is made. */
type Treatment = 'right' | 'another realm' | 'surplus' | 'aliased' | 'spoiled' | 'disposing';
const treatments: readonly Treatment[] = [
  ...new Array<Treatment>(30).fill('right'),
  ...new Array<Treatment>(10).fill('another realm'),
  ...new Array<Treatment>(10).fill('surplus'),
  ...new Array<Treatment>(47).fill('spoiled'),
  ...new Array<Treatment>(3).fill('disposing'),
];

async function round(draw: Draw, devices: readonly Device[], counts: FuzzCounts): Promise<void> {
  const made: Resource[] = [];
  const call = scope(() => {
    const built = draw.pick(generators)(new Maker(draw, draw.pick(devices), made));
    return { built, made };
  }).built;
  const { treatment, args } = treated(draw, call, made, devices);
  const right = treatment === 'right' || treatment === 'another realm';
  const results: unknown[] = [];
  counts.calls++;
  try {
    const run = call.run as (...args: unknown[]) => unknown;
    const returned = scope(() => run(...args));
    results.push(returned);
    if (treatment in refusals) throw new Error(`${call.name}: took what no function takes (${treatment})`);
    if (right && 'results' in call && call.truth) {
      await compare(call, call.truth(), returned);
      counts.compared++;
    }
    for (const tensor of resourcesIn(returned)) {
      if (tensor instanceof Tensor && draw.chance(0.2)) await tensor.data().catch(expectSasError);
    }
  } catch (error) {
    if (right) throw new Error(`${call.name} (${treatment}): ${(error as Error).message}`, { cause: error });
    if (!(error instanceof PlantedError)) {
      expectSasError(error, call.name);
      const refusal = refusals[treatment];
      if (refusal && !(error instanceof ArgumentError && refusal.test(error.message))) throw error;
      // What a call says whose getter disposes of its operands is the binding's to say.
      if ((error as SasError).code === 'SAS_INTERNAL' && treatment !== 'disposing') {
        throw new Error(`${call.name}: only the binding refused it: ${(error as Error).message}`, { cause: error });
      }
    }
    counts.refused++;
  }
  for (const resource of [...resourcesIn(results), ...made]) resource.dispose();
}

/** How every function words that it refuses what no function takes. */
const refusals: Partial<Record<Treatment, RegExp>> = {
  surplus: /the call has|stranger|expected /,
  aliased: / share memory, and .* is written$/,
};

/** The arguments of the call after a treatment. */
function treated(
  draw: Draw,
  call: Call,
  made: Resource[],
  devices: readonly Device[],
): { treatment: Treatment; args: unknown[] } {
  const { run, args } = call;
  if ('inPlace' in call && call.inPlace && draw.chance(0.3)) {
    const alike = aliased(draw, args, made);
    if (alike) return { treatment: 'aliased', args: alike };
  }
  const treatment = draw.pick(treatments);
  const copy = [...args];
  switch (treatment) {
    case 'right':
      return { treatment, args: copy };
    case 'another realm':
      return { treatment, args: copy.map(inAnotherRealm) };
    case 'surplus':
      return { treatment, args: draw.pick([oneTooMany(args, run.length), ...strangers(args, run.length)])[1] };
    default:
      spoil(draw, copy, made, devices, treatment === 'disposing');
      return { treatment, args: copy };
  }
}

function expectSasError(error: unknown, name = 'data'): void {
  if (!(error instanceof SasError))
    throw new Error(`${name}: threw ${String(error)}, expected a SasError`, { cause: error });
}

async function compare(call: LibraryCall, truth: Named<Array64>, returned: unknown): Promise<void> {
  const tensors = call.results(returned);
  for (const [name, expected] of Object.entries(truth)) {
    const tensor = tensors[name] as Tensor;
    const limit = tensor.dtype === 'f32' && call.dtype === 'f32' ? 2e-5 : 5e-2;
    // Results that are small because terms cancel are judged by the size of what cancels: inputs are about 1.
    const floor = 0.5 * Math.sqrt(expected.data.length);
    const norm = norm64(expected.data);
    const error = relativeError(await tensor.data(), expected.data, floor) * (norm > 0 ? Math.min(1, norm / floor) : 1);
    if (!(error <= limit))
      throw new Error(`${name} ${tensor.dtype} [${tensor.shape}] is off by ${error}, limit ${limit}`);
  }
}

function* resourcesIn(value: unknown): Generator<Resource> {
  if (value instanceof Tensor || value instanceof Saved) yield value;
  else if (value instanceof Map) yield* resourcesIn([...value.values()]);
  else if (Array.isArray(value)) for (const item of value) yield* resourcesIn(item);
  else if (typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype) {
    yield* resourcesIn(Object.values(value));
  }
}

/** Replaces one or two arguments, at the top or inside options, weights and saved. */
function spoil(draw: Draw, args: unknown[], made: Resource[], devices: readonly Device[], disposes: boolean): void {
  const right = [...args];
  for (let n = 1 + draw.below(2); n > 0 && args.length > 0; n--) {
    const at = draw.below(args.length);
    const old = right[at];
    const isRecord = typeof old === 'object' && old !== null && Object.getPrototypeOf(old) === Object.prototype;
    if (isRecord && draw.chance(0.7)) {
      const key = draw.pick([...Object.keys(old), 'stranger']);
      args[at] = disposes
        ? disposing(old, key, made)
        : { ...old, [key]: replacement(draw, (old as Record<string, unknown>)[key], made, devices) };
    } else if (Array.isArray(old) && old.length > 0 && draw.chance(0.7)) {
      args[at] = old.with(draw.below(old.length), replacement(draw, old[0], made, devices));
    } else {
      args[at] = replacement(draw, old, made, devices);
    }
  }
}

const disposing = (options: object, key: string, made: readonly Resource[]): object =>
  Object.defineProperty({ ...options }, key, {
    enumerable: true,
    get: () => {
      for (const resource of made) resource.dispose();
      return (options as Record<string, unknown>)[key];
    },
  });

function replacement(draw: Draw, old: unknown, made: Resource[], devices: readonly Device[]): unknown {
  if (typeof old === 'number' && draw.chance(0.7)) return wrongNumber(draw, old);
  if (ArrayBuffer.isView(old) && draw.chance(0.7)) return wrongArray(draw);
  if (old instanceof Tensor && draw.chance(0.6)) return wrongTensor(draw, old, made, devices);
  return wrongValue(draw);
}

function wrongTensor(draw: Draw, tensor: Tensor, made: Resource[], devices: readonly Device[]): unknown {
  const { shape, device, dtype } = tensor;
  const like = (other: readonly number[], options: { dtype?: DType; device?: Device } = {}): Tensor => {
    const tensor = Tensor.zeros(other, { dtype, device, ...options });
    made.push(tensor);
    return tensor;
  };
  return draw.pick<() => unknown>([
    () => like([...shape, 1]),
    () => like(shape.slice(1)),
    () => like([...shape].reverse()),
    () => like(shape.map((size) => size + 1)),
    () => like(shape.map(() => 0)),
    () => like(shape, { dtype: draw.pick(['f32', 'bf16', 'f16', 'i32'] as const) }),
    () => like(shape, { device: draw.pick(devices) }),
    () => {
      const gone = like(shape);
      gone.dispose();
      return gone;
    },
    () => Object.create(tensor),
    () => new Proxy(tensor, {}),
    () => ({ ...tensor }),
    () => structuredClone({ shape: [...shape], dtype }),
    () => Object.create(Tensor.prototype),
    () => tensor.constructor,
  ])();
}

/** Calls of every op that is described, and of everything else. */
export const generators: readonly ((make: Maker) => Call)[] = [
  ...libraryCalls.map((calls) => (make: Maker) => calls.make(make.draw, make.device, make.made)),
  ...ownCalls,
];
