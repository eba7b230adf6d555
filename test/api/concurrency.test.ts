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
const start = (workerData: { seed: number; steps: number; forever?: boolean; long?: boolean }) => {
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

/**
 * Milliseconds between two timers of 1 ms at most while `body` runs on what `prepare` gives, in the quietest of some
 * runs: other processes show in the rest.
 */
async function quietest<T>(runs: number, prepare: () => T, body: (prepared: T) => Promise<unknown>): Promise<number> {
  const longest: number[] = [];
  for (let i = 0; i < runs; i++) {
    const prepared = prepare();
    let [last, most, running] = [performance.now(), 0, true];
    const turn = () => {
      const now = performance.now();
      most = Math.max(most, now - last);
      last = now;
      if (running) setTimeout(turn, 1);
    };
    setTimeout(turn, 1); // asleep in between, so that the compute threads do not take its turn
    await body(prepared);
    running = false;
    turn();
    longest.push(most);
  }
  return Math.min(...longest);
}

test('the event loop turns while one op takes seconds', async () => {
  const x = Tensor.randn([1, 1 << 14, 1, 64], { seed: 1 });
  const { output } = ops.attention(x, x, x, { causal: false });
  let done = false;
  const result = output.data().then(() => {
    done = true;
  });
  const pause = () => new Promise((resolve) => setTimeout(resolve, 20));
  const delay = await quietest(11, () => {}, pause);
  console.info(
    `event loop delay beside one long op: ${delay.toFixed(2)} ms (limit 20), ${done ? 'over by then' : 'still running'}`,
  );
  expect(delay).toBeLessThan(20);
  await result;
  for (const tensor of [x, output]) tensor.dispose();
}, 60_000);

test('thousands of results that come at once do not hold the event loop up', async () => {
  const x = Tensor.randn([1, 1024, 4, 16], { seed: 1 });
  const small = Tensor.from([1, 2, 3], [3]);
  const prepare = () => {
    ops.attention(x, x, x).output.dispose(); // all of them wait behind it
    return Array.from({ length: 2000 }, () => ops.add(small, small).data());
  };
  const delay = await quietest(7, prepare, (results) => Promise.all(results));
  console.info(`event loop delay as 2000 results come: ${delay.toFixed(2)} ms (limit 50)`);
  expect(delay).toBeLessThan(50);
}, 60_000);

test("a worker's long op does not stop this thread's small ones", async () => {
  const worker = start({ seed: 1, steps: 0, long: true });
  await message(worker, isWorking);
  const x = Tensor.randn([64, 64], { seed: 1 });
  const times: number[] = [];
  for (let i = 0; i < 50; i++) {
    const started = performance.now();
    const sum = ops.add(x, x);
    await sum.data();
    sum.dispose();
    times.push(performance.now() - started);
  }
  times.sort((a, b) => a - b);
  const started = performance.now();
  await worker.terminate();
  const ending = performance.now() - started;
  console.info(
    `a small op beside a worker's long one: ${times[25]?.toFixed(2)} ms (limit 50); its end: ${ending.toFixed(0)} ms`,
  );
  expect(times[25]).toBeLessThan(50);
  expect(ending).toBeLessThan(2000); // the op would run for most of a minute
}, 60_000);
