/** Environment variables: what they may be, and that anything else is an error that names the variable. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterEach, describe, expect, test } from 'vitest';
import { binding } from '../../lib/binding.js';
import { checkEnvironment, namedDevice, type Settings, settings } from '../../lib/environment.js';
import { ArgumentError, getDevice, listDevices } from '../../lib/index.js';
import { thrownBy } from './helpers.js';

const names = [
  'SAS_DEVICE',
  'SAS_ISA',
  'SAS_THREADS',
  'SAS_MEMORY_LIMIT',
  'SAS_TF32',
  'SAS_POISON',
  'SAS_SYSTEM_ROOT',
] as const;
const before = Object.fromEntries(names.map((name) => [name, process.env[name]]));
afterEach(() => {
  for (const name of names) {
    if (before[name] === undefined) delete process.env[name];
    else process.env[name] = before[name];
  }
});

const isas = binding.instructionSets();

test.each<[name: (typeof names)[number], text: string, setting: keyof Settings, value: unknown]>([
  ['SAS_THREADS', '1', 'threads', 1],
  ['SAS_THREADS', '1024', 'threads', 1024],
  ['SAS_MEMORY_LIMIT', '1', 'memoryLimit', 1],
  ['SAS_MEMORY_LIMIT', '268435456', 'memoryLimit', 2 ** 28],
  ['SAS_MEMORY_LIMIT', '64B', 'memoryLimit', 64],
  ['SAS_MEMORY_LIMIT', '3k', 'memoryLimit', 3 * 2 ** 10],
  ['SAS_MEMORY_LIMIT', '3KB', 'memoryLimit', 3 * 2 ** 10],
  ['SAS_MEMORY_LIMIT', '512M', 'memoryLimit', 2 ** 29],
  ['SAS_MEMORY_LIMIT', '200MB', 'memoryLimit', 200 * 2 ** 20],
  ['SAS_MEMORY_LIMIT', '8GB', 'memoryLimit', 2 ** 33],
  ['SAS_MEMORY_LIMIT', '8g', 'memoryLimit', 2 ** 33],
  ['SAS_MEMORY_LIMIT', '8gb', 'memoryLimit', 2 ** 33],
  ['SAS_MEMORY_LIMIT', '007K', 'memoryLimit', 7 * 2 ** 10],
  ['SAS_TF32', '0', 'tf32', false],
  ['SAS_TF32', '1', 'tf32', true],
  ['SAS_POISON', '1', 'poison', true],
  ['SAS_SYSTEM_ROOT', '/somewhere', 'systemRoot', '/somewhere'],
  ...isas.map((isa) => ['SAS_ISA', isa, 'isa', isa] as ['SAS_ISA', string, 'isa', string]),
  ...(['isa', 'threads', 'memoryLimit', 'tf32', 'poison', 'systemRoot'] as const).map(
    (setting, i) => [names[i + 1], '', setting, undefined] as ['SAS_ISA', '', typeof setting, undefined],
  ),
])('%s=%s', (name, text, setting, value) => {
  process.env[name] = text;
  expect(settings()[setting]).toBe(value);
});

const expected = {
  SAS_DEVICE: 'cpu or cuda:0, cuda:1, ...',
  SAS_ISA: `one of ${isas.join(', ')} (what this build has)`,
  SAS_THREADS: 'a number of threads from 1 to 1024',
  SAS_MEMORY_LIMIT: 'bytes, or a number of k, M or G such as 512M or 8GB',
  SAS_TF32: '0 or 1',
  SAS_POISON: '0 or 1',
  SAS_SYSTEM_ROOT: 'an absolute path',
};

const flags = ['yes', 'true', '2', '01', 'off'];
const wrong: Record<(typeof names)[number], readonly string[]> = {
  SAS_DEVICE: ['gpu', 'CPU', 'cuda', 'cuda:', 'cuda:-1', 'cuda:x', ' cpu'],
  SAS_ISA: ['foo', 'AVX2', 'avx', `${isas[0]} `, 'sse9', '1'],
  SAS_THREADS: ['abc', '0', '1k', ' ', '-1', '1025', '1e9', '1.5', '0x10', '4 ', '+4', 'NaN'],
  SAS_MEMORY_LIMIT: [
    'abc',
    '0',
    '0G',
    '-1',
    '1.5G',
    '8 GB',
    '8GiB',
    '8T',
    'GB',
    '1e9',
    'Infinity',
    String(2 ** 53),
    '8388608G',
    '.5G',
    '1.0G',
    '+1G',
    '-1G',
    '512KiB',
    '1KBB',
    '1kk',
    '1 ',
    ' 1',
    ' ',
    '1\n',
    '0x10',
    '1_000',
    '1,000',
    '1e3M',
    'NaN',
    'M',
    'B',
    '١',
  ],
  SAS_TF32: flags,
  SAS_POISON: flags,
  SAS_SYSTEM_ROOT: ['root', './root', '~', ' /'],
};

test.each(names.flatMap((name) => wrong[name].map((text) => [name, text] as const)))(
  '%s=%s is refused',
  (name, text) => {
    process.env[name] = text;
    const error = thrownBy(checkEnvironment);
    expect(error).toBeInstanceOf(ArgumentError);
    expect(error.message).toBe(`${name} is '${text}', expected ${expected[name]}`);
  },
);

describe('set wrong while the program runs', () => {
  test('listDevices gives the reason', () => {
    process.env.SAS_THREADS = 'many';
    const reason = `SAS_THREADS is 'many', expected ${expected.SAS_THREADS}`;
    for (const device of listDevices()) expect(device).toMatchObject({ usable: false, reason });
  });

  test('getDevice names the variable', () => {
    process.env.SAS_DEVICE = 'gpu';
    expect(() => getDevice()).toThrow(`SAS_DEVICE is 'gpu', expected ${expected.SAS_DEVICE}`);
    process.env.SAS_DEVICE = 'cuda:97';
    expect(namedDevice()).toBe('cuda:97'); // there may be one: getDevice looks
  });
});

const library = new URL('../../lib/index.js', import.meta.url).href;

/** Loads the library in a process of its own and prints what `script` does. */
async function print(script: string, env: NodeJS.ProcessEnv): Promise<string> {
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--import', 'tsx', '--input-type=module', '-e', script.replace('LIBRARY', library)],
    { env: { ...process.env, ...env }, cwd: fileURLToPath(new URL('../..', import.meta.url)) },
  );
  return stdout.trim();
}

