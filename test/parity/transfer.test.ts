// Copies between the CPU and the device: the same bits, in order with the ops on both sides, failures included. On the CPU
// itself `to` converts or shares.
import { resolve } from 'node:path';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { type Device, DeviceError, type DType, getDevice, ops, scope, Tensor } from '../../lib/index.js';
import { device, timeout } from '../helpers/parity.js';
import { integers, normal, roundTo, toBits } from '../helpers/random.js';

const addon = resolve(process.env.SAS_BINDING ?? 'build/Release/sas_attention.node');
const cpu = getDevice('cpu');
const types = ['f32', 'bf16', 'f16', 'i32'] as const;
/** Nothing, one element, a ragged size, and a ragged number of the 4 MiB pieces that a copy is cut into. */
const sizes = [0, 1, 1021, 3 * 2 ** 20 + 3];

/** Random content of a tensor on the CPU, as its raw bits. */
function content(size: number, dtype: DType): Float32Array | Int32Array | Uint16Array {
  if (dtype === 'i32') return integers(size, 3, 2 ** 31 - 1);
  const values = normal([size], 4);
  return dtype === 'f32' ? values : toBits(values, dtype);
}
const tensorOf = (values: readonly number[], on: Device, dtype: DType = 'f32') =>
  Tensor.from(values, [values.length], { device: on, dtype });
const failed = () =>
  ops.embedding(Tensor.from([9], [1, 1], { dtype: 'i32', device: cpu }), Tensor.zeros([4, 2], { device: cpu }));

describe('between the CPU and the device', () => {
  for (const dtype of types) {
    it.each(sizes)(`${dtype}, %i elements, there and back, bit for bit`, { timeout }, async (size) => {
      const bits = content(size, dtype);
      const there = scope(() => Tensor.from(bits, [size], { dtype, device: cpu }).to({ device }));
      const back = there.to({ device: cpu });
      expect([there.device, there.dtype, there.shape]).toEqual([device, dtype, [size]]);
      expect([back.device, back.dtype, back.shape]).toEqual([cpu, dtype, [size]]);
      const raw = await Promise.all([there.raw(), back.raw()]);
      for (const actual of raw) expect(Buffer.compare(Buffer.from(actual.buffer), Buffer.from(bits.buffer))).toBe(0);
    });
  }

  for (const [from, to] of [
    ['f32', 'bf16'],
    ['f32', 'f16'],
    ['bf16', 'f32'],
    ['f16', 'f32'],
    ['f16', 'bf16'],
    ['bf16', 'f16'],
  ] as const) {
    it(`${from} to ${to} on the way, both ways`, { timeout }, async () => {
      const values = normal([1021], 5).map((value) => roundTo(value, from));
      const expected = values.map((value) => roundTo(value, to));
      for (const [source, target] of [
        [cpu, device],
        [device, cpu],
      ] as const) {
        const copy = Tensor.from(values, [values.length], { dtype: from, device: source }).to({
          dtype: to,
          device: target,
        });
        expect([copy.device, copy.dtype]).toEqual([target, to]);
        expect(await copy.data()).toEqual(expected);
      }
    });
  }

  it('is refused at the call, with nothing left behind', async () => {
    const finished = () => Promise.all([device.synchronize(), cpu.synchronize()]);
    await finished();
    const [there, here] = [device.memory().live, cpu.memory().live];
    for (const [from, to] of [
      ['i32', 'f32'],
      ['i32', 'bf16'],
      ['f32', 'i32'],
      ['bf16', 'i32'],
    ] as const) {
      expect(() => scope(() => Tensor.zeros([3], { dtype: from, device: cpu }).to({ dtype: to, device }))).toThrow(
        /^Tensor\.to: .* i32|'i32'/,
      );
    }
    await finished();
    // What other tests dropped may be collected meanwhile.
    expect(device.memory().live).toBeLessThanOrEqual(there);
    expect(cpu.memory().live).toBeLessThanOrEqual(here);
  });

  it.skipIf(device === cpu)('operands of one op are on one device', () => {
    const [there, here] = [tensorOf([1], device), tensorOf([1], cpu)];
    for (const [a, b] of [
      [there, here],
      [here, there],
    ] as const) {
      const call = () => ops.add(a, b);
      expect(call).toThrow(DeviceError);
      expect(call).toThrow(`add: b is on ${b.device.info.id}, expected ${a.device.info.id} (where a is)`);
    }
  });

  it('takes the content at its place in the order of ops', async () => {
    const source = tensorOf([1, 2], cpu);
    const doubled = ops.add(source, source);
    const before = source.to({ device });
    const sum = ops.add(before, doubled.to({ device }));
    if (device !== cpu) source.copyFrom([7, 8]); // on one device `before` is a view of it
    source.dispose();
    doubled.dispose();
    for (let i = 0; i < 20; i++) scope(() => tensorOf([i, i], cpu)); // takes the blocks that were given up
    expect(await sum.data()).toEqual(Float32Array.of(3, 6));
    expect(await before.data()).toEqual(Float32Array.of(1, 2));
  });

  it('may go back and forth without waiting', { timeout }, async () => {
    const counted = scope(() => {
      let [x, y] = [tensorOf([0], cpu), tensorOf([100], device)];
      for (let i = 0; i < 100; i++) {
        [x, y] = [y.to({ device: cpu }), x.to({ device })];
        [x, y] = [ops.add(x, tensorOf([1], cpu)), ops.add(y, tensorOf([1], device))];
      }
      return [x, y] as const;
    });
    expect(await Promise.all(counted.map((tensor) => tensor.data()))).toEqual([
      Float32Array.of(100),
      Float32Array.of(200),
    ]);
  });

  it('carries a failure on to the copy and what depends on it, and to nothing else', async () => {
    const wrong = failed();
    const copy = wrong.to({ device });
    const converted = wrong.to({ device, dtype: 'bf16' });
    const dependent = ops.add(copy, copy).to({ device: cpu });
    wrong.dispose();
    for (const tensor of [copy, converted, dependent]) await expect(tensor.data()).rejects.toThrow(/^embedding: /);
    await expect(cpu.synchronize()).rejects.toThrow(/^embedding: /);
    await expect(device.synchronize()).resolves.toBeUndefined(); // its own work did not fail
    expect(await tensorOf([1], cpu).to({ device }).data()).toEqual(Float32Array.of(1));
    copy.copyFrom([5, 6]);
    expect(await copy.data()).toEqual(Float32Array.of(5, 6));
  });

  // A worker whose device is busy for a while, and whose CPU queue waits for copies that the device never gets to.
  it.skipIf(device === cpu)('an environment that ends with copies under way ends', { timeout }, async () => {
    const script = `
      const { parentPort, workerData } = require('node:worker_threads');
      const binding = require(workerData.addon);
      const [cpu, device] = [binding.openDevice('cpu'), binding.openDevice(workerData.id)];
      binding.peakFlops(device, 0.5, new Float32Array(1));
      let x = binding.upload(cpu, 0, [1000], new Float32Array(1000));
      for (let i = 0; i < 20; i++) x = binding.transfer(binding.transfer(x, device), cpu);
      binding.read(x, new Float32Array(1000)).then(() => parentPort.postMessage('read'));
      parentPort.postMessage('enqueued');`;
    const worker = new Worker(script, { eval: true, workerData: { addon, id: device.info.id } });
    const messages: unknown[] = [];
    await new Promise((enqueued, failure) => {
      worker.on('message', (message) => enqueued(messages.push(message)));
      worker.on('error', failure);
    });
    await worker.terminate();
    expect(messages).toEqual(['enqueued']);
  });
});
