// The folder that `npm run bundle:gpu` writes, on a machine without a GPU: it says so, its parts run on the CPU, and all of it runs
// on the emulated device. `npm run test:rehearsal` rehearses what takes longer: the mode `full`, with every tool and every mishap.
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { summarize } from '../../../bench/speed/gpu/summary.js';
import { listDevices } from '../../../lib/index.js';
import { kill, processesOf, Rehearsal, STAND_INS, until } from './rehearsal.js';

const root = resolve(import.meta.dirname, '../../..');
const addon = resolve(root, process.env.SAS_BINDING ?? 'build/Release/sas_attention.node');
const folder = mkdtempSync(join(tmpdir(), 'sas-attention-gpu-bundle-'));
const bundle = join(folder, 'bundle');
const out = join(folder, 'out');
let sizes = '';

/** From another directory, with this Node as the one on PATH. */
function run(command: string, args: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const PATH = `${resolve(process.execPath, '..')}:${process.env.PATH}`;
  const inherited = { ...process.env, NODE_OPTIONS: '', SAS_DEVICE: '', SAS_ISA: '', ...env, PATH };
  const { status, stdout, stderr } = spawnSync(command, args, { cwd: tmpdir(), encoding: 'utf8', env: inherited });
  return { status, stdout, lines: `${stdout}${stderr}`.trim().split('\n') };
}
const runModule = (name: string, args: readonly string[]) =>
  run(process.execPath, [join(bundle, 'js/run', `${name}.mjs`), ...args], {
    SAS_DEVICE: 'cpu',
    SAS_BINDING: join(bundle, 'sas_attention.node'),
  });

