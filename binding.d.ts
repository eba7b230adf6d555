/**
 * The raw native binding, typed by hand. `lib/` is its only caller: it checks names, dtypes, shapes and devices, makes the
 * output buffers, and passes sizes first, then inputs, then outputs. The binding trusts meanings but not sizes: each buffer
 * must be exactly as large as the stated shape, and sizes must fit each other (heads divide, kernels are odd), so that a
 * mistake in `lib/` is an error and never a stray write or a division by zero. Sizes of operands are at least 1, except in
 * `fill`, `random` and `cast`.
 *
 * Every op enqueues and returns at once. Null stands for an operand that is absent.
 */

/** One memory block on one device, owned by the handle; opaque. */
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

export interface RawAdamWState {
  parameter: BufferHandle;
  gradient: BufferHandle;
  firstMoment: BufferHandle;
  secondMoment: BufferHandle;
  size: number;
}

export interface Binding {
  /** Called once per environment: makes the error that native code throws or rejects with. */
  setErrorFactory(factory: (code: string, message: string) => Error): void;

  listDevices(): RawDeviceInfo[];
  /** Throws SAS_DEVICE when the device cannot be used. The same handle for the same id. */
  openDevice(id: string): DeviceHandle;
  memory(device: DeviceHandle): { live: number; peak: number; reserved: number };
  /** Resolves when all work enqueued so far is done; rejects with the first failure since the last call. */
  synchronize(device: DeviceHandle): Promise<void>;

  /** Measures the device's multiply-add peak for about `seconds`, in FLOP/s (a multiply-add is 2), into target[0]. */
  peakFlops(device: DeviceHandle, seconds: number, target: Float32Array): Promise<void>;

  /** Fresh memory, content undefined. Throws SAS_OUT_OF_MEMORY. */
  allocate(device: DeviceHandle, bytes: number): BufferHandle;
  /** Fresh memory holding a copy of `source`, taken before the call returns. */
  upload(device: DeviceHandle, source: HostArray): BufferHandle;
  /** The caller's own memory (CPU only); its ArrayBuffer is marked untransferable and kept alive while used. */
  wrap(device: DeviceHandle, source: HostArray): BufferHandle;
  /**
   * Fresh memory on another device holding what the work enqueued so far leaves in `source`, or its failure. Enqueued on
   * both devices. Throws SAS_OUT_OF_MEMORY.
   */
  transfer(source: BufferHandle, device: DeviceHandle): BufferHandle;
  /** A second owner of the same memory. */
  share(buffer: BufferHandle): BufferHandle;
  /** Gives up ownership. Work already enqueued finishes on the memory. Idempotent. */
  release(buffer: BufferHandle): void;
  /** Replaces the content, in order with enqueued work; `source` is copied before the call returns. */
  write(buffer: BufferHandle, source: HostArray): void;
  /**
   * Copies `size` elements of `dtype` into `target` when the last work that writes the buffer is done. A Float32Array
   * target widens bf16/f16; a Uint16Array target takes their bits. The target stays where it is (no transfer, no resize)
   * until then. Rejects when work the buffer depends on failed.
   */
  read(buffer: BufferHandle, dtype: DTypeCode, size: number, target: HostArray): Promise<void>;
  /** As `read`, but waits on this thread, and throws where that rejects. */
  readSync(buffer: BufferHandle, dtype: DTypeCode, size: number, target: HostArray): void;

  // ---- filling and converting: one element per thread of thought
  /** output[i] = value, `size` elements. */
  fill(dtype: DTypeCode, size: number, value: number, output: BufferHandle): void;
  /** Normal (mean 0, deviation 1; kind 0) or uniform in [-scale, scale) (kind 1) numbers times `scale`; counter-based on (seed, stream). */
  random(
    dtype: DTypeCode,
    size: number,
    kind: 0 | 1,
    scale: number,
    seed: number,
    stream: number,
    output: BufferHandle,
  ): void;
  /** output[i] = input[i], rounded to nearest even. */
  cast(from: DTypeCode, to: DTypeCode, size: number, input: BufferHandle, output: BufferHandle): void;

