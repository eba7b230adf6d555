/** What remains of a training: the table at the end. */

import type { MetricsLog } from '../../gpt/metrics.js';
import { textTable } from '../text_table.js';

const integer = (value: number) => Math.round(value).toLocaleString('en-US');

export function summaryTable(log: MetricsLog): string {
  const titles = [
    'attention',
    'parameters',
    'steps',
    'train loss',
    'validation loss',
    'perplexity',
    'tokens/s',
    'peak MB',
  ];
  const rows = log
    .summaries()
    .map(({ attention, summary: s }) => [
      attention,
      integer(s.parameters),
      integer(s.steps),
      s.trainLoss.toFixed(4),
      s.validationLoss.toFixed(4),
      s.perplexity.toFixed(3),
      integer(s.tokensPerSecond),
      (s.peakMemoryBytes / 1e6).toFixed(1),
    ]);
  return textTable(titles, rows, [0]);
}
