/** Runs in a worker thread: trains a small module for some steps, says what came out; with `forever`, calls small ops until it is ended; with `long`, one that takes most of a minute. */
import { parentPort, workerData } from 'node:worker_threads';
import { ops, SasAttention, SasError, scope, Tensor } from '../../lib/index.js';

const { seed, steps, forever, long } = workerData as { seed: number; steps: number; forever?: boolean; long?: boolean };
const module = new SasAttention({ heads: 2, headDim: 8, simHeads: 6, simHeadDim: 12, seed });
const x = Tensor.randn([1, 32, 2, 8], { seed });
const moments = [...module.parameters.values()].map(({ shape }) => [Tensor.zeros(shape), Tensor.zeros(shape)] as const);

for (let step = 1; step <= steps; step++) {
  scope(() => {
    const { output, saved } = module.forward(x, x, x);
    const { gradParameters } = module.backward(output, saved);
    const states = [...module.parameters].map(([name, parameter], i) => {
      const [firstMoment, secondMoment] = moments[i] as (typeof moments)[number];
      return { parameter, gradient: gradParameters.get(name) as Tensor, firstMoment, secondMoment };
    });
    ops.adamW(states, { lr: 1e-3, step });
  });
  if (step % 10 === 0) await x.device.synchronize();
}

if (long) {
  const tokens = Tensor.randn([1, 1 << 17, 1, 64], { seed });
  const { output } = ops.attention(tokens, tokens, tokens, { causal: false });
  parentPort?.postMessage('working');
  await output.data();
}

if (forever) parentPort?.postMessage('working');
while (forever) {
  for (let i = 0; i < 1000; i++) scope(() => ops.add(x, x).reshape([-1]));
  await x.device.synchronize();
}

let refused = false;
try {
  ops.add(x, Tensor.zeros([1]));
} catch (error) {
  refused = error instanceof SasError && error instanceof RangeError;
}
const { output } = module.forward(x, x, x);
parentPort?.postMessage({ refused, output: await output.data() });
