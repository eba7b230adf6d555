/** The raw binding, called by hand: whatever it is given, an error comes of it, not a crash. */
import { randomInt } from 'node:crypto';
import { afterAll, describe, expect, test } from 'vitest';
import type { DTypeCode, RawSettings } from '../../binding.js';
import { type BufferHandle, binding, type HostArray } from '../../lib/binding.js';
import { getDevice, SasError } from '../../lib/index.js';
import { detached } from './draw.js';
import { allocate, type RawName, rawNames } from './raw_calls.js';
import { oddSizes } from './sizes.js';
import { foreignExternals, realm } from './strangers.js';

const cpu = binding.openDevice('cpu');
const made: BufferHandle[] = [];
const keep = (buffer: BufferHandle): BufferHandle => {
  made.push(buffer);
  return buffer;
};
const floats = (...shape: number[]): BufferHandle => keep(allocate(cpu, 0, shape));
const zeros = (size: number): Float32Array<ArrayBuffer> => new Float32Array(size);
afterAll(() => {
  binding.release(made);
});

/** What the binding says: its errors have the code of a fault in `lib/`. */
function problemOf(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    expect(error).toBeInstanceOf(SasError);
    return (error as SasError).message;
  }
  return 'accepted';
}

/** A shape whose size is read only after `act` has been done. */
const shapeThat = (act: () => void, size: number): number[] =>
  Object.defineProperty([0], 0, {
    get: () => {
      act();
      return size;
    },
  });

