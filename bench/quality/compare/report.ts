/** An experiment as a table with a picture, in words that follow from its numbers alone. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { textTable } from '../../../lib/cli/text_table.js';
import type { DeviceInfo } from '../../../lib/index.js';
import { bandChart } from '../../charts/band_chart.js';
import { writePicture } from '../../charts/render.js';
import { BASELINE, type Experiment, REFERENCE } from './options.js';
import { type Comparison, deviation, mean } from './results.js';

/** Bytes of an element of a cache, which is kept in 16 bits. */
const CACHE_BYTES = 2;

const whole = (value: number) => Math.round(value).toLocaleString('en-US');
const give = ({ mean, deviation }: { mean: number; deviation: number }, digits: number) =>
  Number.isNaN(deviation) ? mean.toFixed(digits) : `${mean.toFixed(digits)} ± ${deviation.toFixed(digits)}`;

const TITLES = [
  'attention',
  'parameters',
  'feed-forward',
  'validation loss',
  'perplexity',
  `steps to ${BASELINE}'s loss`,
  'tokens/s',
  'peak MB',
  'KV bytes/token',
];

function rows(comparisons: readonly Comparison[]): string[][] {
  return comparisons.map((c) => [
    c.attention,
    whole(c.parameters),
    whole(c.hidden),
    give(c.loss, 4),
    give(c.perplexity, 3),
    c.stepsToBaseline === null ? 'not reached' : whole(c.stepsToBaseline),
    whole(speedOf(c)),
    whole(Math.max(...c.runs.map(({ summary }) => summary.peakMemoryBytes)) / 1e6),
    whole(c.cachedElements * CACHE_BYTES),
  ]);
}

export const reportTable = (comparisons: readonly Comparison[]): string => textTable(TITLES, rows(comparisons), [0]);

/** Losses against another attention's, seed by seed: both have seen the same batches in the same order. */
function paired(a: Comparison, b: Comparison): string | null {
  const differences = a.runs.flatMap(({ run, summary }) => {
    const twin = b.runs.find((other) => other.run.seed === run.seed);
    return twin ? [summary.validationLoss - twin.summary.validationLoss] : [];
  });
  if (!differences.length) return null;
  const signed = (value: number) => `${value < 0 ? '-' : '+'}${Math.abs(value).toFixed(4)}`;
  const error = deviation(differences) / Math.sqrt(differences.length);
  const margin = Number.isNaN(error) ? '' : ` ± ${error.toFixed(4)} (standard error)`;
  const steps = b.attention === BASELINE ? atBaseline(a, b) : '';
  return `${a.attention} less ${b.attention}: ${signed(mean(differences))}${margin}, per seed ${differences.map(signed).join(', ')}${steps}.`;
}

/** When `a` has the final loss of `baseline`, in steps and, at the speeds that were measured, in time. */
function atBaseline(a: Comparison, baseline: Comparison): string {
  if (a.stepsToBaseline === null) return '';
  const share = a.stepsToBaseline / stepsOf(a);
  const time = (share * speedOf(baseline)) / speedOf(a);
  return `; ${a.attention} has ${baseline.attention}'s final loss after ${(100 * share).toFixed(0)}% of the steps, in ${time.toFixed(2)} times the time`;
}

const speedOf = ({ runs }: Comparison) => mean(runs.map(({ summary }) => summary.tokensPerSecond));

const stepsOf = ({ runs }: Comparison) => runs[0]?.run.config.steps ?? Number.NaN;

/** What the numbers say, the best first. */
export function findings(comparisons: readonly Comparison[]): string[] {
  const ranked = [...comparisons].sort((a, b) => a.loss.mean - b.loss.mean);
  const order = `By final validation loss, best first: ${ranked.map(({ attention }) => attention).join(', ')}.`;
  const reference = comparisons.find(({ attention }) => attention === REFERENCE);
  const others = comparisons.filter(({ attention }) => attention !== REFERENCE);
  return [order, ...(reference ? others.flatMap((other) => paired(reference, other) ?? []) : [])];
}

