/** Right calls of the binding's functions of devices and memory, on small random operands. */
import { types } from 'node:util';
import type { DTypeCode, RawSettings } from '../../binding.js';
import { type BufferHandle, binding, type DeviceHandle, type HostArray } from '../../lib/binding.js';
import { errorFromCode } from '../../lib/errors.js';
import type { Draw } from './draw.js';
import type { RawCall } from './raw_calls.js';
import { realm } from './strangers.js';

/** What the calls are made of. */
export interface Operands {
  draw: Draw;
  device: DeviceHandle;
  /** The first is the CPU. */
  devices: readonly DeviceHandle[];
}

const kinds = ['Float32Array', 'Uint16Array', 'Uint16Array', 'Int32Array'] as const;

/** A dtype, a shape, and an array of as many elements of that dtype, of this realm or of another. */
function content({ draw }: Operands): readonly [DTypeCode, number[], HostArray] {
  const dtype = draw.pick<DTypeCode>([0, 1, 2, 3]);
  const shape = Array.from({ length: draw.below(4) }, () => (draw.chance(0.05) ? 0 : draw.size()));
  const size = shape.reduce((product, extent) => product * extent, 1);
  const arrays = draw.chance(0.2) ? realm : globalThis;
  return [dtype, shape, new arrays[kinds[dtype]](size).fill(1)];
}

/** A buffer, and its content as in `content`. */
function buffer(of: Operands): { handle: BufferHandle; shape: number[]; array: HostArray } {
  const [dtype, shape, array] = content(of);
  return { handle: binding.upload(of.device, dtype, shape, array), shape, array };
}

/** Of a device that is open already, which no settings change. */
const rawSettings = (draw: Draw): RawSettings =>
  draw.pick<RawSettings>([{}, { threads: 1, isa: 'baseline' }, { memoryLimit: 2 ** 30, tf32: true, poison: false }]);

export const memoryCalls: readonly ((of: Operands) => RawCall)[] = [
  () => ({ name: 'setErrorFactory', args: [errorFromCode] }),
  () => ({ name: 'instructionSets', args: [] }),
  ({ draw }) => ({ name: 'listDevices', args: [rawSettings(draw)] }),
  ({ draw }) => ({ name: 'openDevice', args: ['cpu', rawSettings(draw)] }),
  ({ device }) => ({ name: 'memory', args: [device] }),
  ({ device }) => ({ name: 'synchronize', args: [device] }),
  ({ device }) => ({ name: 'trim', args: [device] }),
  ({ devices }) => ({ name: 'peakFlops', args: [devices[0], 1e-4, new Float32Array(1)], seconds: 1 }),
  (of) => {
    const contents = Array.from({ length: 1 + of.draw.below(3) }, () => content(of));
    return {
      name: 'allocate',
      args: [of.device, contents.map(([dtype]) => dtype), contents.map(([, shape]) => shape)],
    };
  },
  (of) => ({ name: 'upload', args: [of.device, ...content(of)] }),
  (of) => ({ name: 'wrap', args: [of.devices[0], ...content(of)] }),
  (of) => {
    const { handle, shape } = buffer(of);
    return { name: 'share', args: [handle, of.draw.pick([shape, [...shape].reverse(), [1, ...shape]])] };
  },
  (of) => ({ name: 'release', args: [[buffer(of).handle, buffer(of).handle]] }),
  (of) => {
    const { handle, array } = buffer(of);
    return { name: 'write', args: [handle, array] };
  },
  ...(['read', 'readSync'] as const).map((name) => (of: Operands): RawCall => {
    const { handle, array } = buffer(of);
    const widened = types.isUint16Array(array) && of.draw.chance(0.5);
    return { name, args: [handle, widened ? new Float32Array(array.length) : array] };
  }),
  (of) => {
    const size = of.draw.size() * 1000; // too large for a copy at once
    return {
      name: 'read',
      args: [binding.upload(of.device, 0, [size], new Float32Array(size)), new Float32Array(size)],
    };
  },
  (of) => ({ name: 'transfer', args: [buffer(of).handle, of.draw.pick(of.devices)] }),
];
