/** Worker threads, and an event loop that is never held up. */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { ops, SasAttention, scope, Tensor } from '../../lib/index.js';

interface Report {
  refused: boolean;
  output: Float32Array;
}

const start = (workerData: { seed: number; steps: number }) =>
  new Worker(new URL('./worker_program.ts', import.meta.url), { workerData, execArgv: ['--import', 'tsx'] });

function report(worker: Worker): Promise<Report> {
  return new Promise((resolve, reject) => {
    worker.on('message', resolve);
    worker.on('error', reject);
    worker.on('exit', (code) => reject(new Error(`the worker ended with ${code} and no report`)));
  });
}

test('workers share nothing: two at once, and one beside this thread, give the same numbers', async () => {
  const x = Tensor.randn([64, 64], { seed: 1 });
  const workers = [1, 1, 2].map((seed) => start({ seed, steps: 50 }));
  const reports = Promise.all(workers.map(report));
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

test('a worker may be terminated in the middle of work', async () => {
  for (let i = 0; i < 3; i++) {
    const worker = start({ seed: i, steps: 1_000_000 });
    await new Promise((resolve) => worker.on('online', resolve));
    await new Promise((resolve) => setTimeout(resolve, 600));
    await worker.terminate();
  }
  expect(await Tensor.from([1], [1]).data()).toEqual(Float32Array.of(1));
}, 30_000);

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
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  for (let i = 0; i < 5; i++) await step();
  delay.disable();
  // The histogram counts its own timer's millisecond as delay.
  console.info(
    `event loop delay: mean ${(delay.mean / 1e6).toFixed(2)} ms, max ${(delay.max / 1e6).toFixed(2)} ms, limit 20 ms`,
  );
  expect(delay.max / 1e6).toBeLessThan(20);
  module.dispose();
}, 30_000);
