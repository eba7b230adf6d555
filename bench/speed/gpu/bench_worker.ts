/** Times one group of cases in one dtype and reports each as it is measured. */
import { type Device, getDevice, ops, SasError, scope, Tensor } from '../../../lib/index.js';
import { type Spread, spread, time } from '../../../lib/measure/timing.js';
import type { Float, GpuCase, Own, Prepared } from './gpu_cases.js';
import { groupsOf } from './groups.js';
import { report, workerArgument } from './jobs.js';

export interface Assignment {
  /** A name in groupsOf(tokens); absent: what bounds the device, its product and copy rates. */
  readonly group?: string;
  /** Leaves the cases whose names hold it. */
  readonly only?: string;
  readonly dtype: Float;
  /** Of a batch. */
  readonly tokens: number;
  readonly samples: number;
  /** Shortest sample in seconds; faster work is repeated inside one sample. */
  readonly minSeconds: number;
}

export interface Row {
  readonly case: string;
  readonly dtype: Float;
  readonly batch: number;
  readonly length: number;
  /** Of one run. */
  readonly seconds: Spread;
  readonly flops: number;
  readonly bytes?: number;
  /** The tensor cores' rate on registers, bf16, measured before and after, FLOP/s. */
  readonly peakFlops: number;
}

/** Bounds of the device, measured through the addon. */
export interface Bounds {
  /** bf16 products on registers, FLOP/s. */
  readonly peakFlops: number;
  /** A sum of two long vectors, bytes read and written per second. */
  readonly streamBytesPerSecond: number;
}

export type Message =
  | { kind: 'begin'; case: string; length: number }
  | { kind: 'row'; row: Row }
  | { kind: 'failed'; case: string; length: number; reason: string }
  | { kind: 'bounds'; bounds: Bounds };

const MAX_REPEATS = 1000;
const PEAK_SECONDS = 0.01;

const isOutOfMemory = (error: unknown) => error instanceof SasError && error.code === 'SAS_OUT_OF_MEMORY';

/** Seconds per run. Many runs in flight may need more memory than one: then fewer are. */
async function measure(prepared: Prepared, device: Device, { samples, minSeconds }: Assignment): Promise<Spread> {
  await time(prepared, 1, device); // first use: code is loaded, memory is mapped
  let repeats = Math.min(MAX_REPEATS, Math.ceil(minSeconds / (await time(prepared, 1, device))));
  for (;;) {
    try {
      await time(prepared, repeats, device); // clocks rise
      const seconds: number[] = [];
      while (seconds.length < samples) seconds.push(await time(prepared, repeats, device));
      return spread(seconds);
    } catch (error) {
      if (!isOutOfMemory(error) || repeats === 1) throw error;
      repeats = Math.ceil(repeats / 2);
    }
  }
}

/** Runs `body`, then frees all that it owned. */
async function owning<Result>(body: (own: Own) => Promise<Result>): Promise<Result> {
  const owned: { dispose(): void }[] = [];
  try {
    return await body((item) => {
      owned.push(item);
      return item;
    });
  } finally {
    for (const item of owned) item.dispose();
  }
}

async function measureCase(item: GpuCase, device: Device, assignment: Assignment): Promise<Row> {
  const { dtype } = assignment;
  for (const [i, batch] of item.batches.entries()) {
    try {
      return await owning(async (own) => {
        const prepared = item.prepare(batch, dtype, own);
        await device.synchronize();
        const before = await device.measurePeakFlops(PEAK_SECONDS);
        const seconds = await measure(prepared, device, assignment);
        const after = await device.measurePeakFlops(PEAK_SECONDS);
        const { flops, bytes } = prepared;
        return {
          case: item.name,
          dtype,
          batch,
          length: item.length,
          seconds,
          flops,
          ...(bytes !== undefined && { bytes }),
          peakFlops: (before + after) / 2,
        };
      });
    } catch (error) {
      if (!isOutOfMemory(error) || i === item.batches.length - 1) throw error;
      await device.synchronize().catch(() => undefined); // the same failure, already known
    }
  }
  throw new Error(`${item.name} has no batches`);
}

async function measureBounds(device: Device, assignment: Assignment): Promise<Bounds> {
  const size = Math.min(2 ** 26, Math.floor(device.info.memoryBytes / 64)); // far beyond the caches
  const seconds = await owning(async (own) => {
    const [a, b] = [1, 2].map((seed) => own(Tensor.randn([size], { seed, dtype: 'f32' }))) as [Tensor, Tensor];
    return measure({ flops: 0, run: () => scope(() => void ops.add(a, b)) }, device, assignment);
  });
  return { peakFlops: await device.measurePeakFlops(), streamBytesPerSecond: (3 * 4 * size) / seconds.median };
}

async function main(): Promise<void> {
  const assignment = workerArgument<Assignment>();
  const device = getDevice();
  const send = (message: Message) => report(message);
  if (assignment.group === undefined) {
    await send({ kind: 'begin', case: 'bounds', length: 0 });
    await send({ kind: 'bounds', bounds: await measureBounds(device, assignment) });
    return;
  }
  const { group, only = '', tokens } = assignment;
  for (const item of (groupsOf(tokens)[group]?.cases ?? []).filter(({ name }) => name.includes(only))) {
    await send({ kind: 'begin', case: item.name, length: item.length });
    try {
      await send({ kind: 'row', row: await measureCase(item, device, assignment) });
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      await send({ kind: 'failed', case: item.name, length: item.length, reason });
      await device.synchronize().catch(() => undefined);
    }
  }
}

await main();
process.exit(0);
