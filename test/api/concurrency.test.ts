/** Worker threads, and an event loop that is never held up. */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { ops, SasAttention, scope, Tensor } from '../../lib/index.js';

interface Report {
  refused: boolean;
  output: Float32Array;
}

/** A worker that runs worker_program.ts. (Node 20 does not pass `--import` on to workers, so the loader is set up inside.) */
const start = (workerData: { seed: number; steps: number; forever?: boolean }) => {
  const program = JSON.stringify(new URL('./worker_program.ts', import.meta.url).href);
  const script = `import('tsx/esm/api').then(({ register }) => { register(); return import(${program}); });`;
  return new Worker(script, { eval: true, workerData });
};

/** The first message of a worker for which `wanted` holds. */
function message<M>(worker: Worker, wanted: (message: unknown) => message is M): Promise<M> {
  return new Promise((resolve, reject) => {
    worker.on('message', (received) => wanted(received) && resolve(received));
    worker.on('error', reject);
    worker.on('exit', (code) => reject(new Error(`the worker ended with ${code}`)));
  });
}
const isReport = (received: unknown): received is Report => typeof received === 'object';
const isWorking = (received: unknown): received is 'working' => received === 'working';

test('workers share nothing: two at once, and one beside this thread, give the same numbers', async () => {
  const x = Tensor.randn([64, 64], { seed: 1 });
  const workers = [1, 1, 2].map((seed) => start({ seed, steps: 50 }));
  const reports = Promise.all(workers.map((worker) => message(worker, isReport)));
  let busy = true;
  reports.finally(() => {
    busy = false;
  });
  while (busy) {
    scope(() => ops.gelu(ops.add(x, x)));
    await x.device.synchronize();
  }
  const [a, b, c] = (await reports) as [Report, Report, Report];
  expect(a.refused).toBe(true);
  expect(a.output).toEqual(b.output);
  expect(a.output).not.toEqual(c.output);
  expect(a.output.every(Number.isFinite)).toBe(true);
  await Promise.all(workers.map((worker) => worker.terminate()));
}, 30_000);

test('workers may be terminated in the middle of a call', async () => {
  for (let round = 0; round < 5; round++) {
    const workers = [0, 1, 2].map((seed) => start({ seed, steps: 1, forever: true }));
    await Promise.all(
      workers.map(async (worker) => {
        await message(worker, isWorking);
        await worker.terminate();
      }),
    );
  }
  expect(await Tensor.from([1], [1]).data()).toEqual(Float32Array.of(1));
}, 60_000);

test('the event loop turns while the module works at the reference size', async () => {
  const module = new SasAttention({ heads: 12, headDim: 64, simHeads: 36, simHeadDim: 96 });
  const x = Tensor.randn([1, 512, 12, 64], { seed: 1 });
  const gradOutput = Tensor.randn([1, 512, 768], { seed: 2 });
  const step = async () => {
    const { gradQ } = scope(() => {
      const { saved } = module.forward(x, x, x);
      return { gradQ: module.backward(gradOutput, saved).gradQ };
    });
    await gradQ.data();
    gradQ.dispose();
  };
  await step();
  const longest: number[] = [];
  for (let i = 0; i < 11; i++) {
    const delay = monitorEventLoopDelay({ resolution: 1 });
    delay.enable();
    await step();
    delay.disable();
    longest.push(delay.max / 1e6);
  }
  const [quietest, worst] = [Math.min(...longest), Math.max(...longest)];
  console.info(
    `event loop delay: ${quietest.toFixed(2)} ms in the quietest step (limit 20), ${worst.toFixed(2)} ms in the worst`,
  );
  // What the package does itself shows in every step; what other processes do to a busy machine does not.
  expect(quietest).toBeLessThan(20);
  module.dispose();
}, 30_000);
