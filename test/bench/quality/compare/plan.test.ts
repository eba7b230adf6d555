import { describe, expect, it, test } from 'vitest';
import { PRESETS, parseCompare, REFERENCE } from '../../../../bench/quality/compare/options.js';
import { modelFacts, plannedRuns } from '../../../../bench/quality/compare/plan.js';
import { compare, crossing, deviation, type RunResult } from '../../../../bench/quality/compare/results.js';
import { encoderOf, textOf } from '../../../../bench/quality/texts.js';
import { ATTENTIONS } from '../../../../lib/gpt/config.js';
import { Gpt } from '../../../../lib/gpt/model.js';
import { modelConfig } from '../../../../lib/gpt/run.js';
import { getDevice } from '../../../../lib/index.js';

const device = getDevice('cpu');
const optionsOf = (...args: string[]) => {
  const options = parseCompare(args);
  if (!options) throw new Error('no help was asked for');
  return options;
};

describe('options', () => {
  test('of a preset, with changes', () => {
    const { experiment, out, shard } = optionsOf(
      '--steps',
      '7',
      '--attention',
      'sas,mha',
      '--shard',
      '2/3',
      '--text',
      'sotu',
    );
    expect(experiment).toMatchObject({ preset: 'tiny', attentions: ['sas', 'mha'], seeds: 3 });
    expect(experiment.config).toMatchObject({ steps: 7, text: 'sotu', width: PRESETS.tiny.width, positions: 'rope' });
    expect([out, shard]).toEqual(['out/compare-tiny', { index: 2, count: 3 }]);
  });

  test.each([
    [['--preset', 'huge'], "--preset must be one of tiny, small, paper-125m, got 'huge'"],
    [['--attention', 'mha,sass'], '--attention must be one of mha, mqa, gqa,'],
    [['--attention', 'mha,mha'], "--attention names one attention twice: 'mha,mha'"],
    [['--seeds', '0'], "--seeds must be an integer from 1 to 10000000, got '0'"],
    [['--lr', '0'], "--lr must be a number above 0 and at most 10, got '0'"],
    [['--shard', '4/3'], "--shard must be I/N with I from 1 to N, got '4/3'"],
    [['--shard', 'x'], "--shard must be I/N with I from 1 to N, got 'x'"],
    [['--device', 'gpu'], "--device must be cpu or cuda:N, got 'gpu'"],
    [['--step', '4'], "Unknown option '--step'"],
  ])('%j is refused', (args, message) => {
    expect(() => parseCompare(args)).toThrow(message);
  });
});

describe('plan', () => {
  const { experiment } = optionsOf('--attention', ATTENTIONS.join(','));
  const facts = modelFacts(experiment, device);

  test.each(facts)('$attention has the parameters that it is said to have', ({ attention, hidden, parameters }) => {
    const config = { ...experiment.config, attentions: [], seed: 0, hidden };
    const model = new Gpt(modelConfig(config, attention), device);
    expect(model.parameterCount).toBe(parameters);
    model.dispose();
  });

  it('matches parameters to half of what one unit of width adds', () => {
    const { layers, width } = experiment.config;
    const reference = facts.find(({ attention }) => attention === REFERENCE)?.parameters ?? Number.NaN;
    for (const { attention, parameters } of facts) {
      expect(Math.abs(parameters - reference), attention).toBeLessThanOrEqual((layers * (2 * width + 1)) / 2);
    }
    expect(facts.find(({ attention }) => attention === REFERENCE)?.hidden).toBe(4 * width);
  });

  it('trains every attention with every seed, each in a folder of its own', () => {
    const runs = plannedRuns(experiment, facts, 'out');
    expect(runs).toHaveLength(ATTENTIONS.length * 3);
    expect(new Set(runs.map(({ folder }) => folder)).size).toBe(runs.length);
    expect(runs.map(({ seed }) => seed)).toEqual([0, 1, 2].flatMap((seed) => ATTENTIONS.map(() => seed)));
    for (const { attention, seed, config } of runs) {
      expect(config).toMatchObject({ attentions: [attention], seed });
      expect(config.hidden).toBe(facts.find((model) => model.attention === attention)?.hidden);
    }
  });

  it('knows what a decoder keeps', () => {
    const cached = Object.fromEntries(facts.map(({ attention, cachedElements }) => [attention, cachedElements]));
    const { layers, width, simHeads, simHeadDim, heads } = experiment.config;
    const headDim = width / heads;
    expect(cached).toMatchObject({
      mha: layers * 2 * width,
      mqa: layers * 2 * headDim,
      gqa: layers * 4 * headDim,
      tpa: layers * 4 * (heads + headDim),
      mfa: layers * 4 * headDim,
      sas: layers * simHeads * (simHeadDim + headDim),
    });
  });
});

describe('results', () => {
  test('where a curve meets a loss', () => {
    const curve = [
      { step: 100, loss: 3 },
      { step: 200, loss: 2 },
      { step: 300, loss: 1.5 },
    ];
    expect(crossing(curve, 2.5)).toBe(150);
    expect(crossing(curve, 1.6)).toBe(280);
    expect(crossing(curve, 3.5)).toBe(100);
    expect(crossing(curve, 1)).toBeNull();
    expect(crossing(curve, Number.NaN)).toBeNull();
  });

  test('spread over seeds', () => {
    expect(deviation([1, 2, 3])).toBeCloseTo(1, 12);
    expect(deviation([5])).toBeNaN();
  });

  test('curves are means where all seeds have a value', () => {
    const { experiment } = optionsOf('--attention', 'mha,sas', '--seeds', '2');
    const facts = modelFacts(experiment, device);
    const losses: Record<string, number[][]> = { 'mha-0': [[3, 2]], 'mha-1': [[4, 2.2]], 'sas-0': [[2.5, 1.8]] };
    const results = plannedRuns(experiment, facts, '').flatMap((run): RunResult[] => {
      const [values] = losses[run.folder] ?? [];
      if (!values) return [];
      const validation = values.map((loss, i) => ({ step: 100 * (i + 1), loss }));
      const summary = { validationLoss: values[1] } as RunResult['summary'];
      return [{ run, validation, summary }];
    });
    const [mha, sas] = compare(facts, results);
    expect(mha?.curve).toEqual([
      { step: 100, loss: 3.5, low: 3, high: 4 },
      { step: 200, loss: 2.1, low: 2, high: 2.2 },
    ]);
    expect(mha?.loss.mean).toBeCloseTo(2.1, 12);
    expect(mha?.perplexity.mean).toBeCloseTo((Math.exp(2) + Math.exp(2.2)) / 2, 12);
    expect(sas?.stepsToBaseline).toBe(157);
  });
});

describe('texts', () => {
  test.each(['moby-dick', 'sotu'])('%s is there', async (name) => {
    expect((await (await textOf(name)).read()).length).toBeGreaterThan(1e6);
  });

  test('byte pairs of GPT-2, special tokens being text', async () => {
    const encode = await encoderOf('r50k');
    expect([...encode(Buffer.from('Hello world<|endoftext|>'))]).toEqual([15496, 995, 27, 91, 437, 1659, 5239, 91, 29]);
  });
});
