/** `npm run bench`: the fused ops against the unfused pipeline and naive MHA, in percent of the machine's FMA peak. */
import { parseArgs } from 'node:util';
import { getDevice } from 'sas-attention';
import { CASES } from './cases.js';
import { makeReport, type Row, table, writeReport } from './report.js';
import { compare, type Spread, spread } from './timing.js';

const HELP = `Usage: npm run bench -- [options]

Times each op forward and backward beside its unfused twin and naive MHA (reference heads 12 -> 36, 64 -> 96, kernel 5),
and prints useful FLOP/s as percent of the FMA peak measured beside every sample.

  --quick          fewer lengths and samples: under a minute
  --lengths LIST   sequence lengths, default 128,512,1024,2048
  --filter TEXT    only cases whose name contains TEXT
  --out DIR        where NAME.json and NAME.svg go, default bench/results
  --name NAME      default cpu-avx512 or the like, from the device
  --help

The instruction set and the number of threads are set by SAS_ISA and SAS_THREADS.`;

function fail(message: string): never {
  console.error(`bench: ${message}`);
  process.exit(2);
}

function parse() {
  try {
    return parseArgs({
      options: {
        quick: { type: 'boolean', default: false },
        lengths: { type: 'string' },
        filter: { type: 'string', default: '' },
        out: { type: 'string', default: 'bench/results' },
        name: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    return fail(error instanceof Error ? error.message : String(error));
  }
}

const scaled = (s: Spread, factor: number): Spread => ({
  median: s.median * factor,
  low: s.low * factor,
  high: s.high * factor,
});
/** Spread of a rate from the spread of the time it is inverse to. */
const rate = (amount: number, time: Spread): Spread => ({
  median: amount / time.median,
  low: amount / time.high,
  high: amount / time.low,
});

async function main(): Promise<void> {
  const options = parse();
  if (options.help) {
    console.log(HELP);
    return;
  }
  const lengths = (options.lengths ?? (options.quick ? '512,1024' : '128,512,1024,2048')).split(',').map(Number);
  if (!lengths.every((length) => Number.isInteger(length) && length > 0)) {
    fail(`--lengths ${options.lengths}: expected positive integers separated by commas`);
  }
  const device = getDevice();
  const { info } = device;
  console.log(`${info.name}: ${info.isa ?? info.kind}, ${info.threads ?? 1} threads`);

  const timing = options.quick ? { samples: 5, minSeconds: 0.04 } : { samples: 11, minSeconds: 0.1 };
  const rows: Row[] = [];
  const peaks: number[] = [];
  for (const group of CASES) {
    for (const length of lengths) {
      for (const item of group.make(length)) {
        if (!item.name.includes(options.filter)) continue;
        peaks.push((await device.measurePeakFlops()) / 1e9);
        const timings = await compare(item.contestants, device, timing);
        for (const [i, { name, flops }] of item.contestants.entries()) {
          const measured = timings[i];
          if (!measured) continue;
          rows.push({
            case: item.name,
            length,
            contestant: name,
            milliseconds: scaled(measured.seconds, 1000),
            gflops: rate(flops / 1e9, measured.seconds),
            percentOfPeak: rate(100 * flops, measured.peakFlops),
            ...(name === 'fused' && item.floor !== undefined && { floor: item.floor }),
          });
        }
        if (process.stdout.isTTY) process.stdout.write(`\r${item.name} T=${length}`.padEnd(70));
      }
    }
  }
  if (process.stdout.isTTY) process.stdout.write(`\r${' '.repeat(70)}\r`);
  if (rows.length === 0) fail(`no case matches --filter ${options.filter}`);

  const peak = spread(peaks).median;
  console.log(`FMA peak ${peak.toFixed(0)} GFLOP/s (median of ${peaks.length} measurements between the cases)\n`);
  console.log(table(rows));
  const name = options.name ?? `${info.kind}-${info.isa ?? 'device'}`;
  const files = await writeReport(options.out, name, makeReport(info, peak, rows));
  console.log(`\nwritten: ${files.join(', ')}`);
}

await main();
