/**
 * The raw native binding, typed by hand. `lib/` is its only caller: it checks names, dtypes, shapes and devices, makes the
 * output buffers, and passes inputs first, then outputs, then plain values. A buffer has a dtype and a shape, from which the
 * binding takes all sizes. It trusts meanings but not shapes: each operand must be exactly as stated here beside the others,
 * and sizes must fit each other (heads divide, kernels are odd), so that a mistake in `lib/` is an error and never a stray
 * write or a division by zero. Sizes of operands are at least 1, except in `fill`, `random` and `cast`.
 *
 * Every op enqueues and returns at once. Operands whose dtype is not stated have one float dtype in common. Null stands for an operand that is absent.
 */

/** One memory block on one device, owned by the handle, with a dtype and a shape; opaque. */
export interface BufferHandle {
  readonly __buffer: unique symbol;
}
/** One opened device of this environment; opaque. */
export interface DeviceHandle {
  readonly __device: unique symbol;
}

/** f32 = 0, bf16 = 1, f16 = 2, i32 = 3: the order of `sas::DType` in native/core/dtype.h. */
export type DTypeCode = 0 | 1 | 2 | 3;
/** The typed arrays that hold tensors on the host; Uint16Array: the raw bits of bf16 or f16. */
export type HostArray = Float32Array | Int32Array | Uint16Array;

export interface RawDeviceInfo {
  id: string;
  kind: string;
  name: string;
  usable: boolean;
  reason?: string;
  memoryBytes: number;
  isa?: string;
  threads?: number;
  computeCapability?: [number, number];
  driver?: string;
  blas?: string;
}

/** What the environment variables ask for; what is absent has its default. */
export interface RawSettings {
  /** One of `instructionSets()`. */
  isa?: string;
  /** Up to 1024. Default: the processors, or as many as a container's quota is worth. */
  threads?: number;
  /** Bytes. */
  memoryLimit?: number;
  tf32?: boolean;
  /** `allocate` fills memory with NaN. */
  poison?: boolean;
  anomaly?: boolean;
  /** Where /proc and /sys are looked for, which say what a container may have (for tests). */
  systemRoot?: string;
}

export interface Binding {
  /** Called once per environment: makes the error that native code throws or rejects with. */
  setErrorFactory(factory: (code: string, message: string) => Error): void;

  /** The CPU's instruction sets that this build has kernels for, the best first. */
  instructionSets(): string[];
  listDevices(settings?: RawSettings): RawDeviceInfo[];
  /** Throws SAS_DEVICE when the device cannot be used. The same device for the same id, with the settings it was first opened with. */
  openDevice(id: string, settings?: RawSettings): DeviceHandle;
  /** `live`: held by buffers, or released and used by work that is not done. */
  memory(device: DeviceHandle): { live: number; peak: number; reserved: number };
  /** Resolves when all work enqueued so far is done; rejects with the first failure since the last call. */
  synchronize(device: DeviceHandle): Promise<void>;
  /** Gives released buffers that no work uses back to the system, and scratch memory when the work enqueued so far is done. */
  trim(device: DeviceHandle): Promise<void>;

  /** Measures the device's multiply-add peak for about `seconds` (up to 60), in FLOP/s (a multiply-add is 2), into target[0]. */
  peakFlops(device: DeviceHandle, seconds: number, target: Float32Array): Promise<void>;

  /**
   * One buffer of fresh memory for each dtype and the shape beside it, content undefined; shapes of at most 8 sizes, 0 among them
   * or not. Where there is no memory, waits on this thread for what work still uses, up to 10 seconds. Throws SAS_OUT_OF_MEMORY, as
   * all that make buffers, and then makes none.
   */
  allocate(device: DeviceHandle, dtypes: readonly DTypeCode[], shapes: readonly (readonly number[])[]): BufferHandle[];
  /** Fresh memory holding a copy of `source`, taken before the call returns: the array that holds that dtype, as long as the shape says. */
  upload(device: DeviceHandle, dtype: DTypeCode, shape: readonly number[], source: HostArray): BufferHandle;
  /**
   * The caller's own memory (CPU only), as in `upload`, in an ArrayBuffer of fixed length, which is kept alive while used and
   * is to be marked untransferable.
   */
  wrap(device: DeviceHandle, dtype: DTypeCode, shape: readonly number[], source: HostArray): BufferHandle;
  /**
   * Fresh memory on another device holding what the work enqueued so far leaves in `source`, or its failure. Enqueued on
   * both devices. Throws SAS_OUT_OF_MEMORY.
   */
  transfer(source: BufferHandle, device: DeviceHandle): BufferHandle;
  /** A second owner of the same memory, under another shape of as many elements. */
  share(buffer: BufferHandle, shape: readonly number[]): BufferHandle;
  /** Gives up ownership of each. Work already enqueued finishes on the memory. Idempotent. */
  release(buffers: readonly BufferHandle[]): void;
  /** Replaces the content, in order with enqueued work; `source`, as in `upload`, is copied before the call returns. */
  write(buffer: BufferHandle, source: HostArray): void;
  /**
   * Copies all elements into `target`, which has as many, when the last work that writes the buffer is done. A Float32Array
   * target widens bf16/f16; a Uint16Array target takes their bits. The target has an ArrayBuffer of fixed length that is not
   * transferred until then. Rejects when work the buffer depends on failed. Where that work is done already and the buffer is
   * small, copies within the call: returns nothing, and throws where it would reject.
   */
  read(buffer: BufferHandle, target: HostArray): Promise<void> | undefined;
  /** As `read`, but waits on this thread, and throws where that rejects. */
  readSync(buffer: BufferHandle, target: HostArray): void;

