/**
 * npm run test:soak -- [steps]: that many training steps, with the resident memory at 5% and at the end, then tensors that are
 * dropped without dispose until the collector takes them. Needs --expose-gc.
 */
import { type Device, getDevice, ops, SasAttention, scope, Tensor } from '../../lib/index.js';
import { TrainingStep } from './training_step.js';

const MIB = 2 ** 20;
const collect = (): void => (globalThis as { gc?: () => void }).gc?.();

/** MiB: all that is resident, and the share of it that V8's heap has taken. */
export interface Footprint {
  resident: number;
  heap: number;
}

async function footprint(): Promise<Footprint> {
  for (let i = 0; i < 2; i++) {
    collect();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const { rss, heapTotal } = process.memoryUsage();
  return { resident: rss / MIB, heap: heapTotal / MIB };
}

export interface Endurance {
  steps: number;
  firstLoss: number;
  lastLoss: number;
  /** After a twentieth of the steps, and after all. */
  early: Footprint;
  late: Footprint;
  /** Bytes of tensors more than before, at the end. */
  left: number;
}

/** Trains for that many steps; the loss is awaited every 50. */
export async function endure(device: Device, steps: number): Promise<Endurance> {
  const before = device.memory().live;
  const training = new TrainingStep(device);
  const earlyStep = Math.ceil(steps / 20);
  const none = { resident: 0, heap: 0 };
  const result: Endurance = {
    steps,
    firstLoss: await training.loss(),
    lastLoss: 0,
    early: none,
    late: none,
    left: 0,
  };
  for (let step = 2; step <= steps; step++) {
    if (step % 50 === 0 || step === steps) result.lastLoss = await training.loss();
    else training.run().dispose();
    if (step % 1000 === 0) collect(); // what the collector has yet to find is not growth
    if (step === earlyStep) result.early = await footprint();
  }
  result.late = await footprint();
  training.dispose();
  await device.synchronize();
  result.left = device.memory().live - before;
  return result;
}

/** Everything that owns memory is made and dropped, `rounds` times; returns the live bytes that are left. */
export async function forget(device: Device, rounds: number): Promise<{ made: number; left: number }> {
  await device.synchronize();
  const before = device.memory().live;
  let made = 0;
  for (let round = 0; round < rounds; round++) {
    made += drop(device);
    if (round % 16 === 0) collect();
    await new Promise(setImmediate); // finalizers run here
  }
  // An object may be found dead one collection after what refers to it.
  for (let i = 0; i < 10 && device.memory().live !== before; i++) {
    collect();
    await device.synchronize();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return { made, left: device.memory().live - before };
}

function drop(device: Device): number {
  const before = device.memory().live;
  const module = new SasAttention({ heads: 2, headDim: 4, simHeads: 4, simHeadDim: 6, device });
  const x = Tensor.randn([1, 8, 2, 4], { seed: 1, device });
  const { output, saved } = module.forward(x, x, x);
  module.backward(output, saved);
  const wrapped = device.info.kind === 'cpu' ? Tensor.wrap(new Float32Array(4096), [4096]) : x;
  ops.gelu(wrapped.reshape([-1]));
  scope(() => output.to({ dtype: 'bf16' }).reshape([-1]));
  output.data().catch(() => {}); // a promise that nobody keeps
  return device.memory().live - before;
}

if (process.argv[1] === import.meta.filename) {
  const steps = Number(process.argv[2] ?? 20_000);
  const device = getDevice('cpu');
  const started = performance.now();
  const result = await endure(device, steps);
  const mib = (value: number) => `${value.toFixed(1)} MiB`;
  console.log(
    `${steps} training steps: resident ${mib(result.early.resident)} after ${Math.ceil(steps / 20)}, ` +
      `${mib(result.late.resident)} at the end (V8's heap ${mib(result.early.heap)}, ${mib(result.late.heap)}); ` +
      `${result.left} bytes left; loss ${result.firstLoss.toFixed(3)} -> ${result.lastLoss.toFixed(3)}; ` +
      `${((performance.now() - started) / 1000).toFixed(0)} s`,
  );
  const { made, left } = await forget(device, 2000);
  console.log(`dropped without dispose: ${mib(made / MIB)} in 2000 rounds, ${left} bytes left after collection`);
  const grown = result.late.resident - result.early.resident;
  if (result.left !== 0 || left !== 0 || !(grown < 16)) {
    console.error(`grown by ${mib(grown)}, expected less than 16 MiB and nothing left`);
    process.exitCode = 1;
  }
}
