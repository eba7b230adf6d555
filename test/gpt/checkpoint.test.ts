/** Checkpoints as input: forged, damaged, of older versions; and what is never written into one. */
import { closeSync, openSync, readdirSync, readFileSync, writeSync } from 'node:fs';
import { copyFile, mkdtemp, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { attentionParameters, createAttention } from '../../lib/gpt/attention.js';
import { type Checkpoint, loadCheckpoint, resumeRun, saveCheckpoint } from '../../lib/gpt/checkpoint.js';
import { ATTENTIONS, DEFAULT_CONFIG, POSITIONS, type TrainConfig } from '../../lib/gpt/config.js';
import { splitText, type TextData } from '../../lib/gpt/data.js';
import { train, validate } from '../../lib/gpt/loop.js';
import { Gpt, parameterShapes } from '../../lib/gpt/model.js';
import { disposeRun, modelConfig, type Run, startRun } from '../../lib/gpt/run.js';
import { getDevice, loadSafetensors, type SafetensorsEntry, saveSafetensors } from '../../lib/index.js';

const device = getDevice('cpu');
const fixtures = join(import.meta.dirname, '../fixtures/checkpoints');
const SIZES = { width: 2, layers: 1, heads: 1, simHeads: 1, simHeadDim: 2, kernel: 1, hidden: 1, seq: 2, batch: 1 };
const config: TrainConfig = { ...DEFAULT_CONFIG, ...SIZES, attentions: ['sas', 'mha'], steps: 9 };
const events = { onStep: () => {}, onValidation: () => {}, saveCheckpoint: async () => {}, shouldStop: () => false };

let folder: string;
let good: string;
let text: TextData;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sas-checkpoint-'));
  good = join(folder, 'good.safetensors');
  text = splitText('text', await readFile(join(fixtures, 'text.txt')), config.seq);
  const run = startRun(config, 'sas', device);
  await train(run, text, { ...events, shouldStop: () => run.step === 3 });
  await saveCheckpoint(good, run, text.hash);
  disposeRun(run);
});
afterAll(() => rm(folder, { recursive: true }));

type Entries = Map<string, SafetensorsEntry>;
const metaOf = (entries: Entries) =>
  JSON.parse(Buffer.from(Uint8Array.from(entries.get('run.meta')?.data ?? [])).toString());
const asMeta = (json: string): SafetensorsEntry => {
  const data = Int32Array.from(Buffer.from(json));
  return { shape: [data.length], dtype: 'i32', data };
};

/** The good checkpoint with something changed, and a checksum that fits. */
async function forged(change: (entries: Entries) => void): Promise<string> {
  const entries = await loadSafetensors(good);
  change(entries);
  const path = join(folder, 'forged.safetensors');
  await saveSafetensors(path, entries, { checksum: true });
  return path;
}
const withMeta = (change: (meta: Record<string, unknown>) => void) =>
  forged((entries) => {
    const meta = metaOf(entries);
    change(meta);
    entries.set('run.meta', asMeta(JSON.stringify(meta)));
  });
const withConfig = (changes: object) =>
  withMeta((meta) => {
    meta.config = { ...(meta.config as object), ...changes };
  });

