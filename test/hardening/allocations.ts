/** npm run test:allocations -- [limit]: lets every allocation of a training step and of each op fail, or the first `limit`. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildTarget, root } from '../helpers/native_build.js';

export interface AllocationFailures {
  ops?: number;
  allocations: number;
  toldByCall: number;
  toldByWait: number;
  notNoticed?: number;
}

/** `kind`: see allocations_program.ts. */
export function failAllocations(kind: 'all' | 'ops' | 'device', last = 1_000_000): AllocationFailures {
  const build = buildTarget('hardening', 'sas_failing_allocations', { SAS_ISAS: 'baseline' });
  const folder = mkdtempSync(join(tmpdir(), 'sas-allocations-'));
  const control = join(folder, 'control');
  writeFileSync(control, Buffer.alloc(32));
  try {
    const program = join(import.meta.dirname, 'allocations_program.ts');
    const output = execFileSync(process.execPath, ['--import', 'tsx', program, kind, '1', String(last)], {
      cwd: root,
      encoding: 'utf8',
      env: {
        ...process.env,
        LD_PRELOAD: join(build, 'Release/libsas_failing_allocations.so'),
        SAS_TEST_ALLOCATIONS: control,
        SAS_MEMORY_LIMIT: String(64 << 20),
        SAS_DEVICE: 'cpu',
      },
    });
    return JSON.parse(output.trim().split('\n').at(-1) as string) as AllocationFailures;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

if (process.argv[1] === import.meta.filename) {
  const last = Number(process.argv[2] ?? 1_000_000);
  for (const kind of ['all', 'ops', 'device'] as const) console.log(`${kind}:`, failAllocations(kind, last));
}
