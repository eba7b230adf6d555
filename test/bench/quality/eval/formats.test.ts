// Prompts, choices and answers of each format, written out by hand as the harness makes them from the same records.
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { FORMAT_NAMES } from '../../../../bench/quality/eval/formats.js';
import { readTask, type TaskOptions } from '../../../../bench/quality/eval/task.js';
import { UsageError } from '../../../../lib/failure.js';
import { Random } from '../../../../lib/gpt/random.js';
import { sample } from './model.js';

const asked = (context: string, texts: readonly string[]) => texts.map((text) => ({ context, text }));

const arc = [
  {
    requests: asked('Question: Which of these floats on water?\nAnswer:', [
      'an iron nail',
      'a cork',
      'a pebble',
      'a coin',
    ]),
    gold: 1,
  },
  { requests: asked('Question: What does a lamp give off?\nAnswer:', ['light', 'rain', 'soil']), gold: 0 },
  { requests: asked('Question: Where does a café serve drinks?\nAnswer:', ['à table', 'in a 井戸']), gold: 0 },
];

const expected = {
  'arc.jsonl': { format: 'arc', examples: arc },
  'arc_lists.jsonl': { format: 'arc', examples: arc },
  'hellaswag.jsonl': {
    format: 'hellaswag',
    examples: [
      {
        requests: asked('Mending a fence: A farmer carries planks to a field. She', [
          'eats the planks for lunch.',
          'sails away on a plank.',
          'nails the planks to the posts.',
          'paints the sky blue.',
        ]),
        gold: 2,
      },
      {
        requests: asked('Home and Garden: How to water a fern. Find a can. Any can will do.', [
          ' Fill it with water.',
          'Throw it away.. Leave.',
          'Put the fern in an oven.',
          'Sing to the can.',
        ]),
        gold: 0,
      },
    ],
  },
  'piqa.jsonl': {
    format: 'piqa',
    examples: [
      {
        requests: asked('Question: To keep soup warm,\nAnswer:', ['pour it into a flask.', 'pour it into a net.']),
        gold: 0,
      },
      { requests: asked('Question: To sweep a floor,\nAnswer:', ['use a spoon.', 'use a broom.']), gold: 1 },
      {
        requests: asked('Question: To dry a shirt,\nAnswer:', ['hang it on a line in the sun.', 'put it into a pond.']),
        gold: 0,
      },
    ],
  },
  'sciq.json': {
    format: 'sciq',
    examples: [
      {
        requests: asked(
          'Bees gather nectar and turn it into honey.\nQuestion: What do bees make from nectar?\nAnswer:',
          ['salt', 'wax paper', 'silk', 'honey'],
        ),
        gold: 3,
      },
      {
        requests: asked('\nQuestion: What pulls a dropped stone down?\nAnswer:', [
          'sound',
          'colour',
          'steam',
          'gravity',
        ]),
        gold: 3,
      },
    ],
  },
  'socialiqa.jsonl': {
    format: 'socialiqa',
    examples: [
      {
        requests: asked('Q: Robin lent Kim an umbrella. How would Kim feel?\nA:', ['angry', 'thankful', 'seasick']),
        gold: 1,
      },
      {
        requests: asked('Q: Kim forgot the keys at home. What will Kim do next?\nA:', [
          'go back',
          'fly',
          'melt the door',
        ]),
        gold: 0,
      },
    ],
  },
  'winogrande.jsonl': {
    format: 'winogrande',
    examples: [
      {
        requests: [
          { context: 'The jug did not fit into the basket because the jug', text: 'was too small.' },
          { context: 'The jug did not fit into the basket because the basket', text: 'was too small.' },
        ],
        gold: 1,
      },
      {
        requests: [
          { context: 'Robin thanked Kim for the help, so Kim', text: 'smiled.' },
          { context: 'Robin thanked Kim for the help, so Robin', text: 'smiled.' },
        ],
        gold: 0,
      },
    ],
  },
};

test.each(Object.entries(expected))('%s', (name, { format, examples }) => {
  const file = sample(name);
  expect(readTask(file)).toEqual({ file, format, examples });
  expect(readTask(file, { limit: 1 }).examples).toEqual(examples.slice(0, 1));
});

test('every format has a sample', () => {
  expect(new Set(Object.values(expected).map(({ format }) => format))).toEqual(new Set(FORMAT_NAMES));
});

const folder = mkdtempSync(join(tmpdir(), 'sas-eval-'));
const file = (name: string, content: string | Uint8Array) => {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
};
const lines = (...records: unknown[]) => records.map((record) => `${JSON.stringify(record)}\n`).join('');

