/**
 * npm run test:fuzz -- [calls [seed]]: that many calls of the binding and of the library, half each, under
 * AddressSanitizer and UndefinedBehaviorSanitizer. Prints the seed, which replays the run on the same devices.
 */
import { spawnSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { getDevice, listDevices } from '../../lib/index.js';
import { buildTarget, root, sanitizerEnvironment } from '../helpers/native_build.js';
import { fuzzBinding } from './fuzz_binding.js';
import { fuzzLibrary } from './fuzz_library.js';

/** Calls each level until it has had its share of the calls or of the seconds. */
export async function fuzz({
  calls = Number.POSITIVE_INFINITY,
  seconds = Number.POSITIVE_INFINITY,
  seed = randomInt(2 ** 32),
}): Promise<string> {
  const ids = listDevices()
    .filter((device) => device.usable)
    .map((device) => device.id);
  // The emulated device takes a hundred times as long for a call.
  const devices = [...new Array(3).fill('cpu'), ...ids.filter((id) => id !== 'cpu')] as typeof ids;
  const share = () => {
    const end = performance.now() + (seconds / 2) * 1000;
    return (made: number) => made >= calls / 2 || performance.now() > end;
  };
  console.log(`fuzz: seed ${seed}, devices ${ids.join(', ')}`);
  const opened = devices.map((id) => getDevice(id));
  const levels = {
    binding: await fuzzBinding(seed, share(), opened),
    library: await fuzzLibrary(seed, share(), opened),
  };
  return Object.entries(levels)
    .map(([name, { calls, refused, compared }]) => {
      const held = compared > 0 ? `, ${compared} compared` : '';
      return `${name}: ${calls} calls, ${refused} refused${held}`;
    })
    .join('; ');
}

/** A CPU addon under the sanitizers, and the environment in which Node can load it. */
function sanitized(): NodeJS.ProcessEnv {
  const build = buildTarget('sanitized', 'sas_attention', { SAS_SANITIZE: 'address,undefined', SAS_ISAS: 'baseline' });
  return { ...sanitizerEnvironment(), SAS_BINDING: join(build, 'Release/sas_attention.node') };
}

/** Node itself never frees everything: only what the addon's own code allocated counts. */
function isLeakOfTheAddon(block: string): boolean {
  const frames = block
    .split('\n')
    .filter((line) => /^ *#\d/.test(line) && !/ in (operator new|malloc|calloc)/.test(line));
  return /leak of/.test(block) && /native\/|node-addon-api|sas_attention/.test(frames[0] ?? '');
}

if (process.argv[1] === import.meta.filename) {
  const [calls = '200000', seed, inside] = process.argv.slice(2);
  if (inside) {
    const started = performance.now();
    const summary = await fuzz({ calls: Number(calls), seed: Number(seed) });
    console.log(`${summary}; ${((performance.now() - started) / 1000).toFixed(0)} s`);
  } else {
    const folder = mkdtempSync(join(tmpdir(), 'sas-fuzz-'));
    const env: NodeJS.ProcessEnv = { ...process.env, ...sanitized(), SAS_MEMORY_LIMIT: String(256 << 20) };
    env.ASAN_OPTIONS = `detect_leaks=1:allocator_may_return_null=1:exitcode=0:log_path=${folder}/report`;
    env.UBSAN_OPTIONS = `${env.UBSAN_OPTIONS}:log_path=${folder}/report`;
    const args = ['--import', 'tsx', import.meta.filename, calls, seed ?? String(randomInt(2 ** 32)), 'inside'];
    const { status, signal } = spawnSync(process.execPath, args, { cwd: root, env, stdio: 'inherit' });
    const reports = readdirSync(folder).map((name) => readFileSync(join(folder, name), 'utf8'));
    const faults = [
      ...reports.filter((report) => /ERROR: AddressSanitizer|runtime error/.test(report)),
      ...reports.flatMap((report) => report.split('\n\n').filter(isLeakOfTheAddon)),
    ];
    for (const fault of faults) console.error(fault);
    console.log(
      `exit code ${status ?? signal}; AddressSanitizer, UndefinedBehaviorSanitizer, LeakSanitizer: ${faults.length} reports of the addon`,
    );
    process.exitCode = faults.length || status !== 0 ? 1 : 0;
    rmSync(folder, { recursive: true });
  }
}
