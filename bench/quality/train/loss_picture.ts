// The losses of a training as a picture.
import { basename, join } from 'node:path';
import type { TrainConfig } from '../../../lib/gpt/config.js';
import type { MetricsLog } from '../../../lib/gpt/metrics.js';
import type { LossCurve } from '../../charts/loss_chart.js';

const curvesOf = (log: MetricsLog): LossCurve[] =>
  log.attentions().map((attention) => ({
    name: attention,
    train: log.train(attention).map(({ step, loss }) => ({ step, loss })),
    validation: log.validation(attention).map(({ step, validationLoss }) => ({ step, loss: validationLoss })),
  }));

/** Writes loss.svg and loss.png. */
export async function writeLossPicture(
  out: string,
  log: MetricsLog,
  config: TrainConfig,
  text: string,
): Promise<string[]> {
  // The chart libraries take half a second to load: not for a --help or a misspelt option.
  const [{ lossChart }, { writePicture }] = await Promise.all([
    import('../../charts/loss_chart.js'),
    import('../../charts/render.js'),
  ]);
  const { width, layers, heads, seq, batch, steps, seed, dtype } = config;
  const spec = lossChart(curvesOf(log), {
    title: `Training a byte-level GPT on ${basename(text)}`,
    subtitle:
      `width ${width}, ${layers} layers, ${heads} heads, T = ${seq}, batch ${batch}, ` +
      `${steps} steps, seed ${seed}, ${dtype}`,
  });
  return writePicture(join(out, 'loss'), spec);
}
