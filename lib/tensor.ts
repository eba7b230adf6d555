/** Tensors: a shape and a dtype over memory on one device. */
import { markAsUntransferable } from 'node:worker_threads';
import { type BufferHandle, binding, type HostArray } from './binding.js';
import { release } from './buffers.js';
import * as check from './checks.js';
import { Device, deviceHandle, getDevice } from './device.js';
import { codeOf, type DType, dtypes, floats } from './dtype.js';
import { ArgumentError, DeviceError, DisposedError, OutOfMemoryError, ShapeError } from './errors.js';
import { bufferOfArray, hostArray, lengthOfArray, natural, refuseUnshareable, type TensorData } from './host_array.js';
import { scope, track } from './scope.js';
import { due } from './turn.js';

/** Where a new tensor lives and what it holds: 'f32' on `getDevice()` by default. */
export interface TensorOptions {
  dtype?: DType;
  device?: Device;
}

/** Shape and dtype of an op's output. */
export type Output = readonly [shape: readonly number[], dtype: DType];
/** The outputs of an op by name; one that is undefined is not wanted. */
type Outputs = Readonly<Record<string, Output | undefined>>;
type Made<S extends Outputs, T, Absent> = { [N in keyof S]: undefined extends S[N] ? T | Absent : T };

let make: (buffer: BufferHandle, shape: readonly number[], dtype: DType, device: Device) => Tensor;
let bufferOf: (op: string, name: check.Text, tensor: Tensor) => BufferHandle;

/**
 * A row-major, contiguous tensor on one device. `[]` is the shape of a scalar, at most 8 sizes; a size may be 0 here, though
 * no op takes it. Its memory goes with `dispose()`, with the `scope` it was made in, or when the object is collected; it
 * may be disposed while ops that use it are still queued.
 */
