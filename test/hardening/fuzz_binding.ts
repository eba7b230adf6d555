/**
 * Calls of the raw binding, right and wrong: those that the library makes while the library fuzzer's right calls run, made again
 * as they are or spoiled. A wrong call may be refused or, where it is merely odd, accepted; either way process and memory live on.
 */
import { types } from 'node:util';
import type { DTypeCode } from '../../binding.js';
import { type BufferHandle, binding, type DeviceHandle, type HostArray } from '../../lib/binding.js';
import { errorFromCode } from '../../lib/errors.js';
import { type Device, scope } from '../../lib/index.js';
import { Draw, detached, wrongArray, wrongNumber, wrongValue } from './draw.js';
import { generators } from './fuzz_library.js';
import { Maker } from './library_operands.js';
import { memoryCalls } from './memory_calls.js';
import { allocate, callRaw, type Made, type RawCall, type RawName, Recording, rawNames } from './raw_calls.js';
import { foreignExternals } from './strangers.js';

export interface FuzzCounts {
  calls: number;
  refused: number;
  /** Right calls whose results were compared. */
  compared: number;
}

/** Makes calls until there are enough, and at least until every function has been called both right and wrong. */
export async function fuzzBinding(
  seed: number,
  enough: (calls: number) => boolean,
  devices: readonly Device[],
): Promise<FuzzCounts> {
  const fuzz = new BindingFuzz(new Draw(seed), devices);
  for (let pass = 0; pass < 20 && fuzz.uncalled().length > 0; pass++) await fuzz.everySource();
  if (fuzz.uncalled().length > 0) throw new Error(`never called right and wrong: ${fuzz.uncalled().join(', ')}`);
  while (!enough(fuzz.counts.calls)) await fuzz.anySource();
  await fuzz.end();
  return fuzz.counts;
}

/** Of a call that would spend them. */
const wrongSeconds = [0, -1, 61, 1e300, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, '1', null];

const isHostArray = (value: unknown): value is HostArray =>
  types.isFloat32Array(value) || types.isInt32Array(value) || types.isUint16Array(value);
const isTransferable = (value: unknown): value is HostArray =>
  isHostArray(value) && types.isArrayBuffer(value.buffer) && value.byteLength > 0;

/** An array of the same kind that is too short or too long, mostly by one element. */
function otherLength(draw: Draw, array: HostArray): HostArray {
  const length = draw.pick([array.length - 1, array.length + 1, 2 * array.length + 1, 0]);
  return new (array.constructor as new (length: number) => HostArray)(Math.max(length, 0));
}

type Source = (recording: Recording, device: number) => void;

class BindingFuzz {
  readonly counts: FuzzCounts = { calls: 0, refused: 0, compared: 0 };
  readonly #draw: Draw;
  readonly #handles: readonly DeviceHandle[];
  readonly #live: readonly number[];
  readonly #sources: readonly Source[];
  /** Put where they do not belong: a released buffer, a device, one buffer of each device, other addons' Externals. */
  readonly #strays: unknown[];
  readonly #small: readonly BufferHandle[];
  readonly #called = new Map(rawNames.map((name) => [name, { right: 0, wrong: 0 }] as const));

