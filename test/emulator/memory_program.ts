/** Two weights of 8 MB in turn, of which copies of 4 MB are kept: prints what one input gives with each, and what is reserved. */
import { getDevice, ops, Tensor } from '../../lib/index.js';

const [WIDTH, OUTPUTS] = [1024, 2048];
const device = getDevice('cuda:0');
const x = Tensor.from(new Float32Array(WIDTH).fill(1), [1, WIDTH], { dtype: 'bf16', device });
const weights = [1, 2].map((value) =>
  Tensor.from(new Float32Array(OUTPUTS * WIDTH).fill(value), [OUTPUTS, WIDTH], { device }),
);
const results: number[] = [];
for (const weight of [...weights, ...weights]) {
  const output = ops.linear(x, weight);
  const data = await output.data();
  results.push(data[0] ?? Number.NaN, data[OUTPUTS - 1] ?? Number.NaN);
  output.dispose();
}
console.log(JSON.stringify({ results, kept: device.memory().reserved }));
