/** `npm run compare`: the attentions of the paper's tables, trained side by side. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { runProgram } from '../../../lib/cli/run_program.js';
import { exitOnBrokenPipe } from '../../../lib/cli/terminal.js';
import { Failure, UsageError } from '../../../lib/failure.js';
import { replaceFile } from '../../../lib/files.js';
import { getDevice } from '../../../lib/index.js';
import { textOf } from '../texts.js';
import { type CompareOptions, type Experiment, HELP, parseCompare } from './options.js';
import { modelFacts, plannedRuns } from './plan.js';
import { findings, reportTable, writeReport } from './report.js';
import { compare, readRun } from './results.js';
import { isFinished, runAll, runName } from './schedule.js';

const print = (text: string) => process.stdout.write(`${text}\n`);

/** What a folder says of the experiment that it holds. */
interface Claim extends Experiment {
  /** Where the sources stood when it began. */
  commit: string;
}

function currentCommit(): string {
  try {
    return execFileSync('git', ['rev-parse', '--short=12', 'HEAD'], { encoding: 'utf8', stdio: 'pipe' }).trim();
  } catch {
    return 'unknown';
  }
}

function heldBy(path: string): Claim {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Claim;
  } catch (error) {
    throw new UsageError(
      `'${path}' is not what an experiment leaves: ${error instanceof Error ? error.message : error}`,
    );
  }
}

/** A folder holds one experiment; more seeds and other attentions may join it. */
async function claim(out: string, experiment: Experiment): Promise<Claim> {
  mkdirSync(out, { recursive: true });
  const path = join(out, 'experiment.json');
  const held = existsSync(path) ? heldBy(path) : null;
  if (held && (held.preset !== experiment.preset || !isDeepStrictEqual(held.config, experiment.config))) {
    throw new UsageError(`--out '${out}' holds an experiment with other settings: name another folder`);
  }
  const claimed = { ...experiment, commit: held?.commit ?? currentCommit() };
  await replaceFile(path, [Buffer.from(`${JSON.stringify(claimed, null, 2)}\n`)]);
  return claimed;
}

async function main({ experiment, out, device: id, jobs: asked, shard, reportOnly }: CompareOptions): Promise<void> {
  exitOnBrokenPipe();
  const device = getDevice(id);
  await (await textOf(experiment.config.text as string)).read(); // says now that it is missing, not in every run
  const { commit } = await claim(out, experiment);
  const facts = modelFacts(experiment, device);
  const runs = plannedRuns(experiment, facts, out);
  const jobs = asked ?? (device.info.kind === 'cpu' ? availableParallelism() : 1);

  let failed: string[] = [];
  if (!reportOnly) {
    print(`${device.info.name}: ${runs.length} runs, ${jobs} at a time`);
    for (const { attention, hidden, parameters } of facts) {
      print(
        `  ${attention.padEnd(16)}${parameters.toLocaleString('en-US').padStart(12)} parameters, feed-forward width ${hidden}`,
      );
    }
    const mine = runs.filter((_, i) => i % shard.count === shard.index - 1);
    const open = mine.filter((run) => !isFinished(run));
    if (open.length < mine.length) print(`${mine.length - open.length} runs are finished already`);
    const outcome = await runAll(open, { device: id, jobs });
    if (outcome.interrupted) print('Stopped. The same command goes on from here.');
    failed = outcome.failed.map(runName);
  }

  const results = runs.flatMap((run) => readRun(run) ?? []);
  if (!results.length) {
    if (failed.length || reportOnly) throw new Failure(`no run in ${out} is finished`);
    return;
  }
  const comparisons = compare(facts, results);
  const written = await writeReport(out, {
    experiment,
    device: device.info,
    jobs,
    comparisons,
    missing: runs.length - results.length,
    date: new Date().toISOString().slice(0, 10),
    commit,
  });
  print(`\n${reportTable(comparisons)}\n\n${findings(comparisons).join('\n')}\n\nWritten: ${written.join(', ')}`);
  if (failed.length) throw new Failure(`failed: ${failed.join('; ')}; the same command tries them again`);
}

await runProgram('compare', async () => {
  const options = parseCompare(process.argv.slice(2));
  if (options) await main(options);
  else process.stdout.write(HELP);
});