  // ---- filling and converting, element by element; any dtype and shape
  /** output[i] = value. */
  fill(output: BufferHandle, value: number): void;
  /** Normal (mean 0, deviation 1; kind 0) or uniform in [-scale, scale) (kind 1) numbers times `scale`; counter-based on (seed, stream). */
  random(output: BufferHandle, kind: 0 | 1, scale: number, seed: number, stream: number): void;
  /** output[i] = input[i], rounded to nearest even; one shape. */
  cast(input: BufferHandle, output: BufferHandle): void;

  // ---- SAS
  /**
   * x [B, T, heads, headDim] -> output [B, T, simHeads, simHeadDim]. `weights` are f32: headWeight [simHeads, heads,
   * kernelSize], headBias [simHeads], headResidualWeight [simHeads, simHeads, kernelSize], headResidualBias [simHeads] and,
   * with features, featureWeight [simHeadDim, headDim], featureBias [simHeadDim], featureResidualWeight [simHeadDim,
   * simHeadDim], featureResidualBias [simHeadDim]. Without features the array has four entries and simHeadDim = headDim.
   * Unless `ropeBase` is null, the output, of an even width, is rotated as by `rope` (interleaved). Not with `naive`.
   * For the backward, f32, each null unless it is to be kept: headRelu relu(C1) and heads Y [B, T, simHeads, headDim],
   * featureRelu relu(Z1) [B, T, simHeads, simHeadDim]; headRelu alone, or with features heads and any of the others. Only on
   * the CPU, not with `naive`, nor where products take pairs of bf16.
   */
  expand(
    x: BufferHandle,
    weights: readonly BufferHandle[],
    output: BufferHandle,
    headRelu: BufferHandle | null,
    heads: BufferHandle | null,
    featureRelu: BufferHandle | null,
    naive: boolean,
    ropeBase: number | null,
    ropeOffset: number,
  ): void;
  /** gradOutput has the dtype of x or, unless `naive`, f32; the rotation is that of the forward, and so is what it kept. */
  expandBackward(
    gradOutput: BufferHandle,
    x: BufferHandle,
    weights: readonly BufferHandle[],
    gradX: BufferHandle,
    gradWeights: readonly BufferHandle[],
    headRelu: BufferHandle | null,
    heads: BufferHandle | null,
    featureRelu: BufferHandle | null,
    naive: boolean,
    ropeBase: number | null,
    ropeOffset: number,
  ): void;
  /**
   * q [B, queries, heads, width], k [B, keys, kvHeads, width], v [B, keys, kvHeads, valueWidth] -> output [B, queries, heads,
   * valueWidth], logSumExp [B, heads, queries] f32.
   */
  attention(
    q: BufferHandle,
    k: BufferHandle,
    v: BufferHandle,
    output: BufferHandle,
    logSumExp: BufferHandle,
    causal: boolean,
    scale: number,
    naive: boolean,
  ): void;
  /** As attention, then the mean over groups of heads: output [B, queries, heads / groups * valueWidth]. */
  attentionMean(
    q: BufferHandle,
    k: BufferHandle,
    v: BufferHandle,
    output: BufferHandle,
    causal: boolean,
    scale: number,
  ): void;
  /** gradQ, gradK and gradV have the dtype of q or, unless `naive`, f32. */
  attentionBackward(
    gradOutput: BufferHandle,
    q: BufferHandle,
    k: BufferHandle,
    v: BufferHandle,
    output: BufferHandle,
    logSumExp: BufferHandle,
    gradQ: BufferHandle,
    gradK: BufferHandle,
    gradV: BufferHandle,
    causal: boolean,
    scale: number,
    naive: boolean,
  ): void;
  /** x [..., simHeads, headDim] -> output [..., heads * headDim], the mean over simHeads / heads groups. */
  aggregate(x: BufferHandle, output: BufferHandle): void;
  aggregateBackward(gradOutput: BufferHandle, gradX: BufferHandle): void;

