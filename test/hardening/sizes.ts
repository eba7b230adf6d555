/**
 * Every size of every operand of right calls of the binding, one less, one more and twice as large: kernels trust that sizes fit
 * each other, so the binding must refuse what does not.
 */
import { types } from 'node:util';
import { type BufferHandle, binding, type HostArray } from '../../lib/binding.js';
import { type Device, scope } from '../../lib/index.js';
import { Draw } from './draw.js';
import { generators } from './fuzz_library.js';
import { Maker } from './library_operands.js';
import { memoryCalls } from './memory_calls.js';
import { allocate, callRaw, type Made, type RawCall, Recording } from './raw_calls.js';

export interface OddSizes {
  refused: number;
  /** Those accepted that are neither free nor fit: `name`, the place in its arguments, and the shapes. */
  faults: string[];
}

/** Sizes that nothing else in the call must fit, by function and place of the operand. */
const free = new Set([
  ...['0.0', '0.1', '0.2', '0.3'].map((gradient) => `clipGradNorm ${gradient}[0]`), // each of any shape
  'crossEntropy 0[1]', // classes
  ...['1[0]', '2[0]'].map((table) => `embedding ${table}`), // vocabulary, positions
  ...['2[0]', '3[0]'].map((table) => `embeddingBackward ${table}`),
  'peakFlops 2[0]',
]);
/** They have one operand, or take whatever it holds. */
const freeFunctions = new Set(['allocate', 'fill', 'random', 'release', 'transfer']);

type Shape = readonly number[];
const same = (...sizes: unknown[]): boolean => new Set(sizes.map(String)).size === 1;
/** output [..., width] is the mean of x [..., simHeads, dim] over whole groups of heads. */
const isMean = (x: Shape, output: Shape): boolean => {
  const [simHeads = 0, dim = 0, width = 0] = [x.at(-2), x.at(-1), output.at(-1)];
  return same(x.slice(0, -2), output.slice(0, -1)) && width % dim === 0 && simHeads % (width / dim) === 0;
};
/** output [..., heads, widthA + widthB]; a and b have as many heads, or one of them has one. */
const isConcat = (a: Shape, b: Shape, output: Shape): boolean =>
  same(a.slice(0, -2), b.slice(0, -2), output.slice(0, -2)) &&
  (a.at(-1) as number) + (b.at(-1) as number) === output.at(-1) &&
  [a.at(-2), b.at(-2)].every((heads) => heads === 1 || heads === output.at(-2)) &&
  [a.at(-2), b.at(-2)].includes(output.at(-2));

/** Functions in which one size may be a multiple of another, or 1: whether the shapes of all operands fit. */
const fits: Record<string, (...shapes: [Shape, Shape, Shape, Shape]) => boolean> = {
  aggregate: isMean,
  aggregateBackward: (gradOutput, gradX) => isMean(gradX, gradOutput),
  attentionMean: (q, k, v, output) =>
    same(q[0], k[0], v[0], output[0]) &&
    same(k.slice(1, 3), v.slice(1, 3)) &&
    q[3] === k[3] &&
    (q[2] as number) % (k[2] as number) === 0 &&
    isMean([...q.slice(0, 3), v[3] as number], output),
  concat: isConcat,
  concatBackward: (gradOutput, gradA, gradB) => isConcat(gradA, gradB, gradOutput),
};

/** The places of a call that have sizes, and for each the arguments with another size at one axis. */
function* oddCalls(value: unknown, recording: Recording): Generator<[place: string, args: unknown]> {
  const made = recording.made.get(value as BufferHandle);
  if (made) {
    for (const [axis, shape] of oddShapes(made.shape)) yield [`[${axis}]`, like(made, shape, recording)];
  } else if (types.isTypedArray(value)) {
    for (const [axis, [length]] of oddShapes([value.length])) {
      yield [`[${axis}]`, new (value.constructor as new (length: number) => HostArray)(length as number)];
    }
  } else if (Array.isArray(value) && value.every((item) => typeof item === 'number')) {
    for (const [axis, shape] of oddShapes(value)) yield [`[${axis}]`, shape];
  } else if (Array.isArray(value)) {
    for (const [i, item] of value.entries()) {
      for (const [place, other] of oddCalls(item, recording)) yield [join(i, place), value.with(i, other)];
    }
  } else if (typeof value === 'object' && value !== null && !types.isExternal(value)) {
    for (const [key, item] of Object.entries(value)) {
      for (const [place, other] of oddCalls(item, recording)) yield [join(key, place), { ...value, [key]: other }];
    }
  }
}

const join = (key: string | number, place: string) => (place.startsWith('[') ? `${key}${place}` : `${key}.${place}`);

/** None of an empty shape, whose neighbours are empty too. */
function* oddShapes(shape: Shape): Generator<[axis: number, shape: number[]]> {
  if (shape.includes(0)) return;
  for (const [axis, size] of shape.entries()) {
    for (const odd of new Set([Math.max(size - 1, 0), size + 1, 2 * size]))
      if (odd !== size) yield [axis, shape.with(axis, odd)];
  }
}

const like = ({ device, dtype }: Made, shape: number[], recording: Recording) =>
  recording.during(() => allocate(device, dtype, shape));

/** The shapes of the operands of a call, in order. */
const shapesOf = (args: readonly unknown[], recording: Recording): Shape[] =>
  args.flatMap((arg) => {
    const made = recording.made.get(arg as BufferHandle);
    return made ? [made.shape] : [];
  });

async function tryOddSizes(call: RawCall, recording: Recording, found: OddSizes): Promise<void> {
  for (const [place, args] of oddCalls(call.args, recording)) {
    try {
      recording.adopt(await callRaw({ name: call.name, args: args as unknown[] }));
    } catch {
      found.refused++;
      continue;
    }
    const shapes = shapesOf(args as unknown[], recording);
    if (
      freeFunctions.has(call.name) ||
      free.has(`${call.name} ${place}`) ||
      fits[call.name]?.(...(shapes as [Shape, Shape, Shape, Shape]))
    )
      continue;
    found.faults.push(`${call.name} ${place}: ${JSON.stringify(shapes)}`);
  }
}

export async function oddSizes(device: Device, seed: number, rounds: number): Promise<OddSizes> {
  const draw = new Draw(seed);
  const handle = binding.openDevice(device.info.id);
  const found: OddSizes = { refused: 0, faults: [] };
  const sources = [
    ...generators.map((generate) => (recording: Recording) => {
      scope(() => {
        const { run, args } = generate(new Maker(draw, device, []));
        (run as (...all: unknown[]) => unknown)(...args);
      });
      return recording.calls;
    }),
    ...memoryCalls.map((generate) => () => [generate({ draw, device: handle, devices: [handle] })]),
  ];
  for (let round = 0; round < rounds; round++) {
    for (const source of sources) {
      const recording = new Recording();
      for (const call of recording.during(() => source(recording))) await tryOddSizes(call, recording, found);
      await device.synchronize().catch(() => {}); // a call that was accepted may fail
      recording.release();
    }
  }
  return found;
}
