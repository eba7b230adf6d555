/**
 * `npm run test:mutants`: plants the faults of faults/, one at a time, in a copy of the repository, and demands that the tests which
 * each names fail. Names or their beginnings choose (`-- cpu core/queue`), `--pick N` takes the N-th handful of those that need no
 * emulated device, `--list` prints them. Before it, the same tests pass without a fault.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { runProgram } from '../../lib/cli/run_program.js';
import { textTable } from '../../lib/cli/text_table.js';
import { Failure, UsageError } from '../../lib/failure.js';
import { root } from '../helpers/native_build.js';
import { type Fault, type NamedTests, testsOf } from './fault.js';
import { FAULTS } from './faults/index.js';
import { runTests } from './run_tests.js';
import { typeChecker } from './type_check.js';
import { buildSound, environmentOf, lock, needsBuild, synchronize, tree, withFault } from './workspace.js';

/** A few minutes beside everything else that CI does. */
const HANDFUL = 6;

interface Verdict {
  readonly fault: Fault;
  readonly found: boolean;
  readonly how: string;
  readonly seconds: number;
}

function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) groups.set(keyOf(item), [...(groups.get(keyOf(item)) ?? []), item]);
  return groups;
}

const print = (text: string) => process.stdout.write(`${text}\n`);
const isOf =
  ({ files, part }: NamedTests) =>
  (test: string) =>
    files.some((file) => test.startsWith(`${file} > `)) && test.includes(part);

const keyOf = ({ files }: NamedTests): string => files.join(' and ');

/** null: they have been listed. */
function choose(): Fault[] | null {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { pick: { type: 'string' }, list: { type: 'boolean', default: false } },
  });
  const unknown = positionals.find((name) => !FAULTS.some((fault) => fault.name.startsWith(name)));
  if (unknown !== undefined) throw new UsageError(`no fault is called '${unknown}'; --list names them`);
  let chosen = FAULTS.filter(({ name }) => positionals.length === 0 || positionals.some((n) => name.startsWith(n)));
  if (values.pick !== undefined) {
    const cheap = chosen.filter(({ addon }) => addon === 'cpu');
    const first = (Number(values.pick) * HANDFUL) % cheap.length;
    if (!/^\d+$/.test(values.pick)) throw new UsageError(`--pick ${values.pick}: expected an integer of at least 0`);
    chosen = [...cheap, ...cheap].slice(first, first + Math.min(HANDFUL, cheap.length));
  }
  if (!values.list) return chosen;
  for (const { name, file } of chosen) print(`${name.padEnd(64)} ${file}`);
  return null;
}

type SettingsOf = (fault: Fault) => Readonly<Record<string, string>>;

/** What is wrong with the named tests without a fault, by file; nothing if each name is that of a test, and all pass. */
async function checkSound(faults: readonly Fault[], settingsOf: SettingsOf): Promise<Map<string, string>> {
  const problems = new Map<string, string>();
  for (const [settings, group] of groupBy(faults, (fault) => JSON.stringify(settingsOf(fault)))) {
    // A name of one file may be part of names in another: files apart.
    for (const [files, tests] of groupBy(group.flatMap(testsOf), keyOf)) {
      const { passed, failed, crash } = await runTests(tests, JSON.parse(settings), { bail: false });
      const absent = tests.find((each) => !passed.some(isOf(each)));
      if (failed.length || crash) problems.set(files, `${failed[0] ?? crash} fails without a fault`);
      else if (absent) problems.set(files, `no test runs whose name has '${absent.part}'`);
    }
  }
  for (const [files, problem] of problems) print(`${files}: ${problem}`);
  return problems;
}

async function trial(fault: Fault, compiler: (fault: Fault) => string, settingsOf: SettingsOf): Promise<Verdict> {
  const begun = performance.now();
  const tests = testsOf(fault);
  let how = '';
  let found = false;
  const refusal =
    (fault.native ? '' : compiler(fault)) ||
    (await withFault(fault, async () => {
      const { failed, crash } = await runTests(tests, settingsOf(fault), { bail: tests.length === 1 });
      found = crash !== '' || tests.every((each) => failed.some(isOf(each)));
      how = crash || (failed[0] ?? 'every test passes').replace(/^.* > /, '');
      if (!found && failed.length > 0) how = `only ${how}`;
    }));
  if (refusal !== '') how = `the compiler refuses it: ${refusal}`;
  return { fault, found, how, seconds: (performance.now() - begun) / 1000 };
}

function table(verdicts: readonly Verdict[]): string {
  const rows = verdicts.map(({ fault, found, how, seconds }) => [
    fault.name,
    fault.file,
    found ? 'found' : 'MISSED',
    seconds.toFixed(1),
    how.length > 70 ? `${how.slice(0, 67)}...` : how,
  ]);
  return textTable(['fault', 'in', '', 's', 'by'], rows, [0, 1, 2, 4]);
}

async function main(): Promise<void> {
  const faults = choose();
  if (!faults) return;
  lock();
  synchronize();
  const begun = performance.now();
  const compiler = typeChecker(tree);
  const verdicts: Verdict[] = [];
  for (const addon of ['cpu', 'emulated'] as const) {
    const own = faults.filter((fault) => fault.addon === addon);
    if (own.length === 0) continue;
    const built = needsBuild(addon, own);
    if (built) {
      print(`building the sound ${addon} addon`);
      buildSound(addon);
    }
    const settingsOf: SettingsOf = ({ environment }) => ({ ...environmentOf(addon, built), ...environment });
    print(`the tests that ${own.length} faults name, without them`);
    const problems = await checkSound(own, settingsOf);
    for (const fault of own) {
      const [problem] = testsOf(fault).flatMap((tests) => problems.get(keyOf(tests)) ?? []);
      const verdict = problem
        ? { fault, found: false, how: problem, seconds: 0 }
        : await trial(fault, compiler, settingsOf);
      verdicts.push(verdict);
      const { found, seconds, how } = verdict;
      print(`${found ? 'found' : 'MISSED'} ${seconds.toFixed(1).padStart(6)} s  ${fault.name}: ${how}`);
    }
  }

  const missed = verdicts.filter(({ found }) => !found).length;
  const seconds = (performance.now() - begun) / 1000;
  print(`\n${table(verdicts)}\n`);
  print(`${verdicts.length - missed} of ${verdicts.length} planted faults found in ${seconds.toFixed(0)} s`);
  // As vitest's reports, for the sum of CI.
  const counts = { numPassedTests: verdicts.length - missed, numFailedTests: missed };
  writeFileSync(join(root, 'build/matrix-mutants.json'), JSON.stringify(counts));
  if (missed > 0) throw new Failure(`${missed} were not found`);
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(1)); // with what it runs
await runProgram('test:mutants', main);
