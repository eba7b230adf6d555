/** Failures that are not the caller's arguments: memory that runs out, an addon that is not there. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { getDevice, OutOfMemoryError, ops, Tensor } from '../../lib/index.js';
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
