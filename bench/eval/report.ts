/** The table at the end. */
import { textTable } from '../../lib/cli/text_table.js';
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
  return results.flatMap(({ task, cut, split }) => [
    ...(cut > 0
      ? [`${task}: ${cut} inputs are longer than the model's ${contextLength} tokens; their beginning was cut off.`]
      : []),
    ...(split > 0 ? [`${task}: ${split} choices alone are longer than that; they were scored in pieces.`] : []),
  ]);
}
