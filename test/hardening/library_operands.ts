/** Arguments of calls of the library: small random tensors beside exactly their values. */
import { type Device, Tensor } from '../../lib/index.js';
import type { Resource } from '../../lib/scope.js';
import { type FloatType, fromBits, toBits } from '../helpers/random.js';
import { type Array64, array64, sizeOf } from '../reference/index.js';
import type { Draw } from './draw.js';

/** A right call. */
export interface Call {
  name: string;
  run: (...args: never[]) => unknown;
  args: unknown[];
}

/** Makes right arguments on one device. */
export class Maker {
  constructor(
    readonly draw: Draw,
    readonly device: Device,
    readonly made: Resource[],
  ) {}

  float = (): FloatType => this.draw.pick(['f32', 'f32', 'bf16', 'f16'] as const);

  /** A tensor and exactly its values. */
  pair(dtype: FloatType, ...shape: number[]): { tensor: Tensor; exact: Array64 } {
    const values = this.draw.floats(sizeOf(shape));
    const bits = dtype === 'f32' ? values : toBits(values, dtype);
    const exact = array64(dtype === 'f32' ? values : fromBits(bits as Uint16Array, dtype), shape);
    return { tensor: this.keep(Tensor.from(bits, shape, { dtype, device: this.device })), exact };
  }

  ints(limit: number, ...shape: number[]): { tensor: Tensor; values: Int32Array } {
    const values = this.draw.integers(sizeOf(shape), limit);
    return { tensor: this.keep(Tensor.from(values, shape, { device: this.device })), values };
  }

  keep(tensor: Tensor): Tensor {
    this.made.push(tensor);
    return tensor;
  }
}

export type Generate = (make: Maker) => Call;