describe('forged', () => {
  const noCheckpoint = 'it is not a checkpoint written by sas-attention train';
  const cases: [fault: string, make: () => Promise<string>][] = [
    ['its configuration has layers 10000000, expected an integer from 1 to 256', () => withConfig({ layers: 1e7 })],
    ['its configuration has width 1048576, expected an integer from 1 to 16384', () => withConfig({ width: 2 ** 20 })],
    ['its configuration has batch 1000000000, expected an integer from 1 to 65536', () => withConfig({ batch: 1e9 })],
    ['its configuration has steps "many", expected an integer from 1 to 10000000', () => withConfig({ steps: 'many' })],
    ['its configuration has steps null, expected an integer from 1 to 10000000', () => withConfig({ steps: null })],
    ['its configuration has seq 1.5, expected an integer from 1 to 1048576', () => withConfig({ seq: 1.5 })],
    ['its configuration has kernel -1, expected an integer from 1 to 63', () => withConfig({ kernel: -1 })],
    ['its configuration has seed -1, expected an integer from 0 to 2147483647', () => withConfig({ seed: -1 })],
    ['its configuration has hidden 0, expected an integer from 1 to 1048576, or null', () => withConfig({ hidden: 0 })],
    ['its configuration has lr 11, expected a number above 0 and at most 10', () => withConfig({ lr: 11 })],
    ['its configuration has dtype "f64", expected one of f32, bf16, f16', () => withConfig({ dtype: 'f64' })],
    [
      'its configuration has tokenizer "__proto__", expected one of bytes, r50k',
      () => withConfig({ tokenizer: '__proto__' }),
    ],
    ['its configuration has text 3, expected a path, or null', () => withConfig({ text: 3 })],
    [
      'its configuration has attentions [], expected a list of different ones of mha',
      () => withConfig({ attentions: [] }),
    ],
    ['its configuration has attentions ["sas","sas"], expected', () => withConfig({ attentions: ['sas', 'sas'] })],
    ['its configuration has attentions "sas", expected', () => withConfig({ attentions: 'sas' })],
    ['its configuration has "dropout", which this version does not know', () => withConfig({ dropout: 0.1 })],
    ['its configuration is null, expected an object', () => withMeta((meta) => (meta.config = null))],
    ['--sim-heads 3 is not a multiple of --heads 2', () => withConfig({ heads: 2, simHeads: 3 })],
    [
      "'parameters.position.weight' is missing or has another shape",
      () => withConfig({ seq: 1_048_576, batch: 65_536 }),
    ],
    ["'parameters.token.weight' is missing or has another shape", () => withConfig({ width: 16_384 })],
    ["'parameters.blocks.1.norm1.weight' is missing or has another shape", () => withConfig({ layers: 256 })],
    [
      "'parameters.blocks.0.attention.sas_q.0.weight' is missing or has another shape",
      () => withConfig({ simHeads: 4096, kernel: 63 }),
    ],
    ['its attention is none of those that its configuration has', () => withMeta((meta) => (meta.attention = 'gqa'))],
    ['its attention is none of those that its configuration has', () => withMeta((meta) => (meta.attention = '../..'))],
    [
      'it has a format that this version does not know',
      () => withMeta((meta) => (meta.format = 'sas-attention training run 3')),
    ],
    ['it does not say which text it was trained on', () => withMeta((meta) => (meta.textHash = 1))],
    ['what it says of its run is not JSON', () => forged((entries) => entries.set('run.meta', asMeta('{"format":')))],
    [
      'it has a format that this version does not know',
      () => forged((entries) => entries.set('run.meta', asMeta('null'))),
    ],
    [noCheckpoint, () => forged((entries) => entries.set('run.meta', asMeta('['.repeat(70_000))))],
    [noCheckpoint, () => forged((entries) => entries.delete('run.meta'))],
    [noCheckpoint, () => forged((entries) => entries.delete('run.random'))],
    [
      noCheckpoint,
      () => forged((entries) => entries.set('run.step', { shape: [0], dtype: 'i32', data: new Int32Array(0) })),
    ],
    [
      'its step is -1, expected',
      () => forged((entries) => entries.set('run.step', { shape: [1], dtype: 'i32', data: Int32Array.of(-1) })),
    ],
    [
      'its random numbers are all the same',
      () => forged((entries) => entries.set('run.random', { shape: [4], dtype: 'i32', data: new Int32Array(4) })),
    ],
    [
      "'adam.second.norm.bias' is missing or has another shape",
      () => forged((entries) => entries.delete('adam.second.norm.bias')),
    ],
    [
      "'parameters.norm.bias' is missing or has another shape",
      () =>
        forged((entries) => entries.set('parameters.norm.bias', { shape: [2], dtype: 'i32', data: new Int32Array(2) })),
    ],
    [
      "it holds 'parameters.more', which no run of its configuration has",
      () =>
        forged((entries) => entries.set('parameters.more', { shape: [1], dtype: 'f32', data: new Float32Array(1) })),
    ],
  ];
  test.each(cases)('%s', async (fault, make) => {
    const path = await make();
    await device.synchronize();
    const before = device.memory();
    const error: Error = await loadCheckpoint(path).then(
      () => new Error('loaded'),
      (error) => error,
    );
    expect(error.message.startsWith(`checkpoint '${path}': ${fault}`), error.message).toBe(true);
    expect(error.message).not.toMatch(/\n/);
    expect(device.memory()).toEqual(before);
  });

  test('a file with holes as large as it says is refused before its data is read', async () => {
    const path = join(folder, 'sparse.safetensors');
    const [length, bytes] = [2 ** 34, 2 ** 36];
    const entry = (shape: number[], from: number, to: number, dtype = 'I32') => ({
      dtype,
      shape,
      data_offsets: [from, to],
    });
    const meta = Buffer.from(Int32Array.from(Buffer.from(JSON.stringify(metaOf(await loadSafetensors(good))))).buffer);
    const small = Buffer.concat([meta, Buffer.from(Int32Array.of(1, 1, 2, 3, 4).buffer)]);
    const n = meta.length;
    const header = Buffer.from(
      JSON.stringify({
        'run.meta': entry([n / 4], 0, n),
        'run.step': entry([1], n, n + 4),
        'run.random': entry([4], n + 4, n + 20),
        'parameters.token.weight': entry([length], n + 20, n + 20 + bytes, 'F32'),
      }),
    );
    const begin = Buffer.alloc(8);
    begin.writeBigUInt64LE(BigInt(header.length));
    await writeFile(path, Buffer.concat([begin, header, small]));
    await truncate(path, 8 + header.length + small.length + bytes);
    const before = process.memoryUsage().rss;
    await expect(loadCheckpoint(path)).rejects.toThrow("'parameters.token.weight' is missing or has another shape");
    expect(process.memoryUsage().rss - before).toBeLessThan(2 ** 27);
  });
});

