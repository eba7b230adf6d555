/**
 * Calls of the public API, right and wrong. Right calls are held against float64; a wrong call must throw a SasError (or what
 * the caller's own getter throws) that is not the binding's: SAS_INTERNAL would mean that a check is missing above it.
 */
import { type Device, type DType, getDevice, ops, SasAttention, SasError, scope, Tensor } from '../../lib/index.js';
import { relativeError } from '../helpers/compare.js';
import type { Array64 } from '../reference/index.js';
import * as reference from '../reference/index.js';
import { Draw, PlantedError, wrongArray, wrongNumber, wrongValue } from './draw.js';
import { libraryCalls } from './factor_calls.js';
import type { FuzzCounts } from './fuzz_binding.js';
import { type Call, type Generate, Maker } from './library_operands.js';

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
    if (!wrong && call.truth) {
      await compare(call, returned);
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

async function compare(call: Call, returned: unknown): Promise<void> {
  const truth = (call.truth as () => Record<string, Array64>)();
  const tensors: Record<string, Tensor> =
    returned instanceof Tensor ? { output: returned } : (returned as Record<string, Tensor>);
  for (const [name, expected] of Object.entries(truth)) {
    const tensor = tensors[name] as Tensor;
    const limit = tensor.dtype === 'f32' && call.dtype === 'f32' ? 2e-5 : 5e-2;
    // Results that are small because terms cancel are judged by the size of what cancels: inputs are about 1.
    const floor = 0.5 * Math.sqrt(expected.data.length);
    const norm = reference.norm64(expected.data);
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

function attentionCall(make: Maker, naive: boolean): Call {
  const { draw } = make;
  const dtype = make.float();
  const Hkv = 1 + draw.below(3);
  const [B, Tq, Tk, Hq, D, Dv] = [
    1 + draw.below(2),
    draw.size(),
    draw.size(),
    Hkv * (1 + draw.below(3)),
    draw.size(),
    draw.size(),
  ];
  const [q, k, v] = [make.pair(dtype, B, Tq, Hq, D), make.pair(dtype, B, Tk, Hkv, D), make.pair(dtype, B, Tk, Hkv, Dv)];
  const options = { causal: draw.chance(0.5), scale: 0.7 };
  return {
    name: naive ? 'naive.attention' : 'attention',
    run: naive ? ops.naive.attention : ops.attention,
    args: [q.tensor, k.tensor, v.tensor, options],
    dtype,
    truth: () => ({ output: reference.attention(q.exact, k.exact, v.exact, options).output }),
  };
}

function expandCall(make: Maker, naive: boolean): Call {
  const { draw } = make;
  const dtype = make.float();
  const [B, T, H, D, Hs, Ds, k] = [
    1,
    draw.size(),
    1 + draw.below(3),
    draw.size(),
    1 + draw.below(6),
    draw.size(),
    draw.pick([1, 3, 5]),
  ];
  const x = make.pair(dtype, B, T, H, D);
  const pairs: Record<string, ReturnType<Maker['pair']>> = {
    headWeight: make.pair('f32', Hs, H, k),
    headBias: make.pair('f32', Hs),
    headResidualWeight: make.pair('f32', Hs, Hs, k),
    headResidualBias: make.pair('f32', Hs),
  };
  if (draw.chance(0.5)) {
    pairs.featureWeight = make.pair('f32', Ds, D);
    pairs.featureBias = make.pair('f32', Ds);
    pairs.featureResidualWeight = make.pair('f32', Ds, Ds);
    pairs.featureResidualBias = make.pair('f32', Ds);
  }
  const of = <K extends 'tensor' | 'exact'>(kind: K) =>
    Object.fromEntries(Object.entries(pairs).map(([name, pair]) => [name, pair[kind]]));
  const truth = () => reference.expand(x.exact, of('exact') as unknown as reference.ExpandWeights64);
  const width = pairs.featureWeight ? Ds : D;
  if (!naive && width % 2 === 0 && draw.chance(0.5)) {
    const rope = { base: 100, offset: draw.below(5) };
    return {
      name: 'expand',
      run: ops.expand,
      args: [x.tensor, of('tensor'), { rope }],
      dtype,
      truth: () => ({ output: reference.rope(truth(), { ...rope, interleaved: true }) }),
    };
  }
  return {
    name: naive ? 'naive.expand' : 'expand',
    run: naive ? ops.naive.expand : ops.expand,
    args: [x.tensor, of('tensor')],
    dtype,
    truth: () => ({ output: truth() }),
  };
}

const generators: readonly Generate[] = [
  ...libraryCalls,
  (make) => attentionCall(make, false),
  (make) => attentionCall(make, true),
  (make) => expandCall(make, false),
  (make) => expandCall(make, true),
  (make) => {
    const [dtype, H, r, D] = [make.float(), 1 + make.draw.below(3), 1 + make.draw.below(3), make.draw.size()];
    const x = make.pair(dtype, 1, make.draw.size(), r * H, D);
    return {
      name: 'aggregate',
      run: ops.aggregate,
      args: [x.tensor, H],
      dtype,
      truth: () => ({ output: reference.aggregate(x.exact, H) }),
    };
  },
  (make) => {
    const [dtype, K, N] = [make.float(), make.draw.size(), make.draw.size()];
    const [x, weight, bias] = [make.pair(dtype, make.draw.size(), K), make.pair('f32', N, K), make.pair('f32', N)];
    return {
      name: 'linear',
      run: ops.linear,
      args: [x.tensor, weight.tensor, bias.tensor],
      dtype,
      truth: () => ({ output: reference.linear(x.exact, weight.exact, bias.exact) }),
    };
  },
  (make) => {
    const [dtype, rows, K, N] = [make.float(), make.draw.size(), make.draw.size(), make.draw.size()];
    const [g, x, weight] = [make.pair(dtype, rows, N), make.pair(dtype, rows, K), make.pair('f32', N, K)];
    return {
      name: 'linearBackward',
      run: ops.linearBackward,
      args: [g.tensor, x.tensor, weight.tensor, { bias: true }],
      dtype,
      truth: () => ({ ...reference.linearBackward(g.exact, x.exact, weight.exact) }),
    };
  },
  (make) => {
    const [dtype, C] = [make.float(), 1 + make.draw.size()];
    const [x, weight, bias] = [make.pair(dtype, make.draw.size(), C), make.pair('f32', C), make.pair('f32', C)];
    return {
      name: 'layerNorm',
      run: ops.layerNorm,
      args: [x.tensor, weight.tensor, bias.tensor, { eps: 0.1 }],
      dtype,
      truth: () => ({ output: reference.layerNorm(x.exact, weight.exact, bias.exact, 0.1).output }),
    };
  },
  (make) => {
    const [dtype, C] = [make.float(), make.draw.size()];
    const [x, weight] = [make.pair(dtype, make.draw.size(), C), make.pair('f32', C)];
    return {
      name: 'rmsNorm',
      run: ops.rmsNorm,
      args: [x.tensor, weight.tensor, { eps: 0.1 }],
      dtype,
      truth: () => ({ output: reference.rmsNorm(x.exact, weight.exact, 0.1).output }),
    };
  },
  (make) => {
    const dtype = make.float();
    const x = make.pair(dtype, make.draw.size(), make.draw.size());
    const approximate = make.draw.pick(['none', 'tanh'] as const);
    return {
      name: 'gelu',
      run: ops.gelu,
      args: [x.tensor, { approximate }],
      dtype,
      truth: () => ({ output: reference.gelu(x.exact, approximate) }),
    };
  },
  (make) => {
    const [dtype, n] = [make.float(), make.draw.size()];
    const [a, b] = [make.pair(dtype, n, 2), make.pair(dtype, n, 2)];
    return {
      name: 'add',
      run: ops.add,
      args: [a.tensor, b.tensor],
      dtype,
      truth: () => ({ output: reference.add64(a.exact, b.exact) }),
    };
  },
  (make) => {
    const dtype = make.float();
    const x = make.pair(dtype, 1, make.draw.size(), 2, 2 * make.draw.size());
    const options = { base: 100, offset: make.draw.below(5), interleaved: make.draw.chance(0.5) };
    return {
      name: 'rope',
      run: ops.rope,
      args: [x.tensor, options],
      dtype,
      truth: () => ({ output: reference.rope(x.exact, options) }),
    };
  },
  (make) => {
    const [V, C, B, T] = [4, make.draw.size(), 1 + make.draw.below(2), make.draw.size()];
    const [tokens, table, positions] = [make.ints(V, B, T), make.pair('f32', V, C), make.pair('f32', T + 1, C)];
    return {
      name: 'embedding',
      run: ops.embedding,
      args: [tokens.tensor, table.tensor, positions.tensor, { dtype: 'f32' }],
      dtype: 'f32',
      truth: () => ({ output: reference.embedding(tokens.values, B, table.exact, positions.exact) }),
    };
  },
  (make) => {
    const [dtype, V, B, T] = [make.float(), 4, 1 + make.draw.below(2), make.draw.size()];
    const [g, tokens] = [make.pair(dtype, B, T, make.draw.size()), make.ints(V, B, T)];
    return {
      name: 'embeddingBackward',
      run: ops.embeddingBackward,
      args: [g.tensor, tokens.tensor, { vocabulary: V, positions: T }],
    };
  },
  (make) => {
    const [dtype, rows, V] = [make.float(), make.draw.size(), 4 + make.draw.below(9)];
    const [logits, targets] = [make.pair(dtype, rows, V), make.ints(V, rows)];
    return {
      name: 'crossEntropy',
      run: ops.crossEntropy,
      args: [logits.tensor, targets.tensor, { ignoreIndex: 1 }],
      dtype,
      truth: () => ({
        loss: {
          shape: [],
          data: Float64Array.of(reference.crossEntropy(logits.exact, targets.values, 1).loss.data[0] as number),
        },
      }),
    };
  },
  (make) => {
    const gradients = Array.from({ length: 1 + make.draw.below(3) }, () => make.pair('f32', make.draw.size()));
    return { name: 'clipGradNorm', run: ops.clipGradNorm, args: [gradients.map(({ tensor }) => tensor), 1] };
  },
  (make) => {
    const n = make.draw.size();
    const [parameter, gradient, firstMoment, secondMoment] = [0, 1, 2, 3].map(() => make.pair('f32', n).tensor);
    return {
      name: 'adamW',
      run: ops.adamW,
      args: [[{ parameter, gradient, firstMoment, secondMoment }], { lr: 1e-3, step: 1 }],
    };
  },
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
    const { tensor } = make.pair(make.float(), 2, 6);
    return {
      name: 'to',
      run: (target: object) => tensor.to(target),
      args: [{ dtype: make.float(), device: make.device }],
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