  constructor(draw: Draw, devices: readonly Device[]) {
    this.#draw = draw;
    this.#handles = devices.map((device) => binding.openDevice(device.info.id));
    this.#live = this.#handles.map((device) => binding.memory(device).live);
    this.#small = this.#handles.map((device) => allocate(device, 0, [4]));
    const [first] = this.#handles as [DeviceHandle];
    const released = allocate(first, 0, [4]);
    binding.release([released]);
    const streams = (process.stdout as { _handle?: { _externalStream?: unknown } })._handle?._externalStream;
    this.#strays = [released, first, ...this.#small, streams, ...foreignExternals()];
    this.#sources = [
      ...memoryCalls.map(
        (generate): Source =>
          (recording, at) => {
            const device = this.#handles[at] as DeviceHandle;
            const call = recording.during(() => generate({ draw, device, devices: this.#handles }));
            recording.calls.splice(0, Infinity, call);
          },
      ),
      ...generators.map(
        (generate): Source =>
          (recording, at) => {
            recording.during(() =>
              scope(() => {
                const { run, args } = generate(new Maker(draw, devices[at] as Device, []));
                (run as (...all: unknown[]) => unknown)(...args);
              }),
            );
          },
      ),
    ];
  }

  /** The functions that have not been called both right and wrong. */
  uncalled(): RawName[] {
    return rawNames.filter((name) => Object.values(this.#count(name)).includes(0));
  }

  async everySource(): Promise<void> {
    for (const source of this.#sources) await this.#round(source);
  }

  async anySource(): Promise<void> {
    await this.#round(this.#draw.pick(this.#sources));
  }

  async end(): Promise<void> {
    binding.release(this.#small);
    for (const [i, device] of this.#handles.entries()) {
      await binding.synchronize(device).catch(() => {});
      const left = binding.memory(device).live - (this.#live[i] as number);
      if (left !== 0) throw new Error(`${left} bytes are still live after the calls of the binding`);
    }
  }

  /** A wrong call that was accepted may fail on the device, and the next `synchronize` says so. */
  async #takeFailures(): Promise<void> {
    await Promise.allSettled(this.#handles.map((device) => binding.synchronize(device)));
  }

  #count(name: RawName) {
    return this.#called.get(name) as { right: number; wrong: number };
  }

  /** Records the calls of one source, and makes some of them again, those first that have been made least often. */
  async #round(source: Source): Promise<void> {
    const draw = this.#draw;
    const recording = new Recording();
    source(recording, draw.below(this.#handles.length));
    const total = ({ name }: RawCall) => this.#count(name).right + this.#count(name).wrong;
    const calls = recording.calls.sort((a, b) => total(a) - total(b)).slice(0, 3);
    for (const call of calls) {
      const { right, wrong } = this.#count(call.name);
      const spoils = right > 0 && (wrong === 0 || draw.chance(0.6));
      if (await this.#call(call, recording, spoils)) break;
    }
    if (draw.chance(0.1)) await this.#takeFailures();
    // Memory of queued work may be given up at any time.
    recording.release();
  }

  /** Whether the recording's buffers may be gone now. */
  async #call(call: RawCall, recording: Recording, spoils: boolean): Promise<boolean> {
    const args = [...call.args];
    if (spoils) this.#spoil({ ...call, args }, recording);
    this.#count(call.name)[spoils ? 'wrong' : 'right']++;
    this.counts.calls++;
    if (call.name === 'synchronize') await this.#takeFailures();
    try {
      const result = await callRaw({ name: call.name, args });
      if (call.name !== 'openDevice') recording.adopt(result);
    } catch (error) {
      if (!spoils || !(error instanceof Error)) {
        throw new Error(`${call.name}: ${(error as Error)?.message}`, { cause: error });
      }
      this.counts.refused++;
    }
    if (call.name === 'setErrorFactory') binding.setErrorFactory(errorFromCode);
    return spoils || call.name === 'release';
  }

  /** Replaces one to three arguments, or takes some away. */
  #spoil({ args, seconds }: RawCall, recording: Recording): void {
    const draw = this.#draw;
    const right = [...args];
    if (draw.chance(0.1)) args.length = draw.below(args.length + 1);
    for (let n = 1 + draw.below(3); n > 0 && args.length > 0; n--) {
      const at = draw.below(args.length);
      args[at] = at === seconds ? draw.pick(wrongSeconds) : this.#spoiled(right[at], right, recording);
    }
  }

  /** `args` are those of the call. */
  #spoiled(old: unknown, args: readonly unknown[], recording: Recording): unknown {
    const draw = this.#draw;
    const made = recording.made.get(old as BufferHandle);
    if (Array.isArray(old) && old.length > 0 && draw.chance(0.7)) return this.#spoiledList(old, args, recording);
    if (made && draw.chance(0.6)) return this.#otherBuffer(old as BufferHandle, made, recording);
    if (isHostArray(old) && draw.chance(0.8)) return draw.chance(0.5) ? otherLength(draw, old) : wrongArray(draw);
    if (draw.chance(0.3)) return draw.pick(this.#strays);
    if (typeof old === 'number' && draw.chance(0.8)) return wrongNumber(draw, old);
    return wrongValue(draw);
  }

  /** A buffer that is not quite the right one: of another shape, dtype or device, or released. */
  #otherBuffer(buffer: BufferHandle, { device, dtype, shape }: Made, recording: Recording): BufferHandle {
    const draw = this.#draw;
    const like = (sizes: readonly number[], other = dtype, where = device) =>
      recording.during(() => allocate(where, other, sizes));
    return draw.pick<() => BufferHandle>([
      () => like(shape.slice(1)),
      () => like([...shape].reverse()),
      () => like(shape.map((size) => size + 1)),
      () => like(shape.map((size) => Math.max(size - 1, 1))),
      () => like(shape.length > 0 ? shape.with(draw.below(shape.length), draw.size()) : [2]),
      () => like(shape.map(() => 0)),
      () => like(shape, draw.pick<DTypeCode>([0, 1, 2, 3])),
      () => like(shape, dtype, draw.pick(this.#handles)),
      () => draw.pick([...recording.made.keys()]), // perhaps one that the call has already
      () => recording.during(() => binding.share(buffer, shape.length < 8 ? [...shape, 1] : [...shape].reverse())),
      () => {
        const gone = like(shape);
        binding.release([gone]);
        return gone;
      },
    ])();
  }

  /** A list with a wrong entry, or with a getter that releases operands or detaches arrays while the call reads its arguments. */
  #spoiledList(list: readonly unknown[], args: readonly unknown[], recording: Recording): unknown[] {
    const draw = this.#draw;
    const copy = [...list];
    const at = draw.below(copy.length);
    const value = copy[at];
    if (draw.chance(0.5)) {
      Object.defineProperty(copy, at, {
        get: () => {
          if (draw.chance(0.5)) recording.release();
          else args.filter(isTransferable).forEach(detached);
          return value;
        },
      });
    } else if (typeof value === 'object' && value !== null && !types.isExternal(value) && draw.chance(0.7)) {
      const key = draw.pick(Object.keys(value));
      copy[at] = { ...value, [key]: this.#spoiled((value as Record<string, unknown>)[key], args, recording) };
    } else {
      copy[at] = this.#spoiled(value, args, recording);
    }
    return copy;
  }
}
