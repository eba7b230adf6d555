/** What the runtime of cuda:0 does where things go wrong, as one line of JSON: for runtime.test.ts, which says what goes wrong. */
import { getDevice, listDevices, ops, SasError, scope, Tensor } from '../../lib/index.js';

const [, , trial = ''] = process.argv;
const MIB = 2 ** 20;

const zeros = (mebibytes: number) => Tensor.zeros([(mebibytes * MIB) / 4], { device: getDevice('cuda:0') });

async function outcomeOf(run: () => unknown): Promise<string> {
  try {
    await run();
    return 'done';
  } catch (error) {
    return error instanceof SasError ? `${error.code} ${error.message}` : String(error);
  }
}

/** Waits for it, for at most 20 seconds. */
async function until(condition: () => boolean): Promise<void> {
  const start = performance.now();
  while (!condition() && performance.now() - start < 20_000) await new Promise((resolve) => setTimeout(resolve, 10));
}

const trials: Readonly<Record<string, () => Promise<unknown>>> = {
  devices: async () => listDevices().find(({ id }) => id === 'cuda:0')?.reason ?? 'usable',

  /** cuBLAS is looked for where a device is opened. */
  blas: async () => {
    const before = listDevices()[0]?.blas ?? null;
    const { info } = getDevice('cuda:0');
    return [before, info.blas, listDevices()[0]?.blas];
  },

  /** Ops one after another, each awaited, then other uses of the device. */
  lost: async () => {
    const x = zeros(1);
    const outcomes = [];
    for (const op of [ops.gelu, (y: Tensor) => ops.add(y, y), ops.gelu])
      outcomes.push(await outcomeOf(() => op(x).data()));
    outcomes.push(await outcomeOf(() => zeros(3).data()), await outcomeOf(() => getDevice('cuda:0').synchronize()));
    x.dispose();
    return outcomes;
  },

  /** Scores of 1 MiB, as scratch, where the device has 4 MiB, of which 3.25 lie idle. */
  scratch: async () => {
    zeros(3.25).dispose();
    await getDevice('cuda:0').synchronize();
    const q = Tensor.zeros([1, 256, 4, 1], { device: getDevice('cuda:0') });
    return outcomeOf(() => ops.naive.attention(q, q, q).output.data());
  },

  /** The same, where they are in use. */
  full: async () => {
    const kept = zeros(3.25);
    const q = Tensor.zeros([1, 256, 4, 1], { device: getDevice('cuda:0') });
    const first = await outcomeOf(() => ops.naive.attention(q, q, q).output.data());
    kept.dispose();
    return [first, await outcomeOf(() => ops.naive.attention(q, q, q).output.data())];
  },

  /** There and back, through more pinned memory than there is: how many elements differ. */
  large: async () => {
    const values = Float32Array.from({ length: 6 * MIB }, (_, i) => i);
    const copied = await Tensor.from(values, [values.length], { device: getDevice('cuda:0') }).data();
    return values.filter((value, i) => value !== copied[i]).length;
  },

  /** Small reads of what has just been enqueued, eight or sixteen at a time: how many elements differ. */
  reads: async () => {
    const device = getDevice('cuda:0');
    let different = 0;
    for (let round = 0; round < 5; round++) {
      const reads = Array.from({ length: 8 * (1 + (round % 2)) }, (_, i) => {
        const x = Tensor.from(new Float32Array(300).fill(i + 1), [300], { device });
        return [2 * (i + 1), ops.add(x, x).data()] as const;
      });
      for (const [wanted, read] of reads) for (const value of await read) different += Number(value !== wanted);
    }
    return different;
  },

  /** Steps whose results nobody reads, on a stream that does nothing until it is waited for: how many are enqueued in a second. */
  ahead: async () => {
    const device = getDevice('cuda:0');
    const before = device.memory().live;
    for (let step = 0; step < 4; step++) {
      scope(() => {
        const tokens = Tensor.from(new Float32Array(1000).fill(step), [1000], { device });
        ops.add(ops.gelu(tokens), Tensor.from(new Float32Array(1000), [1000], { device }));
      });
    }
    await until(() => device.memory().live === before);
    return device.memory().live - before; // bytes of work that is not enqueued yet
  },

  /** The same after a read of the first step's result: what is not enqueued, and whether the read is over. */
  reading: async () => {
    const device = getDevice('cuda:0');
    const x = Tensor.from(new Float32Array(1000), [1000], { device });
    const first = ops.gelu(x);
    let read = false;
    first.data().finally(() => {
      read = true;
    });
    const before = device.memory().live;
    for (let step = 0; step < 4; step++) scope(() => void ops.add(ops.gelu(first), x));
    await until(() => device.memory().live === before);
    return [device.memory().live - before, read];
  },
};

console.log(JSON.stringify(await trials[trial]?.()));
process.exit(0);
