// The folder that `npm run bundle:gpu` writes, on a machine without a GPU: it says so, and its parts run on the CPU.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { listDevices } from '../../../lib/index.js';

const root = resolve(import.meta.dirname, '../../..');
const addon = resolve(root, process.env.SAS_BINDING ?? 'build/Release/sas_attention.node');
const folder = mkdtempSync(join(tmpdir(), 'sas-attention-gpu-bundle-'));
const bundle = join(folder, 'bundle');
const out = join(folder, 'out');

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
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('the bundle for GPU machines', () => {
  const gpu = listDevices().find(({ id }) => id === 'cuda:0');

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
    expect(stdout).toMatch(/^parity: [1-9]\d* passed, 0 failed, [1-9] skipped, \d{3} not run/m);
    expect(status).toBe(0);
    const result = JSON.parse(readFileSync(file, 'utf8'));
    expect(result.manifest.commit).toMatch(/^[0-9a-f]{40}$/);
    expect(result.worst.map(({ group }: { group: string }) => group)).toEqual(['clipGradNorm', 'random clipGradNorm']);
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

  it('says that nothing was measured where nothing was', () => {
    const { stdout, lines } = runModule('summary', [folder, 'there is no python3']);
    expect(stdout).toMatch(/^parity: [1-9]\d* passed/m);
    expect(lines).toContain('rivals: not measured (there is no python3)');
    expect(lines).toContain('bench: no result (see log.txt)');
    expect(stdout).not.toMatch(/FLOP|GB\/s/);
  });
});
