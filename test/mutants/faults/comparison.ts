import type { Planted } from '../fault.js';

const REPORT = 'test/bench/quality/compare/report.test.ts';
const PLAN = 'test/bench/quality/compare/plan.test.ts';
const TIMING = 'test/bench/speed/timing.test.ts';
const AGAINST = 'test/bench/speed/against.test.ts';
const CPU = 'test/bench/speed/cpu.test.ts';

/** The comparison of attentions, and the timer of the benchmarks. */
export const COMPARISON: readonly Planted[] = [
  {
    name: 'columns swapped',
    file: 'bench/quality/compare/report.ts',
    find: 'whole(c.parameters), whole(c.hidden),',
    replace: 'whole(c.hidden), whole(c.parameters),',
    tests: [`${REPORT} > has every number in its column`],
  },
  {
    name: 'titles swapped',
    file: 'bench/quality/compare/report.ts',
    find: "'tokens/s', 'peak MB',",
    replace: "'peak MB', 'tokens/s',",
    tests: [`${REPORT} > has every number in its column`],
  },
  {
    name: 'standard error over n',
    file: 'bench/quality/compare/report.ts',
    find: 'deviation(differences) / Math.sqrt(differences.length)',
    replace: 'deviation(differences) / differences.length',
    tests: [`${REPORT} > pairs runs by their seed`],
  },
  {
    name: 'pairing by position',
    file: 'bench/quality/compare/report.ts',
    find: 'a.runs.flatMap(({ run, summary }) => { const twin = b.runs.find((other) => other.run.seed === run.seed);',
    replace: 'a.runs.flatMap(({ summary }, i) => { const twin = b.runs[i];',
    tests: [`${REPORT} > pairs runs by their seed`],
  },
  {
    name: 'difference turned round',
    file: 'bench/quality/compare/report.ts',
    find: 'summary.validationLoss - twin.summary.validationLoss',
    replace: 'twin.summary.validationLoss - summary.validationLoss',
    tests: [`${REPORT} > pairs runs by their seed`],
  },
  {
    name: 'time ratio turned round',
    file: 'bench/quality/compare/report.ts',
    find: '(share * speedOf(baseline)) / speedOf(a)',
    replace: '(share * speedOf(a)) / speedOf(baseline)',
    tests: [`${REPORT} > pairs runs by their seed`],
  },
  {
    name: 'the worst first',
    file: 'bench/quality/compare/report.ts',
    find: 'a.loss.mean - b.loss.mean',
    replace: 'b.loss.mean - a.loss.mean',
    tests: [`${REPORT} > pairs runs by their seed`],
  },
  {
    name: 'least memory instead of most',
    file: 'bench/quality/compare/report.ts',
    find: 'Math.max(...c.runs.map(',
    replace: 'Math.min(...c.runs.map(',
    tests: [`${REPORT} > has every number in its column`],
  },
  {
    name: 'deviation over n',
    file: 'bench/quality/compare/results.ts',
    find: '/ (values.length - 1))',
    replace: '/ values.length)',
    tests: [`${PLAN} > spread over seeds`, REPORT],
  },
  {
    name: 'perplexity of the mean',
    file: 'bench/quality/compare/results.ts',
    find: 'perplexity: spread(losses.map(Math.exp))',
    replace: 'perplexity: spread([Math.exp(mean(losses))])',
    tests: [`${REPORT} > has every number in its column`],
  },
  {
    name: 'curve of the first seed',
    file: 'bench/quality/compare/results.ts',
    find: 'loss: mean(losses), low:',
    replace: 'loss: losses[0] ?? 0, low:',
    tests: [`${PLAN} > curves are means`],
  },
  {
    name: 'crossing without interpolation',
    file: 'bench/quality/compare/results.ts',
    find: 'if (!from) return to.step;',
    replace: 'if (!from || loss >= to.loss) return to.step;',
    tests: [`${PLAN} > where a curve meets a loss`],
  },
  {
    name: 'feed-forward width rounded down',
    file: 'bench/quality/compare/plan.ts',
    find: 'Math.round((wanted - fixed) / perHidden)',
    replace: 'Math.floor((wanted - fixed) / perHidden)',
    tests: [`${PLAN} > matches parameters to half`],
  },
  {
    name: 'every seed the first',
    file: 'bench/quality/compare/plan.ts',
    find: 'config: { ...experiment.config, attentions: [attention], seed, hidden }',
    replace: 'config: { ...experiment.config, attentions: [attention], seed: 0, hidden }',
    tests: [`${PLAN} > trains every attention with every seed`],
  },
  {
    name: 'timing quantile of the neighbour below',
    file: 'lib/measure/timing.ts',
    find: 'const position = q * (sorted.length - 1);',
    replace: 'const position = Math.floor(q * (sorted.length - 1));',
    tests: [`${TIMING} > spread has the median`],
  },
  {
    name: 'timing quantile one too far',
    file: 'lib/measure/timing.ts',
    find: 'const position = q * (sorted.length - 1);',
    replace: 'const position = q * sorted.length;',
    tests: [`${TIMING} > spread`],
  },
  {
    name: 'values unsorted',
    file: 'lib/measure/timing.ts',
    find: '[...values].sort((a, b) => a - b)',
    replace: '[...values]',
    tests: [`${TIMING} > spread has the median`],
  },
  {
    name: 'time of all runs as that of one',
    file: 'lib/measure/timing.ts',
    find: '/ 1000 / repeats',
    replace: '/ 1000',
    tests: [`${TIMING} > a sample is the time of one of several runs`],
  },
  {
    name: 'timer does not wait',
    file: 'lib/measure/timing.ts',
    find: '} await device.synchronize();',
    replace: '} if (repeats < 0) await device.synchronize();',
    tests: [`${TIMING} > a sample`],
  },
  {
    name: 'one candidate after the other',
    file: 'lib/measure/timing.ts',
    find: 'turns[i]?.push(await takeTurn(candidate, repeats[i] ?? 1, device));',
    replace: 'turns[i]?.push(await takeTurn(candidates[0] ?? candidate, repeats[i] ?? 1, device));',
    tests: [`${TIMING} > a sample is taken in turns`],
  },
  {
    name: 'both checkouts at work at once',
    file: 'bench/speed/cpu/against.ts',
    find: 'const other = await ask(sides.other); return { other, own: await ask(sides.own) };',
    replace: 'const [other, own] = await Promise.all([ask(sides.other), ask(sides.own)]); return { other, own };',
    tests: [`${AGAINST} > take turns`],
  },
  {
    name: 'all samples of one checkout, then all of the other',
    file: 'bench/speed/cpu/against.ts',
    find: `for (let sample = 0; sample < samples; ++sample) {
      for (const i of own.contestants.keys()) {`,
    replace: `for (const i of own.contestants.keys()) {
      for (let sample = 0; sample < samples; ++sample) {`,
    tests: [`${AGAINST} > take turns`],
  },
  {
    name: 'ratio of medians for the median of ratios',
    file: 'bench/speed/cpu/against.ts',
    find: 'turns.other[i]?.[s]?.seconds ?? Number.NaN',
    replace: 'spread((turns.other[i] ?? []).map((turn) => turn.seconds + 0 * s)).median',
    tests: [`${AGAINST} > are compared by the ratios`],
  },
  {
    name: 'this checkout on both sides',
    file: 'bench/speed/cpu/checkout.ts',
    find: 'await import(pathToFileURL(join(folder, file)).href)',
    replace: "await import(new URL('../../../'.concat(file), import.meta.url).href)",
    tests: [`${AGAINST} > measures the other checkout's own source`],
  },
  {
    name: "this checkout's scope for the other's tensors",
    file: 'lib/measure/share_cases.ts',
    find: "import type { Tensor } from '../index.js';",
    replace: "import { type Tensor, scope } from '../index.js'; export const mixed = scope;",
    tests: [`${AGAINST} > loads nothing of this checkout`],
  },
  {
    name: "this checkout's addon on both sides",
    file: 'bench/speed/cpu/side.ts',
    find: 'const env = { ...process.env, SAS_BINDING: addon,',
    replace: "const env = { ...process.env, SAS_BINDING: process.cwd().concat(addon.slice(addon.indexOf('/build/'))),",
    tests: [`${AGAINST} > measures the other checkout's own source`],
  },
  {
    name: 'feed-forward width of the models not counted',
    file: 'lib/measure/step_cases.ts',
    find: 'const hidden = config.hidden ?? 4 * width;',
    replace: 'const hidden = 4 * width;',
    tests: [`${CPU} > have the FLOPs of a SAS step`],
  },
  {
    name: 'other columns swapped',
    file: 'bench/speed/cpu/against.ts',
    find: "cell: ({ other }) => (other ? show(other.value.median, unitOf(other.unit)) : ''),",
    replace: "cell: ({ other, value, unit }) => (other ? show(value.median, unitOf(unit)) : ''),",
    tests: [`${AGAINST} > the report has both values`],
  },
];
