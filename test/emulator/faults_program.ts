/** What becomes of some products on cuda:0, as one line of JSON: for faults.test.ts, which makes the device or cuBLAS fail. */
import { getDevice, ops, SasError, Tensor } from '../../lib/index.js';

/** What faults_program.ts prints. */
export interface Outcome {
  /** Of the device. */
  blas: string;
  /** Per product: the sum of its values, or the failure. */
  products: (number | { code: string; message: string })[];
  /** Where not even the device can be had. */
  fatal?: { code: string; message: string };
}

const [ROWS, WIDTH, OUTPUTS] = [64, 32, 16];
const outcome: Outcome = { blas: '', products: [] };

function describe(error: unknown): { code: string; message: string } {
  if (error instanceof SasError) return { code: error.code, message: error.message };
  return { code: String(error), message: '' };
}

try {
  const device = getDevice('cuda:0');
  outcome.blas = device.info.blas ?? '';
  for (let i = 0; i < 4; i++) {
    try {
      const x = Tensor.from(
        new Float32Array(ROWS * WIDTH).map((_, at) => Math.sin(at)),
        [ROWS, WIDTH],
        { device },
      );
      const weight = Tensor.from(
        new Float32Array(OUTPUTS * WIDTH).map((_, at) => Math.cos(at)),
        [OUTPUTS, WIDTH],
        { device },
      );
      const bias = Tensor.from(new Float32Array(OUTPUTS).fill(1), [OUTPUTS], { device });
      const values = await ops.linear(x, weight, bias).data();
      outcome.products.push((values as Float32Array).reduce((sum, value) => sum + value, 0));
    } catch (error) {
      outcome.products.push(describe(error));
    }
  }
} catch (error) {
  outcome.fatal = describe(error);
}
console.log(JSON.stringify(outcome));
