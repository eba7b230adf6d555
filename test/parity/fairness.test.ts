// Whatever is awaited, the event loop has its turns, and answers come in the order of the calls.
import { expect, test } from 'vitest';
import { ops, SasAttention, Tensor } from '../../lib/index.js';
import { device } from '../helpers/parity.js';

const x = Tensor.from(new Float32Array(64).fill(0.5), [64], { device });
const module = new SasAttention({ heads: 1, headDim: 2, simHeads: 1, simHeadDim: 2, device });
const gone = Tensor.from([1], [1], { device });
gone.dispose();
const failed = ops.embedding(Tensor.from([7], [1, 1], { dtype: 'i32', device }), Tensor.zeros([4, 2], { device }));
const refusal = (answer: Promise<unknown>) =>
  answer.then(
    () => expect.fail('expected a refusal'),
    () => undefined,
  );

const ways: Record<string, () => Promise<unknown>> = {
  'data()': () => x.data(),
  'raw()': () => x.raw(),
  'data() of a result': async () => {
    const y = ops.gelu(x);
    await y.data();
    y.dispose();
  },
  'data() of a disposed tensor': () => refusal(gone.data()),
  'data() of a failed tensor': () => refusal(failed.data()),
  'synchronize()': () => device.synchronize(),
  'stateDict()': () => module.stateDict(),
};

/** Milliseconds of processor time that this process has used: other processes' share does not count. */
const used = () => process.cpuUsage().user / 1000 + process.cpuUsage().system / 1000;

test.each(Object.entries(ways))('a timer of 5 ms fires every 20 ms of a loop of %s', async (_, answer) => {
  await device.synchronize().catch(() => undefined); // takes the failure from the waits below
  const duration = 400;
  let fired = 0;
  const timer = setInterval(() => fired++, 5);
  for (const end = used() + duration; used() < end; ) await answer();
  clearInterval(timer);
  expect(fired).toBeGreaterThanOrEqual(duration / 20);
});

test('work between two answers counts', async () => {
  let turned = false;
  setImmediate(() => (turned = true));
  for (let i = 0; i < 20 && !turned; i++) {
    await x.data();
    for (const end = performance.now() + 3; performance.now() < end; );
  }
  expect(turned).toBe(true);
});

// On a GPU no answer is known at the call.
test.skipIf(device.info.kind !== 'cpu')('answers known at the call come in its order, across turns', async () => {
  const tensor = Tensor.from([0], [1], { device });
  await tensor.data(); // the device is done with it
  const answers: number[] = [];
  const all: Promise<unknown>[] = [];
  for (const end = performance.now() + 20; performance.now() < end; ) {
    const call = all.length;
    all.push(tensor.data().then(() => answers.push(call)));
    if (all.length % 100 === 0) await x.data(); // in between some wait for the turn, others for nothing
  }
  await Promise.all(all);
  expect(answers).toEqual(all.map((_, call) => call));
});
