/** What the event loop gets of a loop of small ops, in a process of its own; the argument says what is looked at. */
import { setImmediate } from 'node:timers/promises';
import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import { getDevice, ops, Tensor } from '../../lib/index.js';

const device = getDevice();
const x = Tensor.from(new Float32Array(64).fill(0.5), [64]);

async function step(dispose = true): Promise<void> {
  const y = ops.gelu(x);
  await y.data();
  if (dispose) y.dispose();
}

/** Milliseconds of processor time that this process has used: other processes' share does not count. */
const used = () => process.cpuUsage().user / 1000 + process.cpuUsage().system / 1000;

const modes: Record<string, () => Promise<unknown>> = {
  /** Of a second of processor time, the milliseconds for each firing of a timer of 5 ms. */
  async timers() {
    let fired = 0;
    const timer = setInterval(() => fired++, 5);
    for (const end = used() + 1000; used() < end; ) await step();
    clearInterval(timer);
    return 1000 / Math.max(fired, 1);
  },

  /** MB that 300,000 results add which nobody disposes of. */
  async growth() {
    for (let i = 0; i < 30_000; i++) await step(false);
    const before = process.memoryUsage.rss();
    for (let i = 0; i < 300_000; i++) await step(false);
    return (process.memoryUsage.rss() - before) / 1e6;
  },

  /** Milliseconds for which calls hold this thread, on operands of at most 16 KB; the best of some. */
  async held() {
    const rows = (length: number, heads = 1) => Tensor.zeros([1, length, heads, 1], { dtype: 'bf16' });
    const all = { causal: false };
    const [q, mqa, mean] = [rows(1300), rows(9, 100), rows(20, 100)];
    const [keys, more] = [rows(2200), rows(2400)];
    const t = rows(800);
    const saved = { q: t, k: t, v: t, ...ops.attention(t, t, t, all) };
    const calls: Record<string, () => unknown> = {
      'naive.attention': () => ops.naive.attention(q, q, q, all),
      attention: () => ops.attention(mqa, keys, keys, all),
      attentionMean: () => ops.attentionMean(mean, more, more, { ...all, heads: 1 }),
      'naive.attentionBackward': () => ops.naive.attentionBackward(t, saved, all),
    };
    const times: Record<string, number> = {};
    for (const [name, call] of Object.entries(calls)) {
      times[name] = Number.POSITIVE_INFINITY;
      for (let i = 0; i < 5; i++) {
        await device.synchronize();
        await setImmediate();
        const begin = performance.now();
        call();
        times[name] = Math.min(times[name], performance.now() - begin);
      }
    }
    return times;
  },

  /** Milliseconds from a signal, whose time is its sender's last line, to its handler. */
  async signal() {
    const caught = new Promise<number>((resolve) => process.once('SIGTERM', () => resolve(Date.now())));
    let at: number | undefined;
    caught.then((now) => (at = now));
    console.log('looping');
    while (at === undefined) await step();
    return at;
  },
};

const result = await (modes[isMainThread ? String(process.argv[2]) : workerData.mode] as () => Promise<unknown>)();
if (isMainThread) console.log(JSON.stringify(result));
else parentPort?.postMessage(result);