  // ---- SAS
  /**
   * x [tokens, heads, headDim] -> output [tokens, simHeads, simHeadDim]. `weights` are f32: headWeight [simHeads, heads,
   * kernelSize], headBias [simHeads], headResidualWeight [simHeads, simHeads, kernelSize], headResidualBias [simHeads] and,
   * with `features`, featureWeight [simHeadDim, headDim], featureBias, featureResidualWeight [simHeadDim, simHeadDim],
   * featureResidualBias [simHeadDim]. Without `features` simHeadDim = headDim and the array has four entries.
   */
  expand(
    dtype: DTypeCode,
    tokens: number,
    heads: number,
    headDim: number,
    simHeads: number,
    simHeadDim: number,
    kernelSize: number,
    features: boolean,
    naive: boolean,
    x: BufferHandle,
    weights: readonly BufferHandle[],
    output: BufferHandle,
  ): void;
  /** `gradDtype`, of gradOutput, is `dtype` or f32. */
  expandBackward(
    dtype: DTypeCode,
    tokens: number,
    heads: number,
    headDim: number,
    simHeads: number,
    simHeadDim: number,
    kernelSize: number,
    features: boolean,
    naive: boolean,
    gradDtype: DTypeCode,
    gradOutput: BufferHandle,
    x: BufferHandle,
    weights: readonly BufferHandle[],
    gradX: BufferHandle,
    gradWeights: readonly BufferHandle[],
  ): void;
  /**
   * q [batch, queries, heads, width], k [batch, keys, kvHeads, width], v [batch, keys, kvHeads, valueWidth] -> output
   * [batch, queries, heads, valueWidth], logSumExp [batch, heads, queries] f32.
   */
  attention(
    dtype: DTypeCode,
    batch: number,
    queries: number,
    keys: number,
    heads: number,
    kvHeads: number,
    width: number,
    valueWidth: number,
    causal: boolean,
    scale: number,
    naive: boolean,
    q: BufferHandle,
    k: BufferHandle,
    v: BufferHandle,
    output: BufferHandle,
    logSumExp: BufferHandle,
  ): void;
  /** As attention, then the mean over `groups` groups of heads: output [batch, queries, heads / groups, valueWidth]. */
  attentionMean(
    dtype: DTypeCode,
    batch: number,
    queries: number,
    keys: number,
    heads: number,
    kvHeads: number,
    width: number,
    valueWidth: number,
    causal: boolean,
    scale: number,
    groups: number,
    q: BufferHandle,
    k: BufferHandle,
    v: BufferHandle,
    output: BufferHandle,
  ): void;
  /** `gradDtype`, of gradQ, gradK and gradV, is `dtype` or f32. */
  attentionBackward(
    dtype: DTypeCode,
    batch: number,
    queries: number,
    keys: number,
    heads: number,
    kvHeads: number,
    width: number,
    valueWidth: number,
    causal: boolean,
    scale: number,
    naive: boolean,
    gradDtype: DTypeCode,
    gradOutput: BufferHandle,
    q: BufferHandle,
    k: BufferHandle,
    v: BufferHandle,
    output: BufferHandle,
    logSumExp: BufferHandle,
    gradQ: BufferHandle,
    gradK: BufferHandle,
    gradV: BufferHandle,
  ): void;
  /** x [tokens, simHeads, headDim] -> output [tokens, heads, headDim], the mean over simHeads / heads groups. */
  aggregate(
    dtype: DTypeCode,
    tokens: number,
    heads: number,
    simHeads: number,
    headDim: number,
    x: BufferHandle,
    output: BufferHandle,
  ): void;
  aggregateBackward(
    dtype: DTypeCode,
    tokens: number,
    heads: number,
    simHeads: number,
    headDim: number,
    gradOutput: BufferHandle,
    gradX: BufferHandle,
  ): void;

  // ---- factors of latent and tensor-product attention
  /**
   * a [tokens, headsA, widthA], b [tokens, headsB, widthB] -> output [tokens, heads, widthA + widthB]; headsA and headsB are
   * `heads`, the larger of them, or 1.
   */
  concat(
    dtype: DTypeCode,
    tokens: number,
    headsA: number,
    headsB: number,
    widthA: number,
    widthB: number,
    a: BufferHandle,
    b: BufferHandle,
    output: BufferHandle,
  ): void;
  concatBackward(
    dtype: DTypeCode,
    tokens: number,
    headsA: number,
    headsB: number,
    widthA: number,
    widthB: number,
    gradOutput: BufferHandle,
    gradA: BufferHandle,
    gradB: BufferHandle,
  ): void;
  /** headFactors [tokens, rank, heads], featureFactors [tokens, rank, width] -> output [tokens, heads, width], the mean over the rank. */
  tensorProduct(
    dtype: DTypeCode,
    tokens: number,
    rank: number,
    heads: number,
    width: number,
    headFactors: BufferHandle,
    featureFactors: BufferHandle,
    output: BufferHandle,
  ): void;
  tensorProductBackward(
    dtype: DTypeCode,
    tokens: number,
    rank: number,
    heads: number,
    width: number,
    gradOutput: BufferHandle,
    headFactors: BufferHandle,
    featureFactors: BufferHandle,
    gradHeadFactors: BufferHandle,
    gradFeatureFactors: BufferHandle,
  ): void;

