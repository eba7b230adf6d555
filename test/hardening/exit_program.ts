/**
 * Ends while work is in flight, in the way that the first argument names; the second seeds the moment. Ends with code 7 where
 * it is the code that says when (`exit`), else with 0, or with what Node says of an uncaught error.
 */
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { getDevice, ops, Tensor } from '../../lib/index.js';
import type { longWays, ways } from './exits.js';
import { TrainingStep } from './training_step.js';

const [way, seed] = (isMainThread ? [process.argv[2], Number(process.argv[3])] : workerData) as [
  keyof typeof ways | keyof typeof longWays,
  number,
];

/** A second of queued work, small steps and attention that takes its time; nobody waits for it if `waited` is false. */
function overload(waited = true): Promise<unknown>[] {
  const device = getDevice('cpu');
  const training = new TrainingStep(device);
  const x = Tensor.randn([1, 256, 12, 64], { seed: 1, device });
  const waits: Promise<unknown>[] = [];
  for (let i = 0; i < 5; i++) {
    const loss = training.run();
    const { output } = ops.attention(x, x, x);
    if (waited) waits.push(loss.data(), output.data(), device.synchronize());
  }
  ops.gelu(Tensor.wrap(new Float32Array(1 << 16), [1 << 16])); // memory of V8's own
  return waits;
}

/** One op that takes most of a minute on two cores, once it has begun. */
async function long(): Promise<Tensor> {
  const device = getDevice('cpu');
  const x = Tensor.randn([1, 1 << 17, 1, 64], { seed: 1, device });
  const logSumExp = Tensor.zeros([1, 1, 1 << 17], { device });
  await device.synchronize();
  const options = { causal: false };
  if (way === 'long peak') device.measurePeakFlops(60).catch(() => {});
  const result =
    way === 'long backward'
      ? ops.attentionBackward(x, { q: x, k: x, v: x, output: x, logSumExp }, options).gradQ
      : ops.attention(x, x, x, options).output;
  await new Promise((resolve) => setTimeout(resolve, 300));
  return result;
}

const announce = (): void => console.log(`ends at ${Date.now()}`);

const moment = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, (seed * 7) % 23));

function end(how: string): void {
  for (const wait of overload(seed % 16 < 8)) wait.catch(() => {});
  if (how === 'throw') {
    setTimeout(() => {
      throw new Error('on purpose');
    }, seed % 11);
  }
  if (how === 'exit') setTimeout(() => process.exit(7), seed % 11);
}

if (!isMainThread && way.startsWith('long ')) {
  const result = await long();
  parentPort?.postMessage('started');
  if (way === 'long dataSync') result.dataSync();
  if (way === 'long terminate' || way.endsWith('beside a worker')) await result.data();
} else if (!isMainThread) {
  parentPort?.postMessage('started');
  if (way.startsWith('worker ')) end(way.slice('worker '.length));
  else while (true) await Promise.all(overload());
} else if (way === 'long end' || way === 'long exit' || way === 'long backward' || way === 'long peak') {
  const result = await long();
  if (way !== 'long end') result.data().catch(() => {});
  announce();
  if (way !== 'long end') process.exit(7);
} else if (way === 'long throw') {
  await long();
  announce();
  throw new Error('on purpose');
} else if (way.includes('worker') || way.endsWith('terminate') || way === 'long dataSync') {
  const script = `import('tsx/esm/api').then(({ register }) => { register(); return import(${JSON.stringify(import.meta.url)}); });`;
  const worker = new Worker(script, { eval: true, workerData: [way, seed] });
  worker.on('error', (error) => {
    if (way !== 'worker throw') throw error;
  });
  await new Promise((resolve) => worker.once('message', resolve));
  if (way === 'terminate') {
    await moment();
    await worker.terminate();
  } else if (way === 'long terminate' || way === 'long dataSync') {
    await new Promise((resolve) => setTimeout(resolve, 300));
    announce();
    await worker.terminate();
  } else if (way === 'long worker end') {
    announce();
    await new Promise((resolve) => worker.once('exit', resolve));
  } else if (way === 'long exit beside a worker') {
    announce();
    process.exit(7);
  } else if (way === 'exit beside a worker') {
    await moment();
    for (const wait of overload()) wait.catch(() => {});
    process.exit(7);
  } else {
    const code = await new Promise((resolve) => worker.once('exit', resolve));
    const expected = { 'worker end': 0, 'worker exit': 7, 'worker throw': 1 }[way as 'worker end'];
    if (code !== expected) throw new Error(`the worker ended with ${code}, expected ${expected}`);
  }
  // This thread's own device works on.
  if ((await Tensor.from([1], [1]).data())[0] !== 1) throw new Error('wrong');
} else {
  end(way);
}