  // ---- factors of latent and tensor-product attention
  /** a [..., headsA, widthA], b [..., headsB, widthB] -> output [..., heads, widthA + widthB]; headsA and headsB are `heads` or one of them 1. */
  concat(a: BufferHandle, b: BufferHandle, output: BufferHandle): void;
  concatBackward(gradOutput: BufferHandle, gradA: BufferHandle, gradB: BufferHandle): void;
  /** headFactors [..., rank, heads], featureFactors [..., rank, width] -> output [..., heads, width], the mean over the rank. */
  tensorProduct(headFactors: BufferHandle, featureFactors: BufferHandle, output: BufferHandle): void;
  tensorProductBackward(
    gradOutput: BufferHandle,
    headFactors: BufferHandle,
    featureFactors: BufferHandle,
    gradHeadFactors: BufferHandle,
    gradFeatureFactors: BufferHandle,
  ): void;

  // ---- training
  /** x [..., inputWidth], weight [outputWidth, inputWidth] f32, bias [outputWidth] f32 or null -> output [..., outputWidth]. */
  linear(x: BufferHandle, weight: BufferHandle, bias: BufferHandle | null, output: BufferHandle): void;
  linearBackward(
    gradOutput: BufferHandle,
    x: BufferHandle,
    weight: BufferHandle,
    gradX: BufferHandle,
    gradWeight: BufferHandle,
    gradBias: BufferHandle | null,
  ): void;
  /** x [..., width], weight [width] f32, bias [width] f32 -> output as x, mean [rows] f32, rstd [rows] f32. */
  layerNorm(
    x: BufferHandle,
    weight: BufferHandle,
    bias: BufferHandle,
    output: BufferHandle,
    mean: BufferHandle,
    rstd: BufferHandle,
    eps: number,
  ): void;
  layerNormBackward(
    gradOutput: BufferHandle,
    x: BufferHandle,
    weight: BufferHandle,
    mean: BufferHandle,
    rstd: BufferHandle,
    residual: BufferHandle | null,
    gradX: BufferHandle,
    gradWeight: BufferHandle,
    gradBias: BufferHandle,
  ): void;
  /** x [..., width], weight [width] f32 -> output as x, rstd [rows] f32. */
  rmsNorm(x: BufferHandle, weight: BufferHandle, output: BufferHandle, rstd: BufferHandle, eps: number): void;
  rmsNormBackward(
    gradOutput: BufferHandle,
    x: BufferHandle,
    weight: BufferHandle,
    rstd: BufferHandle,
    gradX: BufferHandle,
    gradWeight: BufferHandle,
  ): void;
  /** x and output of any one shape. */
  gelu(x: BufferHandle, output: BufferHandle, tanhApproximation: boolean): void;
  geluBackward(gradOutput: BufferHandle, x: BufferHandle, gradX: BufferHandle, tanhApproximation: boolean): void;
  /** All of any one shape. */
  add(a: BufferHandle, b: BufferHandle, c: BufferHandle | null, output: BufferHandle): void;
  /**
   * tokens [B, T] i32, tokenTable [vocabulary, width] f32, positionTable [positions, width] f32 or null -> output [B, T, width],
   * of its own dtype. A token outside the vocabulary is a device failure.
   */
  embedding(
    tokens: BufferHandle,
    tokenTable: BufferHandle,
    positionTable: BufferHandle | null,
    output: BufferHandle,
  ): void;
  embeddingBackward(
    gradOutput: BufferHandle,
    tokens: BufferHandle,
    gradTokenTable: BufferHandle,
    gradPositionTable: BufferHandle | null,
  ): void;
  /** x [B, T, heads, width], output as x; `inverse` rotates back (the gradient). */
  rope(
    x: BufferHandle,
    output: BufferHandle,
    base: number,
    offset: number,
    interleaved: boolean,
    inverse: boolean,
  ): void;
  /** logits [..., classes], targets [...] i32 -> loss [] f32, logSumExp [rows] f32. */
  crossEntropy(
    logits: BufferHandle,
    targets: BufferHandle,
    loss: BufferHandle,
    logSumExp: BufferHandle,
    ignoreIndex: number,
  ): void;
  crossEntropyBackward(
    gradLoss: BufferHandle,
    logits: BufferHandle,
    targets: BufferHandle,
    logSumExp: BufferHandle,
    gradLogits: BufferHandle,
    ignoreIndex: number,
  ): void;
  /** Scales the gradients, f32 of any shapes, in place; norm [] f32 is their common norm before. */
  clipGradNorm(gradients: readonly BufferHandle[], norm: BufferHandle, maxNorm: number): void;
  /** The tensors of a state, which have one place in the four lists, are f32 of one shape; skipped i32 []: if a gradient is not finite, add 1 there and nothing else. */
  adamW(
    parameters: readonly BufferHandle[],
    gradients: readonly BufferHandle[],
    firstMoments: readonly BufferHandle[],
    secondMoments: readonly BufferHandle[],
    skipped: BufferHandle | null,
    lr: number,
    beta1: number,
    beta2: number,
    eps: number,
    weightDecay: number,
    step: number,
  ): void;
}
