/** Compiles lib/ into dist/ once before the tests, so that what they pack is this source. */
import { execFileSync } from 'node:child_process';
import { resolve } from 'node:path';

export function setup(): void {
  const root = resolve(import.meta.dirname, '../..');
  execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'lib'], { cwd: root, stdio: 'inherit' });
}
