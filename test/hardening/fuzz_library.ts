/**
 * Calls of the public API, right and wrong. Right calls are held against float64; a wrong call must throw a SasError (or what
 * the caller's own getter throws) that is not the binding's: SAS_INTERNAL would mean that a check is missing above it.
 */
import { type Device, type DType, getDevice, SasAttention, SasError, scope, Tensor } from '../../lib/index.js';
import { relativeError } from '../helpers/compare.js';
import { type LibraryCall, libraryCalls } from '../helpers/library_calls.js';
import type { Named } from '../helpers/op.js';
import { type Array64, norm64 } from '../reference/index.js';
import { Draw, PlantedError, wrongArray, wrongNumber, wrongValue } from './draw.js';
import type { FuzzCounts } from './fuzz_binding.js';
import { type Generate, Maker, type Call as OtherCall } from './library_operands.js';

type Call = LibraryCall | OtherCall;

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

async function round(draw: Draw, devices: readonly Device[], counts: FuzzCounts): Promise<void> {
  const made: Tensor[] = [];
  const call = scope(() => {
    const built = draw.pick(generators)(new Maker(draw, draw.pick(devices), made));
    return { built, made };
  }).built;
  const wrong = draw.chance(0.6);
  // A getter that disposes is as right as the call; what the call says then is the binding's to say.
  const disposes = wrong && draw.chance(0.05);
  if (wrong) spoil(draw, call.args, made, devices, disposes);
  const results: unknown[] = [];
  try {
    const run = call.run as (...args: unknown[]) => unknown;
    const returned = call.name.startsWith('async ') ? await run(...call.args) : scope(() => run(...call.args));
    results.push(returned);
    counts.calls++;
    if (!wrong && 'results' in call && call.truth) {
      await compare(call, call.truth(), returned);
      counts.compared++;
    }
    for (const tensor of tensorsIn(returned)) if (draw.chance(0.2)) await tensor.data().catch(expectSasError);
  } catch (error) {
    if (!wrong) throw new Error(`${call.name}: ${(error as Error).message}`, { cause: error });
    if (!(error instanceof PlantedError)) {
      expectSasError(error, call.name);
      if ((error as SasError).code === 'SAS_INTERNAL' && !disposes) {
        throw new Error(`${call.name}: only the binding refused it: ${(error as Error).message}`, { cause: error });
      }
    }
    counts.calls++;
    counts.refused++;
  }
  for (const tensor of [...tensorsIn(results), ...made]) tensor.dispose();
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

function* tensorsIn(value: unknown): Generator<Tensor> {
  if (value instanceof Tensor) yield value;
  else if (value instanceof Map) yield* tensorsIn([...value.values()]);
  else if (Array.isArray(value)) for (const item of value) yield* tensorsIn(item);
  else if (typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype) {
    yield* tensorsIn(Object.values(value));
  }
}

/** Replaces one or two arguments, at the top or inside options, weights and saved. */
function spoil(draw: Draw, args: unknown[], made: Tensor[], devices: readonly Device[], disposes: boolean): void {
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

const disposing = (options: object, key: string, made: readonly Tensor[]): object =>
  Object.defineProperty({ ...options }, key, {
    enumerable: true,
    get: () => {
      for (const tensor of made) tensor.dispose();
      return (options as Record<string, unknown>)[key];
    },
  });

function replacement(draw: Draw, old: unknown, made: Tensor[], devices: readonly Device[]): unknown {
  if (typeof old === 'number' && draw.chance(0.7)) return wrongNumber(draw, old);
  if (ArrayBuffer.isView(old) && draw.chance(0.7)) return wrongArray(draw);
  if (old instanceof Tensor && draw.chance(0.6)) return wrongTensor(draw, old, made, devices);
  return wrongValue(draw);
}

function wrongTensor(draw: Draw, tensor: Tensor, made: Tensor[], devices: readonly Device[]): unknown {
  const { shape, device, dtype } = tensor;
  const like = (other: readonly number[], options: { dtype?: DType; device?: Device } = {}): Tensor => {
    made.push(Tensor.zeros(other, { dtype, device, ...options }));
    return made.at(-1) as Tensor;
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

/** Of everything else than ops. */
const ownGenerators: readonly Generate[] = [
  (make) => {
    const size = make.draw.size();
    return {
      name: 'Tensor.from',
      run: Tensor.from,
      args: [make.draw.floats(size), [size], { dtype: make.float(), device: make.device }],
    };
  },
  (make) => ({ name: 'Tensor.wrap', run: Tensor.wrap, args: [make.draw.floats(6), [2, 3], { dtype: 'f32' }] }),
  (make) => ({
    name: 'Tensor.zeros',
    run: Tensor.zeros,
    args: [[2, make.draw.size()], { dtype: make.float(), device: make.device }],
  }),
  (make) => ({
    name: 'Tensor.randn',
    run: Tensor.randn,
    args: [[2, make.draw.size()], { seed: 3, dtype: make.float(), device: make.device }],
  }),
  (make) => {
    const { tensor } = make.pair(make.float(), 2, 6);
    return { name: 'reshape', run: (shape: number[]) => tensor.reshape(shape), args: [[3, -1]] };
  },
  (make) => {
    const [from, dtype] = [make.float(), make.float()];
    const { tensor, exact } = make.pair(from, 2, 6);
    return {
      name: 'to',
      run: (target: object) => tensor.to(target),
      args: [{ dtype, device: make.device }],
      dtype: from === 'f32' ? dtype : from,
      truth: () => ({ output: exact }),
    };
  },
  (make) => {
    const { tensor } = make.pair('f32', 6);
    return { name: 'copyFrom', run: (data: Float32Array) => tensor.copyFrom(data), args: [make.draw.floats(6)] };
  },
  (make) => {
    const config = {
      heads: 2,
      headDim: 2,
      simHeads: 4,
      simHeadDim: 3,
      kernelSize: 3,
      dtype: 'f32',
      device: make.device,
      seed: 1,
    };
    const run = (given: never): void => {
      const module = new SasAttention(given);
      try {
        const x = Tensor.zeros([1, 2, 2, 2], { device: make.device });
        if (module.config.heads === 2 && module.config.headDim === 2 && module.config.dtype === 'f32')
          module.forward(x, x, x);
      } finally {
        module.dispose();
      }
    };
    return { name: 'SasAttention', run, args: [config] };
  },
  (make) => ({ name: 'getDevice', run: getDevice as (...args: never[]) => unknown, args: [make.device.info.id] }),
];

/** Calls of every op that is described, and of everything else. */
export const generators: readonly ((make: Maker) => Call)[] = [
  ...libraryCalls.map((calls) => (make: Maker) => calls.make(make.draw, make.device, make.made)),
  ...ownGenerators,
];
