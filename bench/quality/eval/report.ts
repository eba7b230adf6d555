/** The table at the end. */
import { textTable } from '../../../lib/cli/text_table.js';
import type { FormatName } from './formats.js';
import type { Accuracy, Score } from './score.js';

export interface Result extends Score {
  /** The task's file. */
  task: string;
  format: FormatName;
}

const share = ({ value, stderr }: Accuracy) => `${value.toFixed(4)} ± ${stderr === null ? '-' : stderr.toFixed(4)}`;

export function resultTable(results: readonly Result[]): string {
  const rows = results.map(({ task, format, n, acc, accNorm }) => [
    task,
    format,
    String(n),
    share(acc),
    share(accNorm),
  ]);
  return textTable(['task', 'format', 'n', 'acc', 'acc_norm'], rows, [0, 1]);
}

/** What a reader of the table must know: a short window makes a task another one. */
export function windowNotes(results: readonly Result[], contextLength: number): string[] {
  const longer = `longer than the model's ${contextLength} tokens`;
  return results.flatMap(({ task, cut, split }) => [
    ...(cut > 0 ? [`${task}: inputs ${longer}, whose beginning was cut off: ${cut}`] : []),
    ...(split > 0 ? [`${task}: choices ${longer}, which were scored in pieces: ${split}`] : []),
  ]);
}