export class Tensor {
  static {
    make = (buffer, shape, dtype, device) => new Tensor(buffer, shape, dtype, device);
    bufferOf = (op, name, tensor) => {
      if (!(typeof tensor === 'object' && tensor !== null && #buffer in tensor)) {
        throw new ArgumentError(`${op}: ${check.text(name)} is ${check.describe(tensor)}, expected a Tensor`);
      }
      if (!tensor.#buffer) throw new DisposedError(`${op}: ${check.text(name)} has been disposed`);
      return tensor.#buffer;
    };
  }

  #buffer: BufferHandle | null;
  /** Sizes, outermost first. */
  readonly shape: readonly number[];
  /** Type of the elements. */
  readonly dtype: DType;
  /** Where the memory is. */
  readonly device: Device;
  /** The number of elements. */
  readonly size: number;

  private constructor(buffer: BufferHandle, shape: readonly number[], dtype: DType, device: Device) {
    this.#buffer = buffer;
    this.shape = shape;
    this.dtype = dtype;
    this.device = device;
    this.size = check.elements(shape);
    track(this);
  }

  /**
   * A tensor holding a copy of `data`, taken before the call returns. Numbers and a Float32Array become 'f32' or, rounded
   * to nearest even, another float `dtype`; numbers also 'i32' if asked; an Int32Array is 'i32'; a Uint16Array is the raw
   * bits of the `dtype` asked for, 'bf16' or 'f16'.
   */
  static from(data: TensorData, shape: readonly number[], options?: TensorOptions): Tensor {
    const op = check.call('Tensor.from', arguments.length, 3);
    const { dtype, device = getDevice() } = tensorOptions(op, options, natural(data));
    const dims = check.sizes(op, shape, dtype);
    const [host, stored] = hostArray(op, data, dtype);
    check.count(op, 'data', lengthOfArray(host), dims);
    return scope(() => cast(op, upload(op, host, dims, stored, device), dtype));
  }

  /**
   * A CPU tensor that shares the caller's memory: no copy. The ArrayBuffer is marked untransferable and kept alive; leave its
   * content alone until the ops that use the tensor are done. A Uint16Array is the raw bits of `options.dtype`, 'bf16' by
   * default. Refuses resizable, shared and detached buffers.
   */
  static wrap(data: HostArray, shape: readonly number[], options?: { dtype?: DType }): Tensor {
    const op = check.call('Tensor.wrap', arguments.length, 3);
    const { dtype = natural(data, 'bf16') } = check.options(op, options, ['dtype']);
    const dims = check.sizes(op, shape, check.dtypeName(op, 'dtype', dtype));
    refuseUnshareable(op, data, dtype);
    check.count(op, 'data', lengthOfArray(data), dims);
    const device = getDevice('cpu');
    markAsUntransferable(bufferOfArray(data));
    return make(binding.wrap(deviceHandle(device), codeOf(dtype), dims, data), dims, dtype, device);
  }

  /** A tensor of zeros. */
  static zeros(shape: readonly number[], options?: TensorOptions): Tensor {
    const op = check.call('Tensor.zeros', arguments.length, 2);
    const { dtype, device = getDevice() } = tensorOptions(op, options);
    const dims = check.sizes(op, shape, dtype);
    return produce(op, device, { output: [dims, dtype] }, (to) => binding.fill(to.output, 0)).output;
  }

  /** Independent normal numbers, mean 0 and deviation 1: the same for the same seed (an integer of at least 0) on every device. */
  static randn(shape: readonly number[], options: TensorOptions & { seed: number }): Tensor {
    const op = check.call('Tensor.randn', arguments.length, 2);
    const { seed, dtype, device } = check.options(op, options, ['seed', 'dtype', 'device']);
    check.integer(op, 'seed', seed, { min: 0 });
    return random(op, shape, tensorOptions(op, { dtype, device }, 'f32', floats), {
      kind: 0,
      scale: 1,
      seed,
      stream: 0,
    });
  }

  /** Bytes of its elements. */
  get byteLength(): number {
    return this.size * dtypes[this.dtype].bytes;
  }

  /** Whether the memory has been given up. */
  get disposed(): boolean {
    return this.#buffer === null;
  }

  /** A copy of the elements, bf16 and f16 widened to f32. Waits for this tensor only; rejects if an op it depends on failed. */
  data(): Promise<Float32Array | Int32Array> {
    return read('Tensor.data', arguments.length, this, true);
  }

  /**
   * As `data()`, but waits on this thread: the event loop stands still until the work that this tensor depends on is done, and
   * throws where `data()` rejects. For callers that must return synchronously, such as a TensorFlow.js op; prefer `data()`.
   */
  dataSync(): Float32Array | Int32Array {
    const op = check.call('Tensor.dataSync', arguments.length, 0);
    const buffer = bufferOf(op, 'this', this);
    const target = hostMemory(op, widened(this.dtype), this.size);
    binding.readSync(buffer, target);
    return target;
  }

  /** As `data()`, with the bits of bf16 and f16 as they are. */
  raw(): Promise<Uint16Array | Float32Array | Int32Array> {
    return read('Tensor.raw', arguments.length, this, false);
  }

  /** The same memory under another shape of as many elements, as a tensor of its own. One size may be -1: what remains. */
  reshape(shape: readonly number[]): Tensor {
    const op = check.call('Tensor.reshape', arguments.length, 1);
    const buffer = bufferOf(op, 'this', this);
    const dims = check.sizes(op, Array.isArray(shape) ? infer(op, shape, this.size) : shape, this.dtype);
    check.count(op, 'this', this.size, dims);
    return make(binding.share(buffer, dims), dims, this.dtype, this.device);
  }

  /**
   * This tensor in another float dtype, rounded to nearest even, or on another device, or both; where nothing changes, a view
   * of the same memory. Returns at once: the copy is in order with the ops around it on both devices, and a failure of what it
   * copies is the copy's failure too.
   */
  to(target: TensorOptions): Tensor {
    const op = check.call('Tensor.to', arguments.length, 1);
    const { dtype, device = this.device } = tensorOptions(op, target, this.dtype);
    const buffer = bufferOf(op, 'this', this);
    return scope(() => {
      const view = make(binding.share(buffer, this.shape), this.shape, this.dtype, this.device);
      const widens = dtype === 'f32' && dtypes[this.dtype].bytes < dtypes[dtype].bytes;
      // What crosses is the narrower of the two.
      return widens ? cast(op, moved(op, view, device), dtype) : moved(op, cast(op, view, dtype), device);
    });
  }

  /** Replaces the content, in order with the ops around it, by a copy of `data` taken before the call returns; types as in `from`. */
  copyFrom(data: TensorData): void {
    overwrite(check.call('Tensor.copyFrom', arguments.length, 1), this, data, this.dtype);
  }

  /** Gives up the memory; work already queued finishes on it. Any later use throws DisposedError; a second call does nothing. */
  dispose(): void {
    if (this.#buffer) release(this.#buffer);
    this.#buffer = null;
  }

  /** As `dispose()`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Resolved options of a new tensor; `fallback` is its dtype when none is asked for. */
function tensorOptions(
  op: string,
  options: TensorOptions | undefined,
  fallback: DType = 'f32',
  allowed?: readonly DType[],
): { dtype: DType; device?: Device } {
  const { dtype = fallback, device } = check.options(op, options, ['dtype', 'device']);
  if (device !== undefined && !(device instanceof Device)) {
    throw new ArgumentError(`${op}: device is ${check.describe(device)}, expected a Device (from getDevice)`);
  }
  return { dtype: check.dtypeName(op, 'dtype', dtype, allowed), device };
}

/** The shape with its one -1, if it has one, replaced by what makes `size` elements. */
function infer(op: string, shape: readonly number[], size: number): readonly number[] {
  const at = shape.indexOf(-1);
  const others = shape.toSpliced(at, 1);
  if (at < 0 || !others.every((other) => Number.isSafeInteger(other) && other >= 0)) return shape; // refused as it is
  const rest = check.elements(others);
  if (!Number.isSafeInteger(size / rest)) {
    throw new ShapeError(
      `${op}: this has ${size} elements, expected a multiple of ${rest} (shape ${check.show(shape)})`,
    );
  }
  return shape.with(at, size / rest);
}

type Elements<A> = new (length: number) => A;

/** The array for elements of which 16-bit floats become f32. */
const widened = (dtype: DType): Elements<Float32Array | Int32Array> => (dtype === 'i32' ? Int32Array : Float32Array);

/** A copy of the elements, widened or as they are, for a method that has that many arguments. `fairly`, with fewer promises. */
async function read(op: string, given: number, tensor: Tensor, widen: true): Promise<Float32Array | Int32Array>;
async function read(op: string, given: number, tensor: Tensor, widen: false): Promise<HostArray>;
async function read(op: string, given: number, tensor: Tensor, widen: boolean): Promise<HostArray> {
  try {
    check.call(op, given, 0);
    const buffer = bufferOf(op, 'this', tensor);
    const array: Elements<HostArray> = widen ? widened(tensor.dtype) : dtypes[tensor.dtype].array;
    const target = hostMemory(op, array, tensor.size);
    await binding.read(buffer, target); // also of nothing: what is known overtakes no other answer
    return target;
  } finally {
    const turn = due();
    if (turn) await turn;
  }
}

/** An array of that length, or OutOfMemoryError. */
export function hostMemory<A>(op: string, array: Elements<A>, length: number): A {
  try {
    return new array(length);
  } catch (cause) {
    throw new OutOfMemoryError(`${op}: no host memory for ${length} elements`, { cause });
  }
}

/** Names the op in what native code says of memory. */
function allocated<Buffers>(op: string, allocate: () => Buffers): Buffers {
  try {
    return allocate();
  } catch (cause) {
    throw cause instanceof OutOfMemoryError ? new OutOfMemoryError(`${op}: ${cause.message}`, { cause }) : cause;
  }
}

function upload(op: string, host: HostArray, shape: readonly number[], dtype: DType, device: Device): Tensor {
  return make(
    allocated(op, () => binding.upload(deviceHandle(device), codeOf(dtype), shape, host)),
    shape,
    dtype,
    device,
  );
}

/** The tensor itself if it is on that device, else a copy. */
function moved(op: string, tensor: Tensor, device: Device): Tensor {
  if (tensor.device === device) return tensor;
  const source = bufferOf(op, 'this', tensor);
  return make(
    allocated(op, () => binding.transfer(source, deviceHandle(device))),
    tensor.shape,
    tensor.dtype,
    device,
  );
}

/** The tensor itself if it has that dtype, else a converted one. */
function cast(op: string, tensor: Tensor, dtype: DType): Tensor {
  if (dtype === tensor.dtype) return tensor;
  check.dtype(op, 'this', tensor, floats, 'conversion is between float types');
  check.dtypeName(op, 'dtype', dtype, floats);
  const buffer = bufferOf(op, 'this', tensor);
  return produce(op, tensor.device, { output: [tensor.shape, dtype] }, (to) => binding.cast(buffer, to.output)).output;
}

/** Replaces the content of `tensor` by `data`, read as `from` reads it with `dtype`. */
export function overwrite(op: string, tensor: Tensor, data: TensorData, dtype: DType): void {
  const buffer = bufferOf(op, 'this', tensor);
  const [host, stored] = hostArray(op, data, dtype);
  check.count(op, 'data', lengthOfArray(host), tensor.shape);
  if (stored === tensor.dtype) {
    binding.write(buffer, host);
    return;
  }
  scope(() => {
    const source = upload(op, host, tensor.shape, stored, tensor.device);
    binding.cast(bufferOf(op, 'data', source), buffer);
  });
}

/** Random numbers times `scale`: normal (kind 0) or uniform in [-1, 1) (kind 1), one independent series per stream of a seed. */
export function random(
  op: string,
  shape: readonly number[],
  { dtype, device = getDevice() }: { dtype: DType; device?: Device },
  { kind, scale, seed, stream }: { kind: 0 | 1; scale: number; seed: number; stream: number },
): Tensor {
  const dims = check.sizes(op, shape, dtype);
  return produce(op, device, { output: [dims, dtype] }, (to) => binding.random(to.output, kind, scale, seed, stream))
    .output;
}

/**
 * The buffers of an op's operands, and the device they are all on. An operand that is absent has null. Throws for what is not
 * a tensor, is disposed, or is on another device than the first.
 */
export function operands<K extends string, O extends string = never>(
  op: string,
  required: Readonly<Record<K, Tensor>>,
  optional?: Readonly<Record<O, Tensor | undefined>>,
): { device: Device; buffers: Record<K, BufferHandle> & Record<O, BufferHandle | null> } {
  const buffers: Record<string, BufferHandle | null> = {};
  const device = new OneDevice(op);
  for (const name in required) buffers[name] = device.take(name, required[name]);
  for (const name in optional) {
    const tensor = optional[name];
    buffers[name] = tensor === undefined ? null : device.take(name, tensor);
  }
  return { device: device.found, buffers: buffers as ReturnType<typeof operands<K, O>>['buffers'] };
}

/** As `operands`, for a list of any length. */
export function listed(
  op: string,
  tensors: readonly Tensor[],
  name: (i: number) => string,
): { device: Device; buffers: BufferHandle[] } {
  const device = new OneDevice(op);
  const buffers: BufferHandle[] = [];
  let at = 0;
  const here = () => name(at);
  for (const tensor of tensors) {
    buffers.push(device.take(at === 0 ? name(0) : here, tensor));
    at++;
  }
  return { device: device.found, buffers };
}

/** The device that all operands of a call are on. */
class OneDevice {
  #first: readonly [name: check.Text, device: Device] | undefined;

  constructor(private readonly op: string) {}

  /** Of the operands so far, which are one at least. */
  get found(): Device {
    return (this.#first as readonly [check.Text, Device])[1];
  }

  /** The buffer of the next operand. */
  take(name: check.Text, tensor: Tensor): BufferHandle {
    const buffer = bufferOf(this.op, name, tensor);
    this.#first ??= [name, tensor.device];
    const [first, device] = this.#first;
    if (tensor.device === device) return buffer;
    const [is, expected] = [tensor.device.info.id, device.info.id];
    throw new DeviceError(
      `${this.op}: ${check.text(name)} is on ${is}, expected ${expected} (where ${check.text(first)} is)`,
    );
  }
}

/**
 * Makes the outputs of an op, whose shapes are valid, and lets `run` enqueue it, with null for one not wanted; when either fails,
 * none is left behind.
 */
export function produce<const S extends Outputs>(
  op: string,
  device: Device,
  outputs: S,
  run: (to: Made<S, BufferHandle, null>) => void,
): Made<S, Tensor, undefined> {
  const buffers: Record<string, BufferHandle | null> = {};
  const names: string[] = [];
  const shapes: (readonly number[])[] = [];
  const types: DType[] = [];
  for (const name in outputs) {
    buffers[name] = null;
    const output = outputs[name];
    if (!output) continue;
    check.bytes(op, output[0], output[1]);
    names.push(name);
    shapes.push(Object.freeze(output[0]));
    types.push(output[1]);
  }
  const made = allocated(op, () => binding.allocate(deviceHandle(device), types.map(codeOf), shapes));
  try {
    for (let i = 0; i < made.length; i++) buffers[names[i] as string] = made[i] as BufferHandle;
    run(buffers as Made<S, BufferHandle, null>);
  } catch (error) {
    binding.release(made);
    throw error;
  }
  const tensors: Record<string, Tensor> = {};
  for (let i = 0; i < made.length; i++) {
    tensors[names[i] as string] = make(
      made[i] as BufferHandle,
      shapes[i] as readonly number[],
      types[i] as DType,
      device,
    );
  }
  return tensors as Made<S, Tensor, undefined>;
}
