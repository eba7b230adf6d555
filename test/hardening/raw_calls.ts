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
    if (types.isExternal(result)) this.made.set(result as BufferHandle, { device: null as never, dtype: 0, shape: [] });
  }

  release(): void {
    for (const buffer of this.made.keys()) functions.release(buffer);
  }

  #record(call: RawCall): unknown {
    this.calls.push({ ...call, args: [...call.args] });
    if (call.name === 'release') return undefined;
    const result = callRaw(call);
    if (types.isExternal(result) && call.name !== 'openDevice') {
      this.made.set(result as BufferHandle, this.#madeBy(call));
    }
    return result;
  }

  #madeBy({ name, args }: RawCall): Made {
    if (name !== 'share' && name !== 'transfer') {
      const [device, dtype, shape] = args as [DeviceHandle, DTypeCode, number[]];
      return { device, dtype, shape };
    }
    const source = this.made.get(args[0] as BufferHandle) as Made;
    return name === 'share'
      ? { ...source, shape: args[1] as number[] }
      : { ...source, device: args[1] as DeviceHandle };
  }
}
