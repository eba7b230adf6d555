// `npx sas-attention` as a user has it: from the packed tarball, in processes of its own.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { NO_CUDA } from '../../lib/addon_file.js';
import type { Report } from '../../lib/cli/bench/report.js';
import type { Diagnosis } from '../../lib/cli/doctor/diagnosis.js';
import { cli, type Installed, install } from './installed.js';

let installed: Installed;
beforeAll(() => {
  installed = install();
});
afterAll(() => installed.remove());

const run = (args: readonly string[], env: NodeJS.ProcessEnv = {}) => cli(installed, args, { env });
const { version } = JSON.parse(readFileSync(join(import.meta.dirname, '../../package.json'), 'utf8'));
const stack = /^ {4}at /m;

describe('sas-attention', () => {
  it('runs by npx', () => {
    const print = (...args: string[]) =>
      execFileSync('npx', ['--offline', ...args], { cwd: installed.project, encoding: 'utf8' });
    expect(print('sas-attention', '--version')).toBe(`${version}\n`);
  });

  it.concurrent.each([
    [['--help'], ['doctor', 'bench', 'train', '--version']],
    [['help'], ['doctor', 'bench', 'train', '--version']],
    [['-h'], ['doctor', 'bench', 'train', '--version']],
    [['-v'], [version]],
    [
      ['help', 'train'],
      ['Usage: npx sas-attention train --text PATH', '--resume', 'metrics.jsonl'],
    ],
    [['train', '-h'], ['Usage: npx sas-attention train --text PATH']],
    [
      ['bench', '--help'],
      ['Usage: npx sas-attention bench', '--json', '--full', '--isa'],
    ],
    [
      ['doctor', '--help'],
      ['Usage: npx sas-attention doctor', '--json'],
    ],
  ])('%j prints help, even where the addon cannot be loaded', async (args, parts) => {
    const { code, stdout, stderr } = await run(args, { SAS_BINDING: '/no/such.node' });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    for (const part of parts) expect(stdout).toContain(part);
    expect(stdout).not.toMatch(/npm run|Moby|loss\.svg/); // what only a checkout has
  });

  it('without a command: how to use it, on stderr, exit code 2', async () => {
    const { code, stdout, stderr } = await run([]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain('Usage: npx sas-attention COMMAND');
  });

  it.concurrent.each([
    [['trian'], "sas-attention: Unknown command 'trian' (did you mean 'train'?); --help lists the commands"],
    [['toString'], "sas-attention: Unknown command 'toString'; --help lists the commands"],
    [['--versoin'], "sas-attention: Unknown option '--versoin' (did you mean '--version'?); --help lists the commands"],
    [['help', 'bnech'], "sas-attention: Unknown command 'bnech' (did you mean 'bench'?); --help lists the commands"],
    [['doctor', 'now'], "sas-attention doctor: Unexpected argument 'now'; --help lists the options"],
    [['doctor', '--jsn'], "Unknown option '--jsn' (did you mean '--json'?); --help lists the options"],
    [['bench', '--lengths', '0'], 'sas-attention bench: --lengths 0: expected positive integers'],
    [['bench', '--device', 'cuda:99'], "there is no device 'cuda:99'"],
    [['bench', '--isa', 'sse9'], "SAS_ISA is 'sse9', expected one of "],
    [['train'], 'sas-attention train: --text is missing: a file or folder of text to train on'],
    [['train', '--txt', 'a'], "Unknown option '--txt' (did you mean '--text'?)"],
    [['train', '--text', 'absent.txt'], "sas-attention train: --text 'absent.txt': no such file"],
    [['train', '--text', 'package.json', '--heads', '3'], '--width 128 is not a multiple of --heads 3'],
  ])('%j: one line on stderr, exit code 2', async (args, message) => {
    const { code, stdout, stderr } = await run(args);
    expect(stderr.trim().split('\n')).toEqual([expect.stringContaining(message)]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  });

  it.concurrent.each(['bench', 'train'])('%s without an addon: what the loader says, exit code 1', async (command) => {
    writeFileSync(join(installed.project, 'text.txt'), 'text');
    const args = command === 'train' ? [command, '--text', 'text.txt'] : [command];
    const { code, stdout, stderr } = await run(args, { SAS_BINDING: '/no/such.node' });
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toContain('/no/such.node');
    expect(stderr).toContain('SAS_BINDING');
    expect(stderr).not.toMatch(stack);
  });
});

describe('doctor', () => {
  it('finds a working installation: versions, binary, devices, errors, speeds', async () => {
    const { code, stdout, stderr } = await run(['doctor', '--json'], { SAS_THREAD: '2' });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const { machine, addon, devices, defaultDevice, selfTests, problems } = JSON.parse(stdout) as Diagnosis;
    expect(machine).toMatchObject({ package: { version }, node: process.version, platform: process.platform });
    expect(machine.glibc).toMatch(/^2\.\d+$/);
    expect(machine.environment).toContainEqual({
      name: 'SAS_THREAD',
      value: '2',
      meaning: 'means nothing here; SAS_THREADS does',
    });
    const file = expect.stringMatching(/prebuilds.*\.node$/);
    expect(addon).toMatchObject({ file, origin: 'prebuilt' });
    expect(problems).toEqual([]);

    const cpu = devices.find(({ id }) => id === 'cpu');
    expect(cpu).toMatchObject({ usable: true, isa: expect.any(String), threads: expect.any(Number) });
    for (const device of devices) expect(device.usable || (device.reason ?? '').length > 10).toBe(true);
    expect(devices.map(({ id }) => id)).toContain(defaultDevice);
    expect(selfTests.map(({ device }) => device)).toEqual(devices.filter(({ usable }) => usable).map(({ id }) => id));
    for (const test of selfTests) {
      if ('error' in test) throw new Error(test.error);
      expect(test.checks).toHaveLength(8);
      for (const { error, limit } of test.checks) expect(error).toBeLessThanOrEqual(limit);
      expect(test.speeds).toHaveLength(4);
      for (const { gflops } of test.speeds) expect(gflops).toBeGreaterThan(0);
    }
  });

  it('finds results that are wrong', async () => {
    // Scores are scaled by something else than the reference has.
    const file = join(installed.folder, 'dist/ops/attention.js');
    const source = readFileSync(file, 'utf8');
    const faulty = source.replace('scale = 1 / Math.sqrt(D)', 'scale = 1.001 / Math.sqrt(D)');
    expect(faulty).not.toBe(source);
    writeFileSync(file, faulty);
    const { code, stdout, stderr } = await run(['doctor']).finally(() => writeFileSync(file, source));
    expect({ code, stderr }).toEqual({ code: 1, stderr: '' });
    expect(stdout).toMatch(/^ {2}attention forward, float64 .* WRONG$/m);
    expect(stdout).toMatch(/^ {2}expand forward, float64 .* ok$/m);
    expect(stdout).toMatch(/^Problem: the self-test of cpu failed$/m);
    expect(stdout.includes('\u001b')).toBe(false); // no terminal, no colours
  });

  it('says what the loader tried where there is no addon, as text and as JSON', async () => {
    const [text, json] = await Promise.all(
      [['doctor'], ['doctor', '--json']].map((args) => run(args, { SAS_BINDING: '/no/such.node' })),
    );
    expect({ ...text, stdout: '' }).toEqual({ code: 1, stdout: '', stderr: '' });
    for (const part of [version, process.version, 'SAS_BINDING=/no/such.node', 'not loaded', 'Problem: ']) {
      expect(text?.stdout).toContain(part);
    }
    expect(text?.stdout).not.toMatch(stack);
    expect(json?.code).toBe(1);
    const { addon, devices, problems } = JSON.parse(json?.stdout ?? '') as Diagnosis;
    expect(addon).toEqual({ error: expect.stringContaining('/no/such.node') });
    expect({ devices, problems }).toEqual({ devices: [], problems: ['the native addon cannot be loaded'] });
  });

  it('warns of what works but not as well as it could, which is no failure', async () => {
    // A machine with an NVIDIA driver, as far as the file system says.
    const driver = `
      import fs from 'node:fs'; import { syncBuiltinESMExports } from 'node:module';
      const { existsSync, readFileSync } = fs; const file = '/proc/driver/nvidia/version';
      fs.existsSync = (path) => path === file || existsSync(path);
      fs.readFileSync = (path, ...rest) => path === file ? 'NVRM version: ... 580.95.05  Release Build' : readFileSync(path, ...rest);
      syncBuiltinESMExports();`;
    const { code, stdout, stderr } = await run(['doctor', '--json'], {
      NODE_OPTIONS: `--import=data:text/javascript;base64,${Buffer.from(driver).toString('base64')}`,
    });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const { machine, devices, problems, warnings } = JSON.parse(stdout) as Diagnosis;
    expect(machine.nvidiaDriver).toBe('580.95.05');
    expect(problems).toEqual([]);
    if (devices.some(({ reason }) => reason === NO_CUDA)) {
      expect(warnings).toEqual([expect.stringMatching(/NVIDIA driver \(580\.95\.05\).* no CUDA backend/)]);
    }
  });

  it('names a variable that means nothing', async () => {
    const { code, stdout } = await run(['doctor'], { SAS_ISA: 'sse9' });
    expect(code).toBe(1);
    expect(stdout).toMatch(/^ {2}SAS_ISA=sse9 /m);
    expect(stdout).toMatch(/^Problem: SAS_ISA is 'sse9', expected one of .*baseline/m);
  });
});

describe('bench', () => {
  it('measures, as JSON and as a table', async () => {
    const args = ['bench', '--filter', 'attention backward', '--lengths', '32'];
    const { code, stdout, stderr } = await run([...args, '--json']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const { device, runs } = JSON.parse(stdout) as Report;
    expect(device.id).toBe('cpu');
    const contestants = ['fused', 'naive', 'naive MHA', 'fused', 'naive']; // then the default model's attention
    expect(runs[0]?.rows.map(({ contestant }) => contestant)).toEqual(contestants);
    const table = await run(args);
    expect(table.code).toBe(0);
    expect(table.stdout).toMatch(/^attention backward +32 +fused /m);
    expect(table.stdout).toMatch(/naive MHA .* x +[\d.]+ %$/m);
  });

  it('leaves out an instruction set that nothing is held to', async () => {
    const args = ['bench', '--filter', 'expand V (heads) forward', '--lengths', '8', '--isa', 'baseline,baseline'];
    const { code, stdout, stderr } = await run(args);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout.match(/^baseline: FMA peak/gm)).toHaveLength(1);
  });

  it('only checks', async () => {
    const { code, stdout } = await run(['bench', '--check', '--lengths', '8', '--filter', 'linear forward']);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^linear forward, T = 8: right: output is off by /m);
  });
});

const TINY = '--width 32 --layers 1 --heads 2 --sim-heads 4 --sim-head-dim 24 --kernel 3 --seq 16 --batch 2';

describe('train', () => {
  const text = Array.from({ length: 200 }, (_, i) => `Line ${i} of a text that is short.`).join('\n');

  it('trains on a file, writes losses and samples, and goes on where it stopped', async () => {
    writeFileSync(join(installed.project, 'short.txt'), text);
    const args = ['train', '--text', 'short.txt', '--steps', '5', '--attention', 'mha,sas', '--out', 'runs'];
    const { code, stdout, stderr } = await run([...args, ...TINY.split(' ')]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toMatch(/^attention +parameters +steps +train loss/m);
    expect(stdout).toMatch(/^sas +[\d,]+ +5 +\d\.\d{4} /m);
    expect(stdout).toContain(`Written: ${join('runs', 'metrics.jsonl')},`);
    const runs = join(installed.project, 'runs');
    const lines = () => readFileSync(join(runs, 'metrics.jsonl'), 'utf8').trim().split('\n');
    const steps = () => lines().flatMap((line) => ('loss' in JSON.parse(line) ? [JSON.parse(line).step] : []));
    expect(steps()).toEqual([1, 2, 3, 4, 5, 1, 2, 3, 4, 5]);
    expect(existsSync(join(runs, 'loss.svg'))).toBe(false);
    expect(readFileSync(join(runs, 'sas/sample.txt')).length).toBeGreaterThan(400);

    const resumed = await run(['train', '--resume', 'runs/sas/checkpoint.safetensors', '--steps', '8']);
    expect({ code: resumed.code, stderr: resumed.stderr }).toEqual({ code: 0, stderr: '' });
    expect(steps()).toEqual([1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6, 7, 8]);
  });

  it('trains on a folder, and saves where it stands when nobody reads on', async () => {
    mkdirSync(join(installed.project, 'texts/more'), { recursive: true });
    writeFileSync(join(installed.project, 'texts/a.txt'), text);
    writeFileSync(join(installed.project, 'texts/more/b.txt'), text);
    const args = ['train', '--text', 'texts', '--steps', '100000', '--out', 'stopped', ...TINY.split(' ')];
    const { code, stderr } = await cli(installed, args, { stopReading: (stdout) => stdout.includes('step') });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(existsSync(join(installed.project, 'stopped/mha/checkpoint.safetensors'))).toBe(true);
  });
});

it('a reader that goes away (| head) is no failure', async () => {
  const { code, stderr } = await cli(installed, ['bench', '--check', '--lengths', '8,9,10', '--filter', 'expand'], {
    stopReading: () => true,
  });
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
});
