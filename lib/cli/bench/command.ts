/** `npx sas-attention bench`: the microbenchmark on the user's machine. */
import type { DeviceId } from '../../index.js';
import { parseFlags } from '../arguments.js';
import { exitOnBrokenPipe } from '../terminal.js';
import { FLAGS, FLAGS_HELP, INTRODUCTION, parseLengths } from './options.js';
import type { BenchSettings } from './session.js';

const HELP = `Usage: npx sas-attention bench [options]

${INTRODUCTION}

Without options: T = 512 and the best instruction set, under a minute.

  --full           every length, more samples, and avx2 beside avx512: many minutes
${FLAGS_HELP}
  --device ID      cpu, cuda:0, ...  (default: SAS_DEVICE, else the first usable CUDA device, else cpu)
  --json           the report as JSON
  --help           this text

The number of threads is set by SAS_THREADS.
`;

const OWN_FLAGS = {
  ...FLAGS,
  full: { type: 'boolean', default: false },
  device: { type: 'string' },
  json: { type: 'boolean', default: false },
} as const;

export async function benchCommand(args: readonly string[]): Promise<void> {
  exitOnBrokenPipe();
  const flags = parseFlags(args, OWN_FLAGS);
  if (flags.help) {
    process.stdout.write(HELP);
    return;
  }
  const settings: BenchSettings = {
    quick: !flags.full,
    lengths: parseLengths(flags.lengths, !flags.full),
    filter: flags.filter,
    isas: flags.isa?.split(','),
    device: flags.device as DeviceId | undefined,
  };
  // Loads the addon, which --help and a misspelt option can do without.
  const { check, deviceText, measureAll, openDevice, reportText } = await import('./session.js');
  const device = openDevice(settings);
  if (flags.check) return check(settings, device);
  if (!flags.json) console.log(deviceText(device));
  const report = await measureAll(settings, device);
  console.log(flags.json ? JSON.stringify(report, null, 2) : reportText(report));
}
