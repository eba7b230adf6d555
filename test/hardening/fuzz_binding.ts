/**
 * Calls of the raw binding, right and wrong. Right calls of ops that have an unfused twin are held against it, some others
 * against the host. A wrong call may be refused or, where it is merely odd, accepted; either way process and memory live on.
 */
import { types } from 'node:util';
import { type BufferHandle, binding, type DeviceHandle } from '../../lib/binding.js';
import { generators } from './binding_calls.js';
import { Workshop } from './binding_operands.js';
import { Draw, wrongNumber, wrongValue } from './draw.js';

export interface FuzzCounts {
  calls: number;
  refused: number;
  /** Right calls whose results were compared. */
  compared: number;
}

export async function fuzzBinding(
  seed: number,
  enough: (calls: number) => boolean,
  devices: readonly string[],
): Promise<FuzzCounts> {
  const fuzz = new BindingFuzz(new Draw(seed), devices);
  while (!enough(fuzz.counts.calls)) await fuzz.round();
  await fuzz.end();
  return fuzz.counts;
}

class BindingFuzz {
  readonly counts: FuzzCounts = { calls: 0, refused: 0, compared: 0 };
  readonly #devices: readonly DeviceHandle[];
  readonly #live: readonly number[];
  readonly #shop: Workshop;
  /** Put where they do not belong: a released buffer, one of each device, a device, another addon's External. */
  readonly #strays: unknown[];

  constructor(draw: Draw, devices: readonly string[]) {
    this.#devices = devices.map((id) => binding.openDevice(id));
    this.#live = this.#devices.map((device) => binding.memory(device).live);
    const [first] = this.#devices as [DeviceHandle];
    this.#shop = new Workshop(draw, first, this.#devices);
    const released = binding.allocate(first, 16);
    binding.release(released);
    const foreign = (process.stdout as { _handle?: { _externalStream?: unknown } })._handle?._externalStream;
    this.#strays = [released, first, foreign, ...this.#devices.map((device) => binding.allocate(device, 16))];
  }

  async round(): Promise<void> {
    const { draw, made } = this.#shop;
    this.#shop.device = draw.pick(this.#devices);
    const call = draw.pick(generators)(this.#shop);
    const wrong = draw.chance(0.6);
    if (wrong) this.#spoil(call.args);
    try {
      const result: unknown = await (binding[call.name] as (...args: unknown[]) => unknown)(...call.args);
      if (call.name !== 'openDevice' && types.isExternal(result)) made.push(result as BufferHandle);
      if (!wrong && call.check) {
        await call.check();
        this.counts.compared++;
      }
    } catch (error) {
      if (!wrong || !(error instanceof Error))
        throw new Error(`${call.name}: ${(error as Error)?.message}`, { cause: error });
      this.counts.refused++;
    }
    this.counts.calls++;
    if (draw.chance(0.1)) await Promise.allSettled(this.#devices.map((device) => binding.synchronize(device)));
    // Memory of queued work may be given up at any time.
    for (const buffer of made.splice(0)) binding.release(buffer);
  }

  async end(): Promise<void> {
    for (const stray of this.#strays.slice(3)) binding.release(stray as BufferHandle);
    for (const [i, device] of this.#devices.entries()) {
      await binding.synchronize(device).catch(() => {});
      const left = binding.memory(device).live - (this.#live[i] as number);
      if (left !== 0) throw new Error(`${left} bytes are still live after the calls of the binding`);
    }
  }

  /** Replaces one to three arguments, or takes some away. */
  #spoil(args: unknown[]): void {
    const { draw } = this.#shop;
    const right = [...args];
    if (draw.chance(0.1)) args.length = draw.below(args.length + 1);
    for (let n = 1 + draw.below(3); n > 0 && args.length > 0; n--) {
      const at = draw.below(args.length);
      const old = right[at];
      if (Array.isArray(old) && old.length > 0 && draw.chance(0.7)) args[at] = this.#spoiledList(old);
      else if (draw.chance(0.3)) args[at] = draw.pick(this.#strays);
      else if (typeof old === 'number' && draw.chance(0.8)) args[at] = wrongNumber(draw, old);
      else args[at] = wrongValue(draw);
    }
  }

  /** A list with a wrong entry, or with a getter that releases operands while the call reads its arguments. */
  #spoiledList(list: readonly unknown[]): unknown[] {
    const { draw, made } = this.#shop;
    const copy = [...list];
    const at = draw.below(copy.length);
    const value = copy[at];
    if (draw.chance(0.5)) {
      Object.defineProperty(copy, at, {
        get: () => {
          for (const buffer of made) binding.release(buffer);
          return value;
        },
      });
    } else if (typeof value === 'object' && !types.isExternal(value) && draw.chance(0.7)) {
      copy[at] = { ...value, [draw.pick(['size', 'parameter', 'gradient'])]: wrongValue(draw) };
    } else {
      copy[at] = draw.chance(0.5) ? draw.pick(this.#strays) : wrongValue(draw);
    }
    return copy;
  }
}
