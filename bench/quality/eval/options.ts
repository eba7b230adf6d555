/** Command line -> checked options. Bad values throw UsageError. */

import { parseFlags } from '../../../lib/cli/arguments.js';
import { deviceId, integer, oneOf } from '../../../lib/cli/train/options.js';
import { UsageError } from '../../../lib/failure.js';
import type { DeviceId } from '../../../lib/index.js';
import { FORMAT_NAMES, type FormatName } from './formats.js';

export interface Options {
  checkpoint: string;
  tasks: string[];
  format: FormatName | undefined;
  labels: string | undefined;
  batch: number;
  limit: number | undefined;
  device: DeviceId | undefined;
  json: string | undefined;
}

const DEFAULT_BATCH = 16;

export const HELP = `Scores a trained model on multiple-choice tasks, as the usual harness does: the choice that the model finds most likely counts.

Usage: npm run eval -- --checkpoint FILE --task FILE [options]

  --checkpoint FILE   a checkpoint.safetensors of npm run train
  --task FILE         a task as it is published, JSON lines or a JSON array; may be given several times
  --format NAME       of ${FORMAT_NAMES.join(', ')}  (default: by the fields of the first record)
  --labels FILE       one answer per line, for a task whose records hold none  (default: NAME-labels.lst beside NAME.jsonl)
  --limit N           only the first N questions of each task
  --batch N           inputs computed at once  (default ${DEFAULT_BATCH})
  --device ID         cpu, cuda:0, ...  (default: SAS_DEVICE, else the first usable CUDA device, else cpu)
  --json FILE         writes the results there too
  --help              this text

acc: by the log-likelihood of a choice; acc_norm: by the log-likelihood per character of the choice; each with its standard error.
`;

const text = { type: 'string' } as const;
const FLAGS = {
  checkpoint: text,
  task: { type: 'string', multiple: true },
  format: text,
  labels: text,
  limit: text,
  batch: text,
  device: text,
  json: text,
  help: { type: 'boolean', short: 'h' },
} as const;

/** null: the user asked for help. */
export function parseOptions(args: readonly string[]): Options | null {
  const flags = parseFlags(args, FLAGS);
  if (flags.help) return null;

  const { checkpoint, task: tasks = [], labels, json } = flags;
  if (checkpoint === undefined) throw new UsageError('--checkpoint is missing; --help lists the options');
  if (tasks.length === 0) throw new UsageError('--task is missing; --help lists the options');
  for (const [name, path] of [
    ['--checkpoint', checkpoint],
    ['--labels', labels],
    ['--json', json],
  ] as const) {
    if (path === '') throw new UsageError(`${name} needs a path`);
  }
  if (tasks.includes('')) throw new UsageError('--task needs a path');
  if (labels !== undefined && tasks.length > 1) throw new UsageError('--labels goes with a single --task');
  return {
    checkpoint,
    tasks,
    format: flags.format === undefined ? undefined : oneOf('--format', flags.format, FORMAT_NAMES),
    labels,
    batch: flags.batch === undefined ? DEFAULT_BATCH : integer('--batch', flags.batch, 1, 65_536),
    limit: flags.limit === undefined ? undefined : integer('--limit', flags.limit, 1, 10_000_000),
    device: flags.device === undefined ? undefined : deviceId(flags.device),
    json,
  };
}
