/** Linear layers on the emulated device, each against float64; prints what the device says of cuBLAS and the largest error by dtype. */
import { getDevice, listDevices, ops, Tensor } from '../../lib/index.js';
import { relativeError } from '../../lib/measure/relative_error.js';
import { fromBits, normal, toBits } from '../helpers/random.js';

const dtypes = ['f32', 'bf16', 'f16'] as const;
type FloatType = (typeof dtypes)[number];
/** Rows, inputs, outputs. */
const sizes = [
  [33, 24, 40],
  [5, 7, 9],
  [16, 1, 5],
  [33, 24, 40],
  [64, 8, 16],
] as const;

const rounded = (shape: readonly number[], seed: number, dtype: FloatType): Float32Array => {
  const values = normal(shape, seed, 1);
  return dtype === 'f32' ? values : fromBits(toBits(values, dtype), dtype);
};

/** x [rows, inputs], weight [outputs, inputs], bias [outputs] -> [rows, outputs] */
function product(x: Float32Array, weight: Float32Array, bias: Float32Array | null, inputs: number): Float64Array {
  const [rows, outputs] = [x.length / inputs, weight.length / inputs];
  const result = new Float64Array(rows * outputs);
  for (let i = 0; i < result.length; i++) {
    const [row, output] = [Math.floor(i / outputs), i % outputs];
    let sum = bias?.[output] ?? 0;
    for (let k = 0; k < inputs; k++) sum += (x[row * inputs + k] ?? 0) * (weight[output * inputs + k] ?? 0);
    result[i] = sum;
  }
  return result;
}

const transposed = (matrix: Float32Array, columns: number): Float32Array => {
  const rows = matrix.length / columns;
  return matrix.map((_, i) => matrix[(i % rows) * columns + Math.floor(i / rows)] ?? 0);
};

const device = getDevice('cuda:0');
const errors: Record<string, number> = {};
for (const dtype of dtypes) {
  let seed = 0;
  for (const [rows, inputs, outputs] of sizes) {
    const draw = (...shape: number[]) => rounded(shape, ++seed, dtype);
    const [x, gradOutput, weight] = [draw(rows, inputs), draw(rows, outputs), draw(outputs, inputs)];
    const biases = [draw(outputs), draw(outputs), null];
    const note = async (tensor: Tensor, exact: Float64Array) => {
      errors[dtype] = Math.max(errors[dtype] ?? 0, relativeError(await tensor.data(), exact));
    };
    const tensorX = Tensor.from(x, [rows, inputs], { dtype, device });
    const tensorWeight = Tensor.from(weight, [outputs, inputs], { device });
    for (const bias of biases) {
      const tensorBias = bias ? Tensor.from(bias, [outputs], { device }) : undefined;
      await note(ops.linear(tensorX, tensorWeight, tensorBias), product(x, weight, bias, inputs));
    }
    const tensorGrad = Tensor.from(gradOutput, [rows, outputs], { dtype, device });
    const { gradX, gradWeight } = ops.linearBackward(tensorGrad, tensorX, tensorWeight);
    await note(gradX, product(gradOutput, transposed(weight, inputs), null, outputs));
    await note(gradWeight, product(transposed(gradOutput, outputs), transposed(x, inputs), null, rows));
  }
}
const blas = listDevices().find(({ id }) => id === 'cuda:0')?.blas;
console.log(JSON.stringify({ opened: device.info.blas, blas, errors }));