test.each(ATTENTIONS)('%s: the shapes that a checkpoint is held to are those of the model', (attention) => {
  for (const positions of POSITIONS) {
    const sizes = { ...config, width: 8, heads: 2, simHeads: 4, simHeadDim: 6, kernel: 3, layers: 2, positions };
    const own = modelConfig({ ...sizes, attentions: [attention] }, attention);
    const model = new Gpt(own, device);
    const shapes = [...model.parameters].map(([name, { shape }]) => [name, shape]);
    expect([...parameterShapes(own)]).toEqual(shapes);
    model.dispose();
    const module = createAttention(attention, own, device);
    const table = attentionParameters(attention, own).map(([name, shape]) => [name, shape]);
    expect(table).toEqual([...module.parameters].map(([name, { shape }]) => [name, shape]));
    module.dispose();
  }
});

test('every byte that changes is noticed, or changes nothing', async () => {
  const small: TrainConfig = { ...config, width: 1, attentions: ['mha'] };
  const run = startRun(small, 'mha', device);
  const path = join(folder, 'small.safetensors');
  await saveCheckpoint(path, run, text.hash);
  disposeRun(run);
  const bytes = await readFile(path);
  const content = ({ meta, step, random, tensors }: Checkpoint) => ({ meta, step, random: random.state, tensors });
  const whole = content(await loadCheckpoint(path));
  let next = 0;
  let noticed = 0;
  /** Takes the next byte until there is none left, in a copy of its own. */
  const damage = async (copy: string) => {
    await copyFile(path, copy);
    const file = openSync(copy, 'r+');
    for (let i = next++; i < bytes.length; i = next++) {
      // Each bit of a byte, and all of them, in turn.
      const mask = [1, 2, 4, 8, 16, 32, 64, 128, 255][i % 9] as number;
      writeSync(file, Uint8Array.of((bytes[i] as number) ^ mask), 0, 1, i);
      const loaded = await loadCheckpoint(copy).catch((error: Error) => error);
      if (loaded instanceof Error) noticed++;
      else expect(content(loaded), `byte ${i}`).toEqual(whole);
      writeSync(file, bytes, i, 1, i);
    }
    closeSync(file);
  };
  await Promise.all([1, 2, 3, 4].map((i) => damage(join(folder, `damaged.${i}`))));
  console.info(`${noticed} of ${bytes.length} bytes noticed`);
  expect(noticed).toBeGreaterThan(bytes.length - 16); // spaces that pad the header may become others
}, 600_000);

describe('diverged', () => {
  /** A run, and one of its parameters made NaN or infinite. */
  function spoilt(value: number): Run {
    const run = startRun(config, 'sas', device);
    const [, last] = [...run.model.parameters].at(-1) ?? [];
    const data = new Float32Array(last?.size ?? 0);
    data[data.length - 1] = value;
    last?.copyFrom(data);
    return run;
  }

  test.each([Number.NaN, Number.POSITIVE_INFINITY])('%d is not written into a checkpoint', async (value) => {
    const path = join(folder, `kept${value}`, 'checkpoint.safetensors');
    const run = startRun(config, 'sas', device);
    await saveCheckpoint(path, run, text.hash);
    await saveCheckpoint(path, run, text.hash);
    const names = readdirSync(join(path, '..')).sort();
    expect(names).toEqual(['checkpoint.previous.safetensors', 'checkpoint.safetensors']);
    const before = names.map((name) => readFileSync(join(path, '..', name)));
    const bad = spoilt(value);
    const word = value > 0 ? 'Infinity' : 'NaN';
    await expect(saveCheckpoint(path, bad, text.hash)).rejects.toThrow(
      `parameters.head.weight after step 0 is ${word}: the training diverged, try a lower --lr`,
    );
    expect(readdirSync(join(path, '..')).sort()).toEqual(names);
    expect(names.map((name) => readFileSync(join(path, '..', name)))).toEqual(before);
    for (const each of [run, bad]) disposeRun(each);
  });

  test('a loss or a validation that is not finite ends the training', async () => {
    const run = spoilt(Number.NaN);
    await expect(validate(run, text)).rejects.toThrow('the validation loss after step 0 is NaN: the training diverged');
    await expect(train(run, text, events)).rejects.toThrow('the loss of step 1 is NaN: the training diverged');
    disposeRun(run);
  });
});

