/** Runs named tests in the copy and says which of them failed. */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { root } from '../helpers/native_build.js';
import { type NamedTests, patternOf } from './fault.js';
import { tree } from './workspace.js';

/** A fault that makes its tests wait forever is ended then. */
const LIMIT_SECONDS = 600;

export interface Outcome {
  /** Full names, with their files. */
  readonly passed: readonly string[];
  readonly failed: readonly string[];
  /** How the run itself ended, where it did not come to its end. */
  readonly crash: string;
  readonly output: string;
}

interface Report {
  testResults: {
    name: string;
    status: string;
    message: string;
    assertionResults: { fullName: string; status: string }[];
  }[];
}

export async function runTests(
  tests: readonly NamedTests[],
  environment: Readonly<Record<string, string>>,
  { bail }: { bail: boolean },
): Promise<Outcome> {
  const report = join(root, 'build/mutants/report.json');
  rmSync(report, { force: true });
  const files = [...new Set(tests.flatMap(({ files }) => files))];
  const args = [
    ...[join(root, 'node_modules/vitest/vitest.mjs'), 'run', '--config', 'test/mutants/vitest.config.ts', ...files],
    ...['--reporter=json', `--outputFile=${report}`, ...(bail ? ['--bail', '1'] : [])],
    ...(tests.some(({ part }) => part === '') ? [] : ['-t', patternOf(tests)]),
  ];
  // Its own group: what hangs is ended with all of its workers.
  const child = spawn(process.execPath, args, {
    cwd: tree,
    env: { ...process.env, ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk));
  let crash = '';
  const end = () => {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
    } catch {
      // Nobody is left.
    }
  };
  const timer = setTimeout(() => {
    crash = `no end after ${LIMIT_SECONDS} s`;
    end();
  }, LIMIT_SECONDS * 1000);
  process.once('exit', end);
  const code = await new Promise<number | null>((resolve) => child.on('close', resolve));
  process.removeListener('exit', end);
  clearTimeout(timer);
  end(); // what tests started and a fault kept alive

  const results = existsSync(report) ? (JSON.parse(readFileSync(report, 'utf8')) as Report).testResults : [];
  const named = (wanted: string) =>
    results.flatMap(({ name, assertionResults }) =>
      assertionResults.flatMap(({ fullName, status }) =>
        status === wanted ? [`${name.slice(tree.length + 1)} > ${fullName}`] : [],
      ),
    );
  const failed = named('failed');
  // Ended at the first failure, a run of two files at once may forget to say which.
  if (bail && code === 1 && failed.length === 0) return runTests(tests, environment, { bail: false });
  if (code !== 0 && failed.length === 0) {
    const broken = results.find(({ status, message }) => status === 'failed' && message !== '');
    crash ||= broken?.message.split('\n')[0] ?? (/^.*(?:Error|exited).*$/m.exec(output)?.[0] || `exit code ${code}`);
  }
  return { passed: named('passed'), failed, crash, output };
}
