/** The calls of the raw binding that a piece of the library makes, and the buffers in them, which live on until they are released. */
import { types } from 'node:util';
import type { DTypeCode } from '../../binding.js';
import { type Binding, type BufferHandle, binding, type DeviceHandle } from '../../lib/binding.js';

/** A function of the binding. */
export type RawName = keyof Binding;

export interface RawCall {
  name: RawName;
  args: unknown[];
  /** The place of a number of seconds that the call spends. */
  seconds?: number;
}

/** What a buffer was made as. */
export interface Made {
  device: DeviceHandle;
  dtype: DTypeCode;
  shape: readonly number[];
}

export const rawNames = Object.keys(binding) as RawName[];
/** The binding itself, however it may be wrapped at the moment. */
const functions = { ...binding } as unknown as Record<RawName, (...args: unknown[]) => unknown>;

/** One buffer of fresh memory. */
export const allocate = (device: DeviceHandle, dtype: DTypeCode, shape: readonly number[]): BufferHandle =>
  binding.allocate(device, [dtype], [shape])[0] as BufferHandle;

export const callRaw = ({ name, args }: RawCall): unknown => functions[name](...args);

/** Records what runs in `during`: every call, and how each buffer was made. Nothing is released until `release`. */
export class Recording {
  readonly calls: RawCall[] = [];
  readonly made = new Map<BufferHandle, Made>();

  during<R>(body: () => R): R {
    for (const name of rawNames) {
      Object.assign(binding, { [name]: (...args: unknown[]) => this.#record({ name, args }) });
    }
    try {
      return body();
    } finally {
      Object.assign(binding, functions);
    }
  }

  /** A result of a call that was made outside of `during`. */
  adopt(result: unknown): void {
    for (const buffer of [result].flat()) {
      if (types.isExternal(buffer))
        this.made.set(buffer as BufferHandle, { device: null as never, dtype: 0, shape: [] });
    }
  }

  release(): void {
    functions.release([...this.made.keys()]);
  }

  #record(call: RawCall): unknown {
    this.calls.push({ ...call, args: [...call.args] });
    if (call.name === 'release') return undefined;
    const result = callRaw(call);
    if (call.name === 'openDevice') return result;
    for (const [i, buffer] of [result].flat().entries()) {
      if (types.isExternal(buffer)) this.made.set(buffer as BufferHandle, this.#madeBy(call, i));
    }
    return result;
  }

  /** The i-th buffer that a call returns. */
  #madeBy({ name, args }: RawCall, i: number): Made {
    if (name === 'share' || name === 'transfer') {
      const source = this.made.get(args[0] as BufferHandle) as Made;
      return name === 'share'
        ? { ...source, shape: args[1] as number[] }
        : { ...source, device: args[1] as DeviceHandle };
    }
    const [device, dtype, shape] =
      name === 'allocate' ? [args[0], (args[1] as unknown[])[i], (args[2] as unknown[])[i]] : args;
    return { device: device as DeviceHandle, dtype: dtype as DTypeCode, shape: shape as number[] };
  }
}