describe('arrays that go away while the arguments are read', () => {
  test.each(['upload', 'wrap'] as const)('%s: detached by the shape', (name) => {
    const data = zeros(4096);
    const shape = shapeThat(() => detached(data), 4096);
    expect(problemOf(() => binding[name](cpu, 0, shape, data))).toMatch(/the array has 0 elements, expected/);
  });

  test.each(['upload', 'wrap'] as const)('%s: shrunk by the shape', (name) => {
    const buffer = new ArrayBuffer(4 * 4096, { maxByteLength: 4 * 4096 });
    const tracking = new Float32Array(buffer);
    const shape = shapeThat(() => buffer.resize(16), 4096);
    expect(problemOf(() => binding[name](cpu, 0, shape, tracking))).toMatch(/the array has 4 elements, expected/);
    const fixed = new Float32Array(new ArrayBuffer(64, { maxByteLength: 64 }), 0, 16);
    const outside = shapeThat(() => fixed.buffer.resize(16), 16);
    expect(problemOf(() => binding[name](cpu, 0, outside, fixed))).toMatch(/the array has 0 elements, expected/);
  });

  test('an operand that another argument detaches', () => {
    const data = zeros(2 * 8);
    const x = keep(binding.wrap(cpu, 0, [1, 1, 2, 8], data));
    const weights = [floats(4, 2, 3), floats(4), floats(4, 4, 3), floats(4)];
    const output = floats(1, 1, 4, 8);
    const right = () => binding.expand(x, weights, output, null, null, null, false, null, 0);
    expect(problemOf(right)).toBe('accepted');
    const last = weights[3];
    Object.defineProperty(weights, 3, {
      get: () => {
        if (data.length > 0) detached(data);
        return last;
      },
    });
    expect(problemOf(right)).toMatch(/^expand: an operand's ArrayBuffer was detached during the call/);
    expect(problemOf(right)).toMatch(/^expand: an operand shares an ArrayBuffer that has been detached/);
  });
});

/** Of a SharedArrayBuffer; the types do not know of it. */
const growable = [{ maxByteLength: 1 << 20 }] as never as [];

test.each<[what: string, array: HostArray]>([
  ['resizable', new Float32Array(new ArrayBuffer(64, { maxByteLength: 1 << 20 }), 0, 4)],
  ['length-tracking', new Float32Array(new ArrayBuffer(16, { maxByteLength: 1 << 20 }))],
  ['shared', new Float32Array(new SharedArrayBuffer(16))],
  ['growable', new Float32Array(new SharedArrayBuffer(16, ...growable))],
])('memory that may move under queued work is not shared: %s', async (_, array) => {
  const problem = /the array has a shared or resizable buffer, expected a plain ArrayBuffer of fixed length$/;
  expect(problemOf(() => binding.wrap(cpu, 0, [4], array))).toMatch(problem);
  expect(problemOf(() => binding.peakFlops(cpu, 1e-4, array as Float32Array))).toMatch(problem);
  // Copied at once, they are as good as others.
  keep(binding.upload(cpu, 0, [4], array));
  const long = new (array.constructor as Float32ArrayConstructor)(new ArrayBuffer(1 << 17, { maxByteLength: 1 << 18 }));
  const source = floats(long.length);
  binding.fill(source, 1);
  expect(problemOf(() => binding.read(source, long))).toMatch(problem);
  binding.readSync(source, long);
  expect(long.at(-1)).toBe(1);
});

describe('subclasses that lie', () => {
  class Liar extends Float32Array {
    override get buffer(): never {
      return new ArrayBuffer(1 << 20) as never;
    }
    override get length(): never {
      return 1000 as never;
    }
    override get byteLength(): never {
      return 4000 as never;
    }
    override get byteOffset(): never {
      return 512 as never;
    }
  }

  test('are taken for what they are', async () => {
    const liar = new Liar([1, 2, 3]);
    expect(problemOf(() => binding.wrap(cpu, 0, [1000], liar))).toMatch(/the array has 3 elements, expected/);
    const [wrapped, uploaded] = [keep(binding.wrap(cpu, 0, [3], liar)), keep(binding.upload(cpu, 0, [3], liar))];
    for (const buffer of [wrapped, uploaded]) {
      const target = zeros(3);
      await binding.read(buffer, target);
      expect([...target]).toEqual([1, 2, 3]);
    }
    expect(problemOf(() => binding.read(floats(1000), new Liar(3)))).toMatch(/the array has 3 elements, expected/);
  });

  test('about being resizable', () => {
    class Fixed extends ArrayBuffer {
      override get resizable(): never {
        return false as never;
      }
    }
    const array = new Float32Array(new Fixed(16, { maxByteLength: 64 }));
    expect(problemOf(() => binding.wrap(cpu, 0, [4], array))).toMatch(/shared or resizable/);
  });
});

test.each([Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN, -1, 0, 60.001, 1e300, '1', null, 10n])(
  'a peak is not measured for %s seconds',
  (seconds) => {
    const problem = problemOf(() => binding.peakFlops(cpu, seconds as number, zeros(1)));
    expect(problem).toBe('peakFlops: not a number of seconds above 0 and up to 60');
  },
);

test.each<[settings: unknown, problem: string]>([
  [{ threads: 1025 }, 'threads is too large'],
  [{ threads: -1 }, 'a number is negative'],
  [{ threads: 1.5 }, 'a number is not an integer'],
  [{ systemRoot: 5 }, 'systemRoot is not a string'],
  [{ memoryLimit: 1e300 }, 'a number is not an integer'],
  [{ isa: 1 }, 'isa is not a string'],
  [{ tf32: 1 }, 'tf32 is not a boolean'],
  ['all', 'not an object of settings'],
  [null, 'not an object of settings'],
])('settings %j are refused', (settings, problem) => {
  expect(problemOf(() => binding.openDevice('cpu', settings as RawSettings))).toBe(`openDevice: ${problem}`);
});

test('every size of every operand is held against the others', async () => {
  const seed = randomInt(2 ** 32);
  console.info(`seed ${seed}`);
  const { refused, faults } = await oddSizes(getDevice('cpu'), seed, 4);
  expect(faults).toEqual([]);
  expect(refused).toBeGreaterThan(10_000);
});

test('typed arrays of another realm are typed arrays', async () => {
  const kinds: [DTypeCode, HostArray, HostArray][] = [
    [0, new realm.Float32Array([1, 2]), new realm.Float32Array(2)],
    [1, new realm.Uint16Array([3, 4]), new realm.Uint16Array(2)],
    [3, new realm.Int32Array([5, 6]), new realm.Int32Array(2)],
  ];
  for (const [dtype, array, target] of kinds) {
    for (const buffer of [binding.upload(cpu, dtype, [2], array), binding.wrap(cpu, dtype, [2], array)].map(keep)) {
      await binding.read(buffer, target);
      expect([...target]).toEqual([...array]);
      binding.write(buffer, array);
    }
  }
});

describe('Externals of another addon', () => {
  const strangers = foreignExternals();
  const streams = (process.stdout as { _handle?: { _externalStream?: unknown } })._handle?._externalStream;
  const functions = binding as unknown as Record<RawName, (...args: unknown[]) => unknown>;

  test('are neither devices nor buffers', () => {
    expect(strangers.length).toBe(4);
    for (const stranger of [...strangers, streams] as never[]) {
      expect(problemOf(() => binding.release([floats(1), stranger]))).toBe('release: not a buffer');
      expect(problemOf(() => binding.memory(stranger))).toBe('memory: not an open device');
      expect(problemOf(() => binding.add(stranger, floats(1), null, floats(1)))).toMatch(
        /^add: an operand is not a live buffer/,
      );
      expect(problemOf(() => binding.release([cpu as never]))).toBe('release: not a buffer');
      expect(problemOf(() => binding.memory(floats(1) as never))).toBe('memory: not an open device');
    }
  });

  test.each(rawNames.filter((name) => !['setErrorFactory', 'instructionSets', 'listDevices'].includes(name)))(
    '%s refuses them in every place',
    (name) => {
      for (const stranger of strangers) {
        for (let count = 1; count <= 12; count++) {
          expect(problemOf(() => functions[name](...new Array(count).fill(stranger)))).not.toBe('accepted');
        }
      }
    },
  );
});