beforeAll(() => {
  const builder = ['--import', import.meta.resolve('tsx'), join(root, 'bench/speed/gpu/bundle.ts')];
  const built = run(process.execPath, [...builder, '--binding', addon, '--without-node', '--out', bundle]);
  expect(built.status, built.lines.join('\n')).toBe(0);
  sizes = built.stdout;
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('the bundle for GPU machines', () => {
  const gpu = listDevices().find(({ id }) => id === 'cuda:0');

  it('counts the files that git tracks into its size', () => {
    const megabytes = (words: string) => Number(new RegExp(`^ *([\\d.]+) MB {2}${words}`, 'm').exec(sizes)?.[1]);
    const files = execFileSync('git', ['ls-files', '-z'], { cwd: root, encoding: 'utf8' }).split('\0').filter(Boolean);
    const bytes = files.reduce((sum, name) => sum + statSync(join(root, name)).size, 0);
    const tracked = megabytes('of files that git tracks');
    expect(tracked).toBeCloseTo(bytes / 1e6, 1);
    const own = megabytes('sas_attention\\.node') + megabytes('js');
    expect(megabytes('in all')).toBeGreaterThanOrEqual(own + tracked - 0.2);
    expect(megabytes('in all')).toBeLessThan(own + tracked + 1);
  });

  it.skipIf(gpu?.usable)('ends with the reason why there is no GPU, in one line', () => {
    const { status, lines } = run(join(bundle, 'run.sh'), [out, 'quick']);
    expect(lines).toEqual([`run.sh: cuda:0 cannot be used: ${gpu?.reason}`]);
    expect(status).toBe(3);
    expect(existsSync(out)).toBe(false);
  });

  it.each([
    [[], 'usage: run.sh OUTDIR [smoke|quick|full]'],
    [[out, 'slow'], 'mode slow: expected smoke, quick or full'],
  ])('refuses the arguments %j', (args, message) => {
    const { status, lines } = run(join(bundle, 'run.sh'), args);
    expect(lines).toEqual([`run.sh: ${message}`]);
    expect(status).toBe(2);
  });

  it('runs the parity tests, and counts what it does not run', () => {
    const file = join(folder, 'parity.json');
    const { status, stdout } = runModule('parity', ['--out', file, '--only', 'clipGradNorm']);
    expect(stdout).toMatch(/^parity: [1-9]\d* passed, 0 failed, [1-9] skipped, \d{3,} not run/m);
    expect(status).toBe(0);
    const result = JSON.parse(readFileSync(file, 'utf8'));
    expect(result.manifest.commit).toMatch(/^[0-9a-f]{40}$/);
    const groups = result.worst.map(({ group }: { group: string }) => group);
    expect(groups).toEqual(['clipGradNorm', 'clipGradNorm, n elements', 'random clipGradNorm']);
  });

  const python = process.env.SAS_PYTHON ?? 'python3';
  const hasTorch = run(python, ['-c', 'import torch']).status === 0;
  it.skipIf(!hasTorch)(
    'holds a PyTorch module that computes what the fixtures say, and notices one that does not',
    () => {
      const check = () => run(python, ['-B', join(bundle, 'peers/rivals.py'), '--check-only']);
      const right = check();
      expect(right.status, right.lines.join('\n')).toBe(0);
      const module = join(bundle, 'peers/sas_torch.py');
      const source = readFileSync(module, 'utf8');
      writeFileSync(module, source.replace('self.process(torch.relu(x))', 'self.process(x)'));
      const wrong = check();
      writeFileSync(module, source);
      expect(wrong.lines.at(-1)).toMatch(/the PyTorch module is wrong, nothing is timed/);
      expect(wrong.status).toBe(1);
    },
  );

  it('says that nothing was measured where nothing was, and why', () => {
    writeFileSync(join(folder, 'log.txt'), '== rivals: not run (there is no python3)\n== bench: out of time, 39 s\n');
    const { status, stdout, lines } = runModule('summary', [folder]);
    expect(stdout).toMatch(/^parity: [1-9]\d* passed/m);
    expect(lines).toContain('rivals: not measured (there is no python3)');
    expect(lines).toContain('bench: not measured (out of time)');
    rmSync(join(folder, 'log.txt'));
    expect(runModule('summary', [folder]).lines).toContain('bench: no result (see log.txt)');
    expect(stdout).not.toMatch(/FLOP|GB\/s/);
    expect(status).toBe(4); // there was no check of losses
  });
});

describe('the summary of whatever came back', () => {
  const complete = join(root, 'bench/results/gpu/h200-2026-11-26');
  const names = readdirSync(complete).filter((name) => name.endsWith('.json'));
  const results = join(folder, 'results');
  const summaryWith = (name: string, content: string | undefined) => {
    rmSync(results, { recursive: true, force: true });
    cpSync(complete, results, { recursive: true });
    rmSync(join(results, name));
    if (content !== undefined) writeFileSync(join(results, name), content);
    return summarize(results).text;
  };
  const textOf = (name: string) => readFileSync(join(complete, name), 'utf8');

  it.each(names)('without %s, or with a part of it', (name) => {
    const step = name.slice(0, -'.json'.length);
    const whole = summarize(complete).text;
    const without = summaryWith(name, undefined);
    expect(without).toContain(`${step}: no result (see log.txt)`);
    expect(without.length).toBeLessThan(whole.length);
    for (const content of ['', textOf(name).slice(0, 1000), '[1]', '{"rows": 7}']) {
      const text = summaryWith(name, content);
      expect(text).toMatch(/cannot be (read|made)|no result/);
      // The other parts are there.
      for (const line of without.split('\n')) {
        if (/^(attention|parity:|sas |peak|ExpandKernel)/.test(line)) expect(text).toContain(line);
      }
    }
  });

  it('of nothing', () => {
    const { text, exitCode } = summarize(join(folder, 'absent'));
    for (const step of ['loss', 'parity', 'bench', 'rivals', 'profile']) expect(text).toContain(`${step}: no result`);
    expect(exitCode).toBe(4);
  });
});

describe('a rehearsal on the emulated device', () => {
  let rehearsal: Rehearsal;
  beforeAll(() => {
    rehearsal = new Rehearsal();
  }, 1_800_000);
  afterAll(() => rehearsal.remove());
  const left = ['log.txt', 'loss.json', 'parity.json', 'summary.txt'];

  it('tells what did not run to its end from what failed, and from what is not part of the mode', async () => {
    const hang = 'case "$*" in *memcheck*" expand "*) sleep 600 ;; esac';
    rehearsal.equip({ 'compute-sanitizer': `${hang}${STAND_INS.sanitizer}`, ncu: STAND_INS.ncu });
    const { status, files, summary, endings } = await rehearsal.run('smoke', 'gelu');
    expect(endings).toEqual([
      'loss: ok',
      'parity: ok',
      'sanitizer memcheck, expand: out of time',
      ...['attention', 'linear', 'linear, built-in', 'training ops'].map((group) => `sanitizer memcheck, ${group}: ok`),
      ...['expand', 'attention', 'linear, built-in', 'training ops'].map(
        (group) => `sanitizer racecheck, ${group}: ok`,
      ),
      ...['bench', 'rivals', 'profile'].map((name) => `${name}: not run (not part of smoke)`),
    ]);
    expect(summary).toContain('\nchecks: no check failed, but NOT EVERY CHECK RAN TO ITS END\n');
    expect(summary).toContain('\nrivals: not measured (not part of smoke)\n');
    expect(summary).toMatch(/^parity: [1-9]\d* passed, 0 failed/m);
    expect(status).toBe(4);
    expect(files).toEqual(left);
  });

  it('gives the sanitizer what failed, and times nothing', async () => {
    rehearsal.equip({ 'compute-sanitizer': STAND_INS.sanitizer, ncu: STAND_INS.ncu, python3: STAND_INS.bareTorch });
    const bundle = rehearsal.broken('["none", "tanh"]) === "tanh"', '["none", "tanh"]) !== "tanh"');
    const { status, files, summary, log, endings } = await rehearsal.run('quick', 'gelu', { bundle });
    expect(endings).toEqual([
      'loss: ok', // wrong on both sides
      'parity: failed',
      'sanitizer memcheck, gelu: ok',
      'sanitizer racecheck, gelu: ok',
      ...['bench', 'rivals', 'profile'].map((name) => `${name}: not run (a check failed)`),
    ]);
    const [, again = ''] =
      /^FAIL ops.* > gelu .*(?:\n {5}.*)*\n {5}again: node js\/run\/parity_worker\.mjs '(.*)'$/m.exec(log) ?? [];
    expect(JSON.parse(again)).toEqual({ file: expect.stringMatching(/^ops\./), tests: [expect.any(Number)] });
    expect(rehearsal.calls()).toEqual(
      ['memcheck', 'racecheck'].map((tool) =>
        expect.stringMatching(new RegExp(`^--tool ${tool} .*parity_worker\\.mjs \\{"file":.*"tests":\\[\\d+\\]\\}$`)),
      ),
    );
    // The worker printed what it would have reported.
    expect(log).toMatch(/^\{"kind":"end","test":\d+,"seconds":[\d.]+,"failure":"/m);
    expect(summary).toContain('\nchecks: A CHECK FAILED\n');
    expect(summary).toMatch(/^FAIL .*gelu/m);
    expect(status).toBe(1);
    expect(files).toEqual(left);
  });

  it('keeps what a step had when it was killed', async () => {
    rehearsal.equip({ 'compute-sanitizer': 'true' });
    const { status, files, summary, endings } = await rehearsal.run('smoke', 'attention', {
      async meanwhile(out) {
        const file = join(out, 'parity.json');
        await until(() => existsSync(file) && JSON.parse(readFileSync(file, 'utf8')).counts.passed > 0);
        kill(join(rehearsal.bundle, 'js/run/parity.mjs'));
        await until(() => processesOf(join(rehearsal.bundle, 'js/run/parity_worker.mjs')).length === 0); // they go with it
      },
    });
    expect(endings.slice(0, 3)).toEqual(['loss: ok', 'parity: killed', 'sanitizer memcheck, expand: ok']);
    expect(summary).toMatch(/^parity: [1-9]\d* passed, 0 failed/m);
    expect(summary).toContain('NOT EVERY CHECK RAN TO ITS END');
    expect(status).toBe(4);
    expect(files).toEqual(left);
  });
});