export interface ReportFacts {
  experiment: Experiment;
  device: DeviceInfo;
  /** Runs at a time. */
  jobs: number;
  comparisons: readonly Comparison[];
  /** Runs of the experiment that are not finished. */
  missing: number;
  date: string;
  commit: string;
}

function markdown({ experiment, device, jobs, comparisons, missing, date, commit }: ReportFacts): string {
  const { preset, seeds, config } = experiment;
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  const unit = config.tokenizer === 'bytes' ? 'byte' : 'token';
  return `# Attentions compared: ${preset}

The same GPT with each attention: ${config.layers} layers of ${config.width}, ${config.heads} heads, rotary positions, T = ${config.seq}, batch ${config.batch},
${config.steps} steps, peak learning rate ${config.lr}, ${config.dtype}; SAS: ${config.simHeads} simulated heads, ${config.simHeadDim} simulated features, kernel ${config.kernel}.
Text: ${config.text} (${config.tokenizer}), its last tenth for validation. Parameters are matched by the width inside the feed-forward layers;
the learning rate is the same for all, tuned for none.
${seeds} seed${seeds > 1 ? 's' : ''} each: of initial values and of the order of batches, which is the same for all attentions.
${device.name}${device.isa ? `, ${device.isa}` : ''}, ${device.id}, ${jobs} run${jobs > 1 ? 's' : ''} at a time, ${date}, commit ${commit}.
${missing > 0 ? `\n**${missing} run${missing > 1 ? 's are' : ' is'} missing.**\n` : ''}
![Validation loss](report.png)

${line(TITLES)}
${line(TITLES.map((_, i) => (i === 0 ? '---' : '---:')))}
${rows(comparisons).map(line).join('\n')}

Loss: nats per ${unit}, mean ± standard deviation over seeds. Steps: where the mean curve meets the final mean loss of ${BASELINE}. Tokens per second
and peak memory: of one run beside the others. KV bytes: what a decoder keeps per token in all layers, in 16 bits.

${findings(comparisons)
  .map((finding) => `- ${finding}`)
  .join('\n')}
`;
}

/** Every validation and summary of every run, one JSON object per line. */
function jsonLines(comparisons: readonly Comparison[]): string {
  const lines = comparisons.flatMap(({ attention, runs }) =>
    runs.flatMap(({ run: { seed }, validation, summary }) => [
      ...validation.map(({ step, loss }) => ({ attention, seed, step, validationLoss: loss })),
      { attention, seed, summary },
    ]),
  );
  return lines.map((line) => `${JSON.stringify(line)}\n`).join('');
}

/** Writes report.md, its picture, and runs.jsonl; returns the files. */
export async function writeReport(out: string, facts: ReportFacts): Promise<string[]> {
  const { experiment, comparisons } = facts;
  const { preset, seeds, config } = experiment;
  const files = { 'report.md': markdown(facts), 'runs.jsonl': jsonLines(comparisons) };
  for (const [name, content] of Object.entries(files)) writeFileSync(join(out, name), content);
  const curves = comparisons.map(({ attention, curve, loss }) => ({
    name: `${attention}: ${loss.mean.toFixed(3)}`,
    curve,
  }));
  const pictures = await writePicture(
    join(out, 'report'),
    bandChart(curves, {
      title: `The same GPT with each attention, matched parameters (${preset})`,
      subtitle: [
        `${config.text}, ${config.layers} layers of ${config.width}, T = ${config.seq}, batch ${config.batch}, ${config.steps} steps, ${config.dtype}`,
        seeds > 1 ? `line: mean of ${seeds} seeds; band: lowest to highest` : 'one seed',
      ],
      yTitle: `validation loss (nats per ${config.tokenizer === 'bytes' ? 'byte' : 'token'})`,
    }),
  );
  return [...Object.keys(files).map((name) => join(out, name)), ...pictures];
}
