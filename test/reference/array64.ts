/** Row-major float64 array: what every reference function takes and returns. */
export interface Array64 {
  shape: number[];
  data: Float64Array;
}

export function sizeOf(shape: readonly number[]): number {
  let size = 1;
  for (const extent of shape) size *= extent;
  return size;
}

export function zeros64(shape: readonly number[]): Array64 {
  return { shape: [...shape], data: new Float64Array(sizeOf(shape)) };
}

export function array64(data: ArrayLike<number>, shape: readonly number[]): Array64 {
  if (data.length !== sizeOf(shape)) {
    throw new RangeError(`array64: ${data.length} values for shape [${shape.join(', ')}]`);
  }
  return { shape: [...shape], data: Float64Array.from(data) };
}

/** Same data, another shape (no copy). */
export function reshape64(x: Array64, shape: readonly number[]): Array64 {
  if (x.data.length !== sizeOf(shape)) {
    throw new RangeError(`reshape64: [${x.shape.join(', ')}] does not hold shape [${shape.join(', ')}]`);
  }
  return { shape: [...shape], data: x.data };
}

export function map64(x: Array64, apply: (value: number, index: number) => number): Array64 {
  return { shape: [...x.shape], data: x.data.map(apply) };
}

export function add64(a: Array64, b: Array64): Array64 {
  return map64(a, (value, i) => value + b.data[i]);
}

export function relu(x: Array64): Array64 {
  return map64(x, (value) => Math.max(value, 0));
}

/** relu'(0) = 0. */
export function reluBackward(gradOutput: Array64, x: Array64): Array64 {
  return map64(gradOutput, (value, i) => (x.data[i] > 0 ? value : 0));
}

export function norm64(x: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] * x[i];
  return Math.sqrt(sum);
}
