/** `linear` and its gradients in float64 on the host: the twin of an op that has none on the device. */
import type { Values } from './check.js';

interface Matrix {
  readonly rows: number;
  readonly columns: number;
  /** Row-major. */
  readonly data: Float64Array;
}

const matrix = (rows: number, data: ArrayLike<number> = []): Matrix => ({
  rows,
  columns: data.length / rows,
  data: Float64Array.from(data),
});

function transposed({ rows, columns, data }: Matrix): Matrix {
  const result = new Float64Array(data.length);
  for (let r = 0; r < rows; ++r) for (let c = 0; c < columns; ++c) result[c * rows + r] = data[r * columns + c] ?? 0;
  return { rows: columns, columns: rows, data: result };
}

/** a b */
function product(a: Matrix, b: Matrix): Matrix {
  const { rows, columns: inner } = a;
  const { columns } = b;
  const data = new Float64Array(rows * columns);
  for (let r = 0; r < rows; ++r) {
    const row = data.subarray(r * columns, (r + 1) * columns);
    for (let k = 0; k < inner; ++k) {
      const factor = a.data[r * inner + k] as number;
      const from = k * columns;
      for (let c = 0; c < columns; ++c) row[c] = (row[c] as number) + factor * (b.data[from + c] as number);
    }
  }
  return { rows, columns, data };
}

export interface LinearInputs {
  /** Of x and gradOutput. */
  readonly rows: number;
  /** x, weight, bias and, for the gradients, gradOutput. */
  readonly values: Values;
}

/** x W^T + b */
export function linearOnHost({ rows, values: { x, weight, bias } }: LinearInputs): Values {
  const outputs = bias?.length ?? 0;
  const { data } = product(matrix(rows, x), transposed(matrix(outputs, weight)));
  return { output: data.map((value, i) => value + (bias?.[i % outputs] ?? 0)) };
}

export function linearBackwardOnHost({ rows, values: { x, weight, bias, gradOutput } }: LinearInputs): Values {
  const outputs = bias?.length ?? 0;
  const grad = matrix(rows, gradOutput);
  const ones = matrix(1, new Float64Array(rows).fill(1));
  return {
    gradX: product(grad, matrix(outputs, weight)).data,
    gradWeight: product(transposed(grad), matrix(rows, x)).data,
    gradBias: product(ones, grad).data,
  };
}
