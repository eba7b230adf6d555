import type { Planted } from '../fault.js';

const SCORE = 'test/bench/quality/eval/score.test.ts';

/** Multiple choice by log-likelihood. */
export const EVALUATION: readonly Planted[] = [
  {
    name: 'window keeps its beginning',
    file: 'bench/quality/eval/score.ts',
    find: 'tokens.slice(Math.max(0, to - contextLength - 1), to)',
    replace: 'tokens.slice(Math.max(0, to - contextLength), to)',
    tests: [`${SCORE} > agrees with the slow computation`],
  },
  {
    name: 'logits of the next position',
    file: 'bench/quality/eval/score.ts',
    find: '(row * length + i - 1) * model.vocabulary',
    replace: '(row * length + i) * model.vocabulary',
    tests: [`${SCORE} > agrees with the slow computation`],
  },
  {
    name: 'one token of the context scored',
    file: 'bench/quality/eval/score.ts',
    find: 'let i = tokens.length - scored;',
    replace: 'let i = Math.max(1, tokens.length - scored - 1);',
    tests: [`${SCORE} > agrees with the slow computation`],
  },
  {
    name: 'the last of equal values',
    file: 'bench/quality/eval/score.ts',
    find: 'values.indexOf(Math.max(...values))',
    replace: 'values.lastIndexOf(Math.max(...values))',
    tests: [SCORE],
  },
  {
    name: 'bytes instead of characters',
    file: 'bench/quality/eval/score.ts',
    find: '[...text].length',
    replace: 'Buffer.byteLength(text)',
    tests: [SCORE],
  },
  {
    name: 'standard error over n',
    file: 'bench/quality/eval/score.ts',
    find: '(value * (1 - value)) / (n - 1)',
    replace: '(value * (1 - value)) / n',
    tests: [SCORE],
  },
  {
    name: 'labels one line late',
    file: 'bench/quality/eval/task.ts',
    find: 'const label = labels?.[i];',
    replace: 'const label = labels?.[(i + 1) % labels.length];',
    tests: ['test/bench/quality/eval/formats.test.ts'],
  },
];