const piqa = { goal: 'To boil an egg,', sol1: 'heat water.', sol2: 'cool water.' };
const social = { context: 'Kim ran.', question: 'Why?', answerA: 'a', answerB: 'b', answerC: 'c' };
const gap = { sentence: 'A _ b', option1: 'x', option2: 'y' };

describe('answers', () => {
  const goldOf = (record: object, options?: TaskOptions) =>
    readTask(file('answers.jsonl', lines(record)), options).examples[0].gold;

  test.each([
    ['a number in the record', { ...piqa, label: 1 }, 1],
    ['a text in the record', { ...social, label: '3' }, 2],
    ['the letter of a choice', { ...social, correct: 'C' }, 2],
    ['one of two fields, the other empty', { ...social, label: '', correct: 'B' }, 1],
    ['a number for a letter', { ...gap, answer: 2 }, 1],
  ])('%s', (_, record, gold) => {
    expect(goldOf(record)).toBe(gold);
  });

  test('a file of labels counts before the record', () => {
    expect(goldOf({ ...piqa, label: 1 }, { labels: file('other.lst', '0\n') })).toBe(0);
  });

  test('labels of a test set without answers, empty lines aside', () => {
    file('blank-labels.lst', '2\r\n\n1\n\n');
    const task = readTask(file('blank.jsonl', lines({ ...gap, answer: '' }, { ...gap, answer: '' })));
    expect(task.examples.map(({ gold }) => gold)).toEqual([1, 0]);
  });
});

test('a byte order mark and blank lines are no records', () => {
  const text = `\uFEFF\n${lines({ ...piqa, label: 0 })}\n\n`;
  expect(readTask(file('marked.jsonl', text)).examples.length).toBe(1);
});

test('a forced format asks for its own fields', () => {
  expect(() => readTask(sample('piqa.jsonl'), { format: 'arc' })).toThrow(
    new UsageError(`${sample('piqa.jsonl')}:1: 'question' is missing`),
  );
});

test('capital letters as in Python: the first large, the others small', () => {
  const record = { activity_label: 'L', ctx_a: 'A.', endings: ['e'], label: 0 };
  const context = (ctx_b: string) =>
    readTask(file('capital.jsonl', lines({ ...record, ctx_b }))).examples[0].requests[0].context;
  expect(context('the DOG')).toBe('L: A. The dog');
  expect(context('élan')).toBe('L: A. Élan');
  expect(context('ßa')).toBe('L: A. Ssa');
  expect(context('ΟΔΟΣ')).toBe('L: A. Οδος');
});

test('brackets: as the pattern of the harness takes them out, in a time that grows with the text', () => {
  const context = (ctx_a: string) =>
    readTask(file('brackets.jsonl', lines({ activity_label: 'L', ctx_a, ctx_b: '', endings: ['e'], label: 0 })))
      .examples[0].requests[0].context;
  const random = Random.seeded(11, 'brackets');
  for (let i = 0; i < 500; i++) {
    const text = Array.from({ length: 12 }, () => 'ab[]\n'[random.below(5)]).join('');
    const expected = `L: x${text}x`.replaceAll(/\[[^\n]*?\]/g, '');
    expect(context(`x${text}x`), JSON.stringify(text)).toBe(expected);
  }
  const begun = performance.now();
  expect(context('['.repeat(1_000_000)).length).toBeGreaterThan(1_000_000);
  expect(performance.now() - begun).toBeLessThan(10_000); // a pattern took minutes
});

test('what is no regular file is refused', () => {
  expect(() => readTask('/dev/zero')).toThrow(new UsageError("--task '/dev/zero': it is not a regular file"));
  expect(() => readTask(folder)).toThrow(new UsageError(`--task '${folder}': it is not a regular file`));
});

