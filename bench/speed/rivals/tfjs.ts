/** TensorFlow.js on its WebAssembly backend (one thread with SIMD in Node): unfused causal attention over [H, T, D]. */
import {
  type Contest,
  HEADS,
  type OpenRival,
  type Results,
  type Rival,
  type Side,
  sampleRuns,
  WIDTH,
  type Work,
} from './contest.js';
import { causalMask, fromHeadsFirst, toHeadsFirst } from './layout.js';
import { load, versionOf } from './npm/packages.js';

interface TfTensor {
  data(): Promise<Float32Array>;
}
type Attention = (q: TfTensor, k: TfTensor, v: TfTensor) => TfTensor;
interface Tf {
  setBackend(name: string): Promise<boolean>;
  tensor(data: Float32Array, shape: readonly number[]): TfTensor;
  matMul(a: TfTensor, b: TfTensor, transposeA?: boolean, transposeB?: boolean): TfTensor;
  softmax(x: TfTensor): TfTensor;
  add(a: TfTensor, b: TfTensor): TfTensor;
  mul(a: TfTensor, b: number): TfTensor;
  grads(f: Attention): (inputs: readonly TfTensor[], gradOutput: TfTensor) => TfTensor[];
  tidy<Result>(body: () => Result): Result;
}

function side(tf: Tf, { length, backward }: Contest, { inputs }: Work): Side {
  const tensor = (data: Float32Array) => tf.tensor(toHeadsFirst(data), [HEADS, length, WIDTH]);
  const qkv = [tensor(inputs.q.data), tensor(inputs.k.data), tensor(inputs.v.data)] as const;
  const gradOutput = tensor(inputs.gradOutput.data);
  const mask = tf.tensor(causalMask(length), [length, length]);
  const attention: Attention = (q, k, v) => {
    const scores = tf.add(tf.matMul(tf.mul(q, 1 / Math.sqrt(WIDTH)), k, false, true), mask);
    return tf.matMul(tf.softmax(scores), v);
  };
  const gradients = tf.grads(attention); // runs `attention` as well
  const compute = () => (backward ? gradients(qkv, gradOutput) : [attention(...qkv)]);
  const read = async (x: TfTensor | undefined) => fromHeadsFirst((await x?.data()) ?? new Float32Array());
  return {
    results: async (): Promise<Results> => {
      const output = await read(attention(...qkv));
      if (!backward) return { output };
      const [q, k, v] = compute();
      return { output, q: await read(q), k: await read(k), v: await read(v) };
    },
    // The backend computes before its calls return: there is nothing to wait for.
    sample: (repeats) => sampleRuns(async () => tf.tidy(() => void compute()), repeats),
  };
}

export const tfjs: Rival = {
  name: 'tfjs-wasm',
  async open(): Promise<OpenRival> {
    const tf = await load<Tf>('@tensorflow/tfjs');
    const { getThreadsCount } = await load<{ getThreadsCount(): number }>('@tensorflow/tfjs-backend-wasm');
    if (!(await tf.setBackend('wasm'))) throw new Error('the wasm backend does not start');
    return {
      version: `${versionOf('@tensorflow/tfjs')}, wasm backend, ${getThreadsCount()} thread`,
      side: async (contest, work) => side(tf, contest, work),
    };
  },
};
