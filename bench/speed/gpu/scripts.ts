/** Programs and the parity tests as plain JavaScript, for a Node that has neither vitest nor tsx. */
import { copyFileSync, mkdirSync, readdirSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { build } from 'esbuild';

const root = resolve(import.meta.dirname, '../../..');
const FIXTURES = [
  'sas_torch_state.json',
  'sas_torch_state.safetensors',
  'ops.json',
  'factor_ops.json',
  'sas.json',
  'attentions.json',
];

/** Writes `out`/run (the programs), `out`/parity (the tests), what they share and the fixtures, which they find by place. */
export async function writeScripts(out: string, programs: readonly string[]): Promise<void> {
  const tests = readdirSync(join(root, 'test/parity')).filter((name) => name.endsWith('.test.ts'));
  await build({
    absWorkingDir: root,
    entryPoints: Object.fromEntries([
      ...programs.map((path) => [`run/${basename(path, '.ts')}`, path]),
      ...tests.map((name) => [`parity/${basename(name, '.test.ts')}`, `test/parity/${name}`]),
    ]),
    outdir: out,
    outExtension: { '.js': '.mjs' },
    chunkNames: 'chunks/[hash]',
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    alias: { vitest: join(root, 'bench/speed/gpu/vitest_shim.ts') },
    logLevel: 'warning',
  });
  mkdirSync(join(out, 'fixtures'), { recursive: true });
  for (const name of FIXTURES) copyFileSync(join(root, 'test/fixtures', name), join(out, 'fixtures', name));
}