test.each([
  ['SAS_MEMORY_LIMIT', '8 gigabytes'],
  ['SAS_ISA', 'foo'],
  ['SAS_THREADS', '0'],
  ['SAS_DEVICE', 'nothing'],
  ['SAS_TF32', 'on'],
])('an error when the package is loaded: %s=%s', async (name, text) => {
  const script = `await import('LIBRARY').catch((error) => console.log(error.name, error.code, error.message));`;
  expect(await print(script, { [name]: text })).toMatch(new RegExp(`^ArgumentError SAS_ARGUMENT ${name} is '${text}'`));
});

test('devices are opened with what the variables say', async () => {
  const script = `const { getDevice, Tensor } = await import('LIBRARY');
    const { isa, threads } = getDevice('cpu').info;
    let message = '';
    try { Tensor.zeros([2 ** 18 + 1], { device: getDevice('cpu') }); } catch (error) { ({ message } = error); }
    console.log(isa, threads, message);`;
  const printed = await print(script, { SAS_ISA: isas.at(-1), SAS_THREADS: '3', SAS_MEMORY_LIMIT: '1MB' });
  expect(printed).toMatch(
    new RegExp(`^${isas.at(-1)} 3 Tensor.zeros: out of memory on cpu: 1048580 .* limit 1048576$`),
  );
});
