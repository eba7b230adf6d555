/** Operands of calls of the raw binding: small random buffers, and how two results are compared. */
import type { DTypeCode } from '../../binding.js';
import { type BufferHandle, binding, type DeviceHandle, type HostArray } from '../../lib/binding.js';
import type { Draw } from './draw.js';

export interface Call {
  name: keyof typeof binding;
  args: unknown[];
  /** After the call, if it was right: throws if the results are not what they should be. */
  check?: () => Promise<void>;
}

export const [F32, I32]: readonly DTypeCode[] = [0, 3];
const bytesOf = (dtype: DTypeCode): number => (dtype === 1 || dtype === 2 ? 2 : 4);
/** Relative to the largest value, or to the inputs, which are about 1; fused and unfused round to storage at different places. */
const tolerance = [1e-5, 6e-2, 1e-2, 0] as const;

/** Makes operands and remembers them. */
export class Workshop {
  readonly made: BufferHandle[] = [];
  constructor(
    readonly draw: Draw,
    public device: DeviceHandle,
    readonly devices: readonly DeviceHandle[],
  ) {}

  float = (): DTypeCode => this.draw.pick([0, 0, 1, 2] as const);

  keep(buffer: BufferHandle): BufferHandle {
    this.made.push(buffer);
    return buffer;
  }

  /** An operand of ordinary values in that dtype. */
  input(dtype: DTypeCode, ...shape: number[]): BufferHandle {
    const size = shape.reduce((product, extent) => product * extent, 1);
    if (dtype === I32) return this.keep(binding.upload(this.device, this.draw.integers(size, 4)));
    const values = this.keep(binding.upload(this.device, this.draw.floats(size)));
    if (dtype === F32) return values;
    const narrow = this.output(dtype, size);
    binding.cast(F32 as DTypeCode, dtype, size, values, narrow);
    return narrow;
  }

  output(dtype: DTypeCode, ...shape: number[]): BufferHandle {
    const size = shape.reduce((product, extent) => product * extent, 1);
    return this.keep(binding.allocate(this.device, size * bytesOf(dtype)));
  }

  async values(buffer: BufferHandle, dtype: DTypeCode, size: number): Promise<HostArray> {
    const target = dtype === I32 ? new Int32Array(size) : new Float32Array(size);
    await binding.read(buffer, dtype, size, target);
    return target;
  }

  /** Throws unless two results agree. */
  async same(name: string, dtype: DTypeCode, size: number, a: BufferHandle, b: BufferHandle): Promise<void> {
    const [x, y] = await Promise.all([this.values(a, dtype, size), this.values(b, dtype, size)]);
    const scale = Math.max(1, ...Array.from(y, Math.abs));
    for (let i = 0; i < size; i++) {
      const off = Math.abs((x[i] as number) - (y[i] as number));
      if (!(off <= (tolerance[dtype] ?? 0) * scale)) {
        throw new Error(`${name}: element ${i} of ${size} (dtype ${dtype}) is ${x[i]}, expected ${y[i]}`);
      }
    }
  }
}

export type Generator = (shop: Workshop) => Call;