  // ---- training
  /** x [rows, inputWidth], weight [outputWidth, inputWidth] f32, bias [outputWidth] f32 or null -> output [rows, outputWidth]. */
  linear(
    dtype: DTypeCode,
    rows: number,
    inputWidth: number,
    outputWidth: number,
    x: BufferHandle,
    weight: BufferHandle,
    bias: BufferHandle | null,
    output: BufferHandle,
  ): void;
  linearBackward(
    dtype: DTypeCode,
    rows: number,
    inputWidth: number,
    outputWidth: number,
    gradOutput: BufferHandle,
    x: BufferHandle,
    weight: BufferHandle,
    gradX: BufferHandle,
    gradWeight: BufferHandle,
    gradBias: BufferHandle | null,
  ): void;
  /** x [rows, width] -> output [rows, width], mean [rows] f32, rstd [rows] f32. */
  layerNorm(
    dtype: DTypeCode,
    rows: number,
    width: number,
    eps: number,
    x: BufferHandle,
    weight: BufferHandle,
    bias: BufferHandle,
    output: BufferHandle,
    mean: BufferHandle,
    rstd: BufferHandle,
  ): void;
  layerNormBackward(
    dtype: DTypeCode,
    rows: number,
    width: number,
    gradOutput: BufferHandle,
    x: BufferHandle,
    weight: BufferHandle,
    mean: BufferHandle,
    rstd: BufferHandle,
    gradX: BufferHandle,
    gradWeight: BufferHandle,
    gradBias: BufferHandle,
  ): void;
  rmsNorm(
    dtype: DTypeCode,
    rows: number,
    width: number,
    eps: number,
    x: BufferHandle,
    weight: BufferHandle,
    output: BufferHandle,
    rstd: BufferHandle,
  ): void;
  rmsNormBackward(
    dtype: DTypeCode,
    rows: number,
    width: number,
    gradOutput: BufferHandle,
    x: BufferHandle,
    weight: BufferHandle,
    rstd: BufferHandle,
    gradX: BufferHandle,
    gradWeight: BufferHandle,
  ): void;
  gelu(dtype: DTypeCode, size: number, tanhApproximation: boolean, x: BufferHandle, output: BufferHandle): void;
  geluBackward(
    dtype: DTypeCode,
    size: number,
    tanhApproximation: boolean,
    gradOutput: BufferHandle,
    x: BufferHandle,
    gradX: BufferHandle,
  ): void;
  add(dtype: DTypeCode, size: number, a: BufferHandle, b: BufferHandle, output: BufferHandle): void;
  /** tokens [batch, length] i32, tokenTable [vocabulary, width] f32, positionTable [positions, width] f32 or null. A token outside the vocabulary is a device failure. */
  embedding(
    dtype: DTypeCode,
    batch: number,
    length: number,
    width: number,
    vocabulary: number,
    positions: number,
    tokens: BufferHandle,
    tokenTable: BufferHandle,
    positionTable: BufferHandle | null,
    output: BufferHandle,
  ): void;
  embeddingBackward(
    dtype: DTypeCode,
    batch: number,
    length: number,
    width: number,
    vocabulary: number,
    positions: number,
    gradOutput: BufferHandle,
    tokens: BufferHandle,
    gradTokenTable: BufferHandle,
    gradPositionTable: BufferHandle | null,
  ): void;
  /** x [batch, length, heads, width]; `inverse` rotates back (the gradient). */
  rope(
    dtype: DTypeCode,
    batch: number,
    length: number,
    heads: number,
    width: number,
    base: number,
    offset: number,
    interleaved: boolean,
    inverse: boolean,
    x: BufferHandle,
    output: BufferHandle,
  ): void;
  /** logits [rows, classes], targets [rows] i32 -> loss [] f32, logSumExp [rows] f32. */
  crossEntropy(
    dtype: DTypeCode,
    rows: number,
    classes: number,
    ignoreIndex: number,
    logits: BufferHandle,
    targets: BufferHandle,
    loss: BufferHandle,
    logSumExp: BufferHandle,
  ): void;
  crossEntropyBackward(
    dtype: DTypeCode,
    rows: number,
    classes: number,
    ignoreIndex: number,
    gradLoss: BufferHandle,
    logits: BufferHandle,
    targets: BufferHandle,
    logSumExp: BufferHandle,
    gradLogits: BufferHandle,
  ): void;
  /** Scales the gradients in place; norm [] f32 is their common norm before. */
  clipGradNorm(gradients: readonly BufferHandle[], sizes: readonly number[], maxNorm: number, norm: BufferHandle): void;
  adamW(
    states: readonly RawAdamWState[],
    lr: number,
    beta1: number,
    beta2: number,
    eps: number,
    weightDecay: number,
    step: number,
  ): void;
}
