// Run with SAS_ANOMALY=1: makes the anomaly that the argument names, and prints what the next wait says, in one line per wait.
import { getDevice, ops, Tensor } from '../../lib/index.js';

const tensor = (values: readonly number[], shape: readonly number[] = [values.length], dtype: 'f32' | 'f16' = 'f32') =>
  Tensor.from(values, shape).to({ dtype });
const state = (parameter: Tensor, gradient: Tensor) => {
  const zeros = () => Tensor.zeros(parameter.shape);
  return { parameter, gradient, firstMoment: zeros(), secondMoment: zeros() };
};

const wait = async (promise: Promise<unknown>): Promise<void> => {
  const said = await promise.then(
    () => 'fine',
    (error: Error & { code?: string }) => `${error.code} ${error.message}`,
  );
  console.log(said);
};
const device = getDevice();

const cases: Record<string, () => Promise<void>> = {
  /** The first op is named, not the ones that the value spreads to; others are sound. */
  async spreads() {
    const large = tensor([1, 2, 3e38, 3e38], [2, 2]);
    const sum = ops.add(large, large);
    const later = ops.gelu(sum);
    await wait(later.data());
    await wait(ops.gelu(large).data());
    await wait(device.synchronize());
    await wait(device.synchronize());
  },
  /** 70,000 exceeds f16. */
  async f16() {
    await wait(ops.add(tensor([1, 60000], [2], 'f16'), tensor([1, 10000], [2], 'f16')).raw());
  },
  /** What the caller brings is the caller's; the op that meets it is named. */
  async input() {
    const infinite = tensor([1, Number.NEGATIVE_INFINITY]);
    await wait(infinite.data());
    await wait(ops.add(infinite, tensor([1, 1])).data());
  },
  async inPlace() {
    const parameter = tensor([1, 2]);
    ops.adamW([state(parameter, tensor([1, Number.NaN]))], { lr: 0.1, step: 1 });
    await wait(device.synchronize());
    parameter.copyFrom([1, 2]);
    await wait(parameter.data());
  },
  /** A query that sees no key has a logSumExp of -Infinity. */
  async masked() {
    const q = Tensor.randn([1, 3, 1, 2], { seed: 1 });
    const [k, v] = [Tensor.randn([1, 2, 1, 2], { seed: 2 }), Tensor.randn([1, 2, 1, 2], { seed: 3 })];
    const { output, logSumExp } = ops.attention(q, k, v, { causal: true });
    await wait(output.data());
    console.log((await logSumExp.data())[0]);
    await wait(device.synchronize());
  },
  /** A bad token is no anomaly, though what it leaves may be anything. */
  async token() {
    await wait(ops.embedding(Tensor.from([9], [1, 1], { dtype: 'i32' }), tensor([1, 2, 3, 4], [2, 2])).data());
  },
};

await cases[process.argv[2] as string]?.();
