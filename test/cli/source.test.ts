// Programs and their tests run the source, not the last build: a fault planted in the source of a copy shows at once.
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';

const root = resolve(import.meta.dirname, '../..');
const copy = mkdtempSync(join(tmpdir(), 'sas-attention-source-'));
const FAULT = 'a fault planted in gelu';

beforeAll(() => {
  const tracked = ['lib', 'bench', 'test', 'binding.d.ts', 'package.json', 'tsconfig.json', 'vitest.config.ts'];
  for (const path of tracked)
    cpSync(join(root, path), join(copy, path), { recursive: true, filter: (from) => !from.includes('node_modules') });
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));
  // What packed tests use stays as the last build left it.
  cpSync(join(root, 'dist'), join(copy, 'dist'), { recursive: true });
  writeFileSync(join(copy, 'test/helpers/dist.ts'), 'export function setup(): void {}\n');
  const gelu = join(copy, 'lib/ops/gelu.ts');
  const source = readFileSync(gelu, 'utf8');
  const broken = source.replace(
    /(export function gelu\([^{]*\{)/,
    `$1\n  if (x.size >= 0) throw new Error('${FAULT}');`,
  );
  expect(broken).not.toBe(source);
  writeFileSync(gelu, broken);
});
afterAll(() => rmSync(copy, { recursive: true }));

const env = {
  ...process.env,
  SAS_BINDING: resolve(root, process.env.SAS_BINDING ?? 'build/Release/sas_attention.node'),
};

it.each([
  ['the GPT', 'test/gpt/model.test.ts', FAULT],
  ['train', 'test/cli/train_run.test.ts', FAULT],
  ['eval', 'test/bench/quality/eval/score.test.ts', FAULT],
  ['compare', 'test/bench/quality/compare/run.test.ts', 'FAILED, see'], // its workers write the fault into a file
  ['bench', 'test/bench/speed/cpu.test.ts', FAULT],
])('the tests of %s fail', (_, file, words) => {
  const vitest = join(root, 'node_modules/vitest/vitest.mjs');
  const args = ['run', file, '--project', 'main', '--bail', '1'];
  const { status, stdout, stderr } = spawnSync(process.execPath, [vitest, ...args], {
    cwd: copy,
    env,
    encoding: 'utf8',
  });
  expect(status).toBe(1);
  expect(`${stdout}${stderr}`).toContain(words);
});

it('the trainer fails', () => {
  const program = [
    '--import',
    'tsx',
    'bench/quality/train/main.ts',
    '--steps',
    '1',
    '--layers',
    '1',
    '--out',
    join(copy, 'out'),
  ];
  const run = () => execFileSync(process.execPath, program, { cwd: copy, env, encoding: 'utf8', stdio: 'pipe' });
  expect(run).toThrow(FAULT);
});
