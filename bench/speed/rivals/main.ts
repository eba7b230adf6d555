/** `npm run bench:rivals`: the CPU backend in turns with what a Node user would take instead. */
import { parseArgs } from 'node:util';
import { getDevice } from '../../../lib/index.js';
import { CONTESTS, nameOf, type Rival } from './contest.js';
import { jaxJs } from './jax_js.js';
import type { Effort } from './measure.js';
import { INSTALL } from './npm/packages.js';
import { onnxruntime } from './onnxruntime.js';
import { prepare } from './ours.js';
import { pytorch } from './pytorch.js';
import { makeReport, table, writeReport } from './report.js';
import { runContests } from './run.js';
import { tfjs } from './tfjs.js';

const THREADS = 2;
const RIVALS: readonly Rival[] = [onnxruntime, pytorch, tfjs, jaxJs];

const HELP = `Usage: npm run bench:rivals -- [options]

Compares the CPU backend (${THREADS} threads, f32) with ${RIVALS.map(({ name }) => name).join(', ')}: first the results, then the
time, in turns. Install the npm packages among them by '${INSTALL}' (0.6 GB); PyTorch is taken from
python3 or /usr/bin/python3, or from the Python that SAS_PYTHON names. What is not there is skipped.

  --quick          fewer and shorter samples
  --filter TEXT    only contests whose line 'rival: case' contains TEXT
  --out DIR        where rivals.json and rivals.md go, default bench/results
  --help`;

function fail(message: string): never {
  console.error(`bench: ${message}`);
  process.exit(2);
}

function parse() {
  try {
    return parseArgs({
      options: {
        quick: { type: 'boolean', default: false },
        filter: { type: 'string', default: '' },
        out: { type: 'string', default: 'bench/results' },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    return fail(error instanceof Error ? error.message : String(error));
  }
}

/**
 * The pause is for threads that spin before they sleep. On two busy cores, onnxruntime's threads were seen to do so for 70 ms and
 * PyTorch's (OpenMP, OpenBLAS) for 100 ms after their last run, ours for less than 10 ms.
 */
const PAUSE = 0.2;
const FULL: Effort = { samples: 15, slowSamples: 11, minSeconds: 0.1, pause: PAUSE };
const QUICK: Effort = { samples: 10, slowSamples: 4, minSeconds: 0.02, pause: PAUSE };

async function main(): Promise<void> {
  const options = parse();
  if (options.help) {
    console.log(HELP);
    return;
  }
  const contests = CONTESTS.filter((contest) => `${contest.rival}: ${nameOf(contest)}`.includes(options.filter));
  if (contests.length === 0) fail(`no contest matches --filter ${options.filter}`);
  process.env.SAS_THREADS = String(THREADS); // read when the device is opened
  const device = getDevice('cpu');
  const { info } = device;
  console.log(`${info.name}: ${info.isa ?? info.kind}, ${info.threads} threads\n`);

  const outcome = await runContests(RIVALS, contests, {
    threads: THREADS,
    effort: options.quick ? QUICK : FULL,
    prepare: (contest) => prepare(contest, device),
    log: console.log,
  });
  const files = await writeReport(options.out, makeReport(info, outcome));
  console.log(`\n${Object.values(outcome.versions).join('\n')}\nwritten: ${files.join(', ')}\n`);
  console.log(outcome.rows.length > 0 ? table(outcome.rows) : 'nothing was timed');
}

await main();