test('a gradient that overflows ends the training, though the loss is finite', async () => {
  const run = startRun({ ...config, dtype: 'f16' }, 'mha', device);
  const set = (name: string, value: (i: number) => number) => {
    const tensor = run.model.parameters.get(name);
    tensor?.copyFrom(Float32Array.from({ length: tensor.size }, (_, i) => value(i)));
  };
  // Logits of 0, and a gradient behind them that f16 does not hold.
  for (const name of ['norm.weight', 'norm.bias']) set(name, () => 0);
  set('head.weight', (i) => (i % 4 < 2 ? 6e4 : -6e4));
  await expect(train(run, text, events)).rejects.toThrow(
    /^the gradient norm of step 1 is (NaN|Infinity): the training/,
  );
  disposeRun(run);
});

test('the checkpoint before stays, whole, as .previous', async () => {
  const path = join(folder, 'turns', 'checkpoint.safetensors');
  const previous = join(folder, 'turns', 'checkpoint.previous.safetensors');
  const run = startRun(config, 'sas', device);
  for (let turn = 0; turn < 3; turn++) {
    run.step = turn;
    const before = turn > 0 ? await readFile(path) : undefined;
    await saveCheckpoint(path, run, text.hash);
    expect((await loadCheckpoint(path)).step).toBe(turn);
    if (before) expect((await readFile(previous)).equals(before)).toBe(true);
    expect(readdirSync(join(folder, 'turns')).length).toBe(turn > 0 ? 2 : 1);
  }
  expect((await stat(path)).ino).not.toBe((await stat(previous)).ino);
  disposeRun(run);
});

describe.each(['0.1.0'])('written by %s', (version) => {
  const at = (name: string) => join(fixtures, version, name);

  test.each(['mha', 'sas'] as const)('a checkpoint of %s goes on', async (attention) => {
    const checkpoint = await loadCheckpoint(at(`${attention}.safetensors`));
    expect({ step: checkpoint.step, attention: checkpoint.meta.attention }).toEqual({ step: 20, attention });
    const data = splitText('text', readFileSync(join(fixtures, 'text.txt')), checkpoint.meta.config.seq);
    expect(checkpoint.meta.textHash).toBe(data.hash);
    const lines = readFileSync(at('losses.jsonl'), 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    const expected = lines.filter((line) => line.attention === attention);
    const run = resumeRun(checkpoint, { ...checkpoint.meta.config, steps: 24 }, device);
    const steps: { step: number; loss: number; gradNorm: number }[] = [];
    await train(run, data, { ...events, onStep: ({ step, loss, gradNorm }) => steps.push({ step, loss, gradNorm }) });
    disposeRun(run);
    expect(steps.map(({ step }) => step)).toEqual(expected.map(({ step }) => step));
    for (const [i, { loss, gradNorm }] of steps.entries()) {
      expect(Math.abs(loss / expected[i].loss - 1)).toBeLessThan(1e-4);
      expect(Math.abs(gradNorm / expected[i].gradNorm - 1)).toBeLessThan(1e-3);
    }
  });

  test('a file of tensors', async () => {
    expect(Object.fromEntries(await loadSafetensors(at('tensors.safetensors')))).toEqual({
      f32: { shape: [3], dtype: 'f32', data: Float32Array.of(1, -2.5, 3) },
      bf16: { shape: [2], dtype: 'bf16', data: Uint16Array.of(0x3f80, 0xc020) },
      f16: { shape: [1, 1], dtype: 'f16', data: Uint16Array.of(0x3800) },
      i32: { shape: [2, 1], dtype: 'i32', data: Int32Array.of(7, -8) },
      scalar: { shape: [], dtype: 'f32', data: Float32Array.of(9) },
      empty: { shape: [0, 4], dtype: 'f32', data: new Float32Array(0) },
    });
  });
});
