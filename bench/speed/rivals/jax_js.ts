/** jax-js on WebAssembly (one thread in Node): unfused causal attention over [H, T, D], compiled by jit. */
import { type Contest, HEADS, type OpenRival, type Rival, type Side, sampleRuns, WIDTH, type Work } from './contest.js';
import { causalMask, fromHeadsFirst, toHeadsFirst } from './layout.js';
import { load, versionOf } from './npm/packages.js';

/** Every use of an array as an argument or receiver consumes a reference; `ref` adds one. */
interface JaxArray {
  readonly ref: JaxArray;
  reshape(shape: readonly number[]): JaxArray;
  transpose(axes: readonly number[]): JaxArray;
  mul(factor: number): JaxArray;
  add(other: JaxArray): JaxArray;
  data(): Promise<Float32Array>;
  dispose(): void;
}
type Attention = (q: JaxArray, k: JaxArray, v: JaxArray) => JaxArray;
interface Jax {
  init(device: 'wasm'): Promise<unknown>;
  defaultDevice(device: 'wasm'): void;
  readonly numpy: { array(data: Float32Array): JaxArray; matmul(a: JaxArray, b: JaxArray): JaxArray };
  readonly nn: { softmax(x: JaxArray, axis: number): JaxArray };
  jit<F>(f: F): F;
  vjp(f: Attention, inputs: readonly JaxArray[]): [JaxArray, (gradOutput: JaxArray) => JaxArray[]];
  blockUntilReady(arrays: readonly JaxArray[]): Promise<unknown>;
}

function side(jax: Jax, { length, backward }: Contest, { inputs }: Work): Side {
  const { numpy: np, nn } = jax;
  const tensor = (data: Float32Array) => np.array(toHeadsFirst(data)).reshape([HEADS, length, WIDTH]);
  const q = tensor(inputs.q.data);
  const k = tensor(inputs.k.data);
  const v = tensor(inputs.v.data);
  const gradOutput = tensor(inputs.gradOutput.data);
  const mask = np.array(causalMask(length)).reshape([length, length]);
  const attention: Attention = (query, key, value) => {
    const scores = np.matmul(query, key.transpose([0, 2, 1])).mul(1 / Math.sqrt(WIDTH));
    return np.matmul(nn.softmax(scores.add(mask.ref), -1), value);
  };
  const forward = jax.jit((...qkv: Parameters<Attention>) => [attention(...qkv)]);
  const both = jax.jit((query: JaxArray, key: JaxArray, value: JaxArray, gradient: JaxArray) => {
    const [output, backpropagate] = jax.vjp(attention, [query, key, value]);
    return [output, ...backpropagate(gradient)];
  });
  const compute = () => (backward ? both(q.ref, k.ref, v.ref, gradOutput.ref) : forward(q.ref, k.ref, v.ref));
  const run = async () => {
    const arrays = compute();
    await jax.blockUntilReady(arrays);
    for (const array of arrays) array.dispose();
  };
  return {
    results: async () => {
      const data = await Promise.all(compute().map((array) => array.data()));
      const names = ['output', 'q', 'k', 'v'];
      return Object.fromEntries(data.map((values, i) => [names[i], fromHeadsFirst(values)]));
    },
    sample: (repeats) => sampleRuns(run, repeats),
  };
}

export const jaxJs: Rival = {
  name: 'jax-js',
  async open(): Promise<OpenRival> {
    const jax = await load<Jax>('@jax-js/jax');
    await jax.init('wasm');
    jax.defaultDevice('wasm');
    return {
      version: `${versionOf('@jax-js/jax')}, wasm, 1 thread`,
      side: async (contest, work) => side(jax, contest, work),
    };
  },
};
