/** Failures that are not the caller's arguments: memory that runs out, work that fails on the device, an addon that is not there. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { getDevice, OutOfMemoryError, ops, SasError, Tensor } from '../../lib/index.js';
import { f32, i32, thrownBy, values } from './helpers.js';

const run = promisify(execFile);
const library = new URL('../../lib/index.js', import.meta.url).href;

/** Runs a script that has the library as `sas` in a process of its own. */
const inProcess = (script: string, env: NodeJS.ProcessEnv) =>
  run(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script.replace('LIBRARY', library)], {
    env: { ...process.env, ...env },
    cwd: fileURLToPath(new URL('../..', import.meta.url)),
  });

describe('out of memory', () => {
  test('throws at the call, names the op, and leaves the device usable', async () => {
    const device = getDevice();
    const before = device.memory().live;
    const error = thrownBy(() => Tensor.zeros([2 ** 20, 2 ** 20, 8]));
    expect(error).toBeInstanceOf(OutOfMemoryError);
    expect(error).toMatchObject({ code: 'SAS_OUT_OF_MEMORY', message: expect.stringMatching(/^Tensor\.zeros: /) });
    expect(device.memory().live).toBeLessThanOrEqual(before);
    expect(await values(ops.add(Tensor.from([1], [1]), Tensor.from([2], [1])))).toEqual([3]);
  });

  test('an op whose output does not fit frees what it had made', () => {
    const device = getDevice();
    const tokens = i32(1, 1);
    const gradOutput = f32(1, 1, 1 << 10);
    const before = device.memory().live;
    const error = thrownBy(() => ops.embeddingBackward(gradOutput, tokens, { vocabulary: 8, positions: 2 ** 33 }));
    expect(error).toBeInstanceOf(OutOfMemoryError);
    expect(error.message).toMatch(/^embeddingBackward: /);
    expect(device.memory().live).toBeLessThanOrEqual(before);
  });

  test('SAS_MEMORY_LIMIT sets the room', async () => {
    const { stdout } = await inProcess(
      `const sas = await import('LIBRARY');
       let message = '';
       try { sas.Tensor.zeros([1 << 20]); } catch (error) { message = error.name + ': ' + error.message; }
       console.log(message, await sas.Tensor.zeros([1 << 10]).data().then((x) => x.length));`,
      { SAS_MEMORY_LIMIT: String(1 << 20), SAS_DEVICE: 'cpu' },
    );
    expect(stdout).toMatch(/^OutOfMemoryError: Tensor\.zeros: .* 1024\n$/);
  });
});

describe('work that fails on the device', () => {
  test('rejects the next wait on what depends on it, with the name of the op', async () => {
    const table = f32(4, 2);
    const wrong = ops.embedding(Tensor.from([0, 4], [1, 2], { dtype: 'i32' }), table);
    const dependent = ops.gelu(wrong);
    const independent = ops.gelu(table);
    await expect(wrong.data()).rejects.toThrow(/^embedding: /);
    await expect(dependent.data()).rejects.toThrow(/^embedding: /);
    await expect(dependent.reshape([4]).raw()).rejects.toBeInstanceOf(SasError);
    expect(await values(independent)).toEqual(new Array(8).fill(0));
    await expect(table.device.synchronize()).rejects.toThrow(/^embedding: /);
    await expect(table.device.synchronize()).resolves.toBeUndefined();
  });

  test.each([-1, 4, 2 ** 31 - 1])('token %i outside of the vocabulary', async (token) => {
    const tokens = Tensor.from([token], [1, 1], { dtype: 'i32' });
    await expect(ops.embedding(tokens, f32(4, 2)).data()).rejects.toThrow(/^embedding: /);
    const { gradTokenTable } = ops.embeddingBackward(f32(1, 1, 2), tokens, { vocabulary: 4 });
    await expect(gradTokenTable.data()).rejects.toThrow(/^embeddingBackward: /);
    await expect(getDevice().synchronize()).rejects.toThrow();
  });

  test.each([-1, 3])('target %i outside of the classes', async (target) => {
    const targets = Tensor.from([target], [1], { dtype: 'i32' });
    await expect(ops.crossEntropy(f32(1, 3), targets).loss.data()).rejects.toThrow(/^crossEntropy: /);
    await expect(getDevice().synchronize()).rejects.toThrow();
  });

  test('a failure that nobody waits for is not an unhandled rejection', async () => {
    ops.embedding(Tensor.from([9], [1, 1], { dtype: 'i32' }), f32(4, 2)).dispose();
    await new Promise((resolve) => setTimeout(resolve, 20));
    await expect(getDevice().synchronize()).rejects.toThrow(/^embedding: /);
  });

  test('among many that nobody has waited for, exactly what depends on it fails', async () => {
    const table = f32(4, 2);
    const outputs = Array.from({ length: 600 }, (_, i) =>
      ops.embedding(Tensor.from([i % 250 === 249 ? -i : 0], [1, 1], { dtype: 'i32' }), table),
    );
    const sums = outputs.slice(1).map((output, i) => ops.add(output, outputs[i] as Tensor));
    const results = await Promise.allSettled(sums.map((sum) => sum.data()));
    const failed = results.flatMap((result, i) =>
      result.status === 'rejected' ? [`${i + 1} ${result.reason.message}`] : [],
    );
    const problem = (i: number) => `embedding: token -${i} at position 0 is outside the vocabulary of 4`;
    expect(failed).toEqual([249, 499].flatMap((i) => [`${i} ${problem(i)}`, `${i + 1} ${problem(i)}`]));
    await expect(getDevice().synchronize()).rejects.toThrow(problem(249));
  });

  test('writing new content heals a tensor', async () => {
    const wrong = ops.embedding(Tensor.from([9], [1, 1], { dtype: 'i32' }), f32(4, 2));
    await expect(wrong.data()).rejects.toThrow(/^embedding: /);
    wrong.copyFrom([1, 2]);
    expect(await values(wrong)).toEqual([1, 2]);
    await expect(getDevice().synchronize()).rejects.toThrow();
  });
});

describe('an addon that cannot be loaded', () => {
  test.each([
    ['/nowhere/sas.node', 'no such file'],
    [fileURLToPath(import.meta.url).replace('.test.ts', '.none.node'), 'no such file'],
  ])('says which file and why: %s', async (file, why) => {
    const { stdout } = await inProcess(
      `try { await import('LIBRARY'); } catch (error) { console.log(error.name, error.code, error.message); }`,
      { SAS_BINDING: file },
    );
    expect(stdout).toContain('SasError SAS_INTERNAL sas-attention: the native addon cannot be loaded');
    expect(stdout).toContain(`${file} (from SAS_BINDING): ${why}`);
    expect(stdout).toContain('Unset SAS_BINDING');
  });
});
