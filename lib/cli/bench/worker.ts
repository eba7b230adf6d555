/** Measures with one instruction set for the process that started this one: settings in, rows out. */
import { runProgram } from '../run_program.js';
import type { BenchSettings } from './session.js';

await runProgram('bench', async () => {
  const settings = JSON.parse(process.argv[2] ?? '{}') as BenchSettings;
  const { measureLesser } = await import('./session.js');
  process.send?.(await measureLesser(settings));
});
