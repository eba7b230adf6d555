/**
 * The two ops in float64, in plain loops that follow the paper, and gradients from nothing but them: central differences.
 * For one sequence at small sizes.
 */

/** Inputs by name, row-major. */
export type Inputs = Readonly<Record<string, Float64Array>>;
export type Forward = (inputs: Inputs) => Float64Array;

/** An element; one outside is 0. */
const at = (data: Float64Array, i: number): number => data[i] ?? 0;

const relu = (data: Float64Array): Float64Array => data.map((value) => Math.max(0, value));
const sum = (a: Float64Array, b: Float64Array): Float64Array => a.map((value, i) => value + at(b, i));

const input = (inputs: Inputs, name: string): Float64Array => {
  const data = inputs[name];
  if (!data) throw new Error(`no input ${name}`);
  return data;
};

/** x [T,C,D], weight [O,C,k], bias [O] -> [T,O,D]: heads are channels, the kernel slides along the D features. */
function headConvolution(x: Float64Array, weight: Float64Array, bias: Float64Array, C: number, D: number) {
  const O = bias.length;
  const k = weight.length / (O * C);
  return Float64Array.from({ length: (x.length / C) * O }, (_, i) => {
    const [d, o, t] = [i % D, Math.floor(i / D) % O, Math.floor(i / (D * O))];
    let value = at(bias, o);
    for (let c = 0; c < C; c++) {
      for (let tap = 0; tap < k; tap++) {
        const from = d + tap - (k - 1) / 2;
        if (from >= 0 && from < D) value += at(weight, (o * C + c) * k + tap) * at(x, (t * C + c) * D + from);
      }
    }
    return value;
  });
}

/** x [rows,inputs], weight [outputs,inputs], bias [outputs] -> [rows,outputs] */
function linear(x: Float64Array, weight: Float64Array, bias: Float64Array) {
  const outputs = bias.length;
  const inputs = weight.length / outputs;
  return Float64Array.from({ length: (x.length / inputs) * outputs }, (_, i) => {
    const [o, row] = [i % outputs, Math.floor(i / outputs)];
    let value = at(bias, o);
    for (let j = 0; j < inputs; j++) value += at(weight, o * inputs + j) * at(x, row * inputs + j);
    return value;
  });
}

/** x [T,H,D] -> [T,H',D'], weights named as in `ops.ExpandWeights`. */
export const expand =
  (H: number, D: number): Forward =>
  (inputs) => {
    const get = (name: string) => input(inputs, name);
    const S = get('headBias').length;
    const c1 = headConvolution(get('x'), get('headWeight'), get('headBias'), H, D);
    const y = sum(c1, headConvolution(relu(c1), get('headResidualWeight'), get('headResidualBias'), S, D));
    const z1 = linear(y, get('featureWeight'), get('featureBias'));
    return sum(z1, linear(relu(z1), get('featureResidualWeight'), get('featureResidualBias')));
  };

/** Causal; q, k [T,heads,width], v [T,heads,valueWidth] -> [T,heads,valueWidth], scale 1/sqrt(width). */
export const attention =
  (heads: number, width: number, valueWidth: number): Forward =>
  (inputs) => {
    const [q, k, v] = [input(inputs, 'q'), input(inputs, 'k'), input(inputs, 'v')];
    const output = new Float64Array(v.length);
    for (let row = 0; row < v.length / valueWidth; row++) {
      const [i, h] = [Math.floor(row / heads), row % heads];
      const scores = Array.from({ length: i + 1 }, (_, j) => {
        let dot = 0;
        for (let d = 0; d < width; d++) dot += at(q, row * width + d) * at(k, (j * heads + h) * width + d);
        return dot / Math.sqrt(width);
      });
      const max = Math.max(...scores);
      const weights = scores.map((score) => Math.exp(score - max));
      const total = weights.reduce((a, b) => a + b, 0);
      weights.forEach((weight, j) => {
        for (let d = 0; d < valueWidth; d++) {
          const to = row * valueWidth + d;
          output[to] = at(output, to) + (weight / total) * at(v, (j * heads + h) * valueWidth + d);
        }
      });
    }
    return output;
  };

/** Where rounding (1e-16 / step) and curvature (step^2) leave about ten digits. */
const STEP = 1e-5;

/** The gradient of sum(gradOutput * forward(inputs)) for every input. */
export function gradients(forward: Forward, inputs: Inputs, gradOutput: Float64Array): Inputs {
  const loss = (moved: Inputs) => forward(moved).reduce((total, value, i) => total + value * at(gradOutput, i), 0);
  return Object.fromEntries(
    Object.entries(inputs).map(([name, data]) => {
      const moved = data.slice();
      const gradient = data.map((value, i) => {
        moved[i] = value + STEP;
        const above = loss({ ...inputs, [name]: moved });
        moved[i] = value - STEP;
        const below = loss({ ...inputs, [name]: moved });
        moved[i] = value;
        return (above - below) / (2 * STEP);
      });
      return [name, gradient];
    }),
  );
}