describe('refused', () => {
  const arcRecord = {
    question: { stem: 's', choices: [{ text: 'x', label: 'A' }] },
    answerKey: 'A',
  };
  const good = { ...piqa, label: 0 };
  test.each([
    ['an empty file', '', ': it has no records$'],
    ['an empty array', '[]', ': it has no records$'],
    ['no JSON', `${lines(good)}\n{"goal": \n`, ':3: not JSON \\('],
    ['a record that is no object', `${lines(good)}5\n`, ':2: a record must be an object$'],
    [
      'a record of the array that is no object',
      JSON.stringify([good, null]),
      ': record 2: a record must be an object$',
    ],
    [
      'fields of no format',
      lines({ prompt: 'p', reply: 'r' }),
      'no format has the fields .*\\(prompt, reply\\); --format',
    ],
    ['a missing field', lines(good, { ...good, sol2: undefined }), ":2: 'sol2' is missing$"],
    ['a field of another type', lines({ ...good, sol2: 2 }), ":1: 'sol2' must be a text$"],
    ['a wrong label', lines(good, { ...good, label: 2 }), ":2: 'label' must be one of 0, 1, got '2'$"],
    ['the label of a test set', lines({ ...good, label: -1 }), ":1: 'label' must be one of 0, 1, got '-1'$"],
    ['a label that is a list', lines({ ...good, label: [0] }), ":1: 'label' must be a text or a number$"],
    ['a wrong letter', lines({ ...social, correct: 'D' }), ":1: 'correct' must be one of A, B, C, got 'D'$"],
    ['a wrong key', lines({ ...arcRecord, answerKey: 'B' }), ":1: 'answerKey' is 'B', which is none of the choices A$"],
    ['no choices', lines({ ...arcRecord, question: { stem: 's', choices: [] } }), ":1: 'choices' must be a list that"],
    [
      'lists of labels and texts that do not match',
      lines({ question: 's', choices: { label: ['A', 'B'], text: ['x'] }, answerKey: 'B' }),
      ":1: 'choices' has 2 labels for 1 texts$",
    ],
    [
      'a choice that is no object',
      lines({ ...arcRecord, question: { stem: 's', choices: ['x'] } }),
      ":1: 'choices\\[0\\]' must be an object$",
    ],
    [
      'a label beyond the endings',
      lines({ activity_label: 'L', ctx_a: 'A', ctx_b: '', endings: ['x', 'y'], label: 2 }),
      ":1: 'label' must be one of 0, 1, got '2'$",
    ],
    [
      'an ending that is no text',
      lines({ activity_label: 'L', ctx_a: 'A', ctx_b: '', endings: ['x', 1], label: 0 }),
      ":1: 'endings' must be a list of texts$",
    ],
    [
      'a sentence without a blank',
      lines({ ...gap, sentence: 'A b', answer: '1' }),
      ":1: 'sentence' has no blank \\(_\\)$",
    ],
    ['an empty choice', lines({ ...piqa, sol2: '', label: 0 }), ':1: choice 2 of 2 is empty$'],
    ['a choice of blanks', lines({ ...social, answerA: ' \n', correct: 'B' }), ':1: choice 1 of 3 is empty$'],
    [
      'an ending that is nothing but brackets',
      lines({ activity_label: 'L', ctx_a: 'A', ctx_b: '', endings: ['[step][title]', 'y'], label: 1 }),
      ':1: choice 1 of 2 is empty$',
    ],
    ['nothing behind the blank', lines({ ...gap, sentence: 'A _', answer: '1' }), ':1: choice 1 of 2 is empty$'],
    ['no labels anywhere', lines(piqa), ":1: no answer in the record, and no file '.*refused-labels.lst'; --labels"],
    ['bytes that are no UTF-8', Uint8Array.of(0x7b, 0xff, 0x7d), ': it is not UTF-8 text$'],
  ])('%s', (_, content, message) => {
    const path = file('refused.jsonl', content);
    const read = () => readTask(path);
    expect(read).toThrow(UsageError);
    expect(read).toThrow(new RegExp(`^(?:--task ')?${path}.*${message}`));
  });

  test('a file that is not there', () => {
    expect(() => readTask(join(folder, 'no.jsonl'))).toThrow(
      new UsageError(`--task '${folder}/no.jsonl': no such file`),
    );
  });

  test('labels that do not fit', () => {
    const path = file('two.jsonl', lines(piqa, piqa));
    const labels = (text: string) => () => readTask(path, { labels: file('some.lst', text) });
    expect(labels('0\n')).toThrow(`--labels '${folder}/some.lst': 1 labels for the 2 records of '${path}'`);
    expect(labels('0\n\n5\n')).toThrow(new UsageError(`${folder}/some.lst:3: the label must be one of 0, 1, got '5'`));
    expect(() => readTask(path, { labels: join(folder, 'no.lst') })).toThrow(
      `--labels '${folder}/no.lst': no such file`,
    );
    expect(() => readTask(sample('arc.jsonl'), { labels: join(folder, 'some.lst') })).toThrow(
      'records of format arc hold their own answers',
    );
  });
});
