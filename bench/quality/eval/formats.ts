// The formats of multiple-choice tasks as they are published, and what a model is asked of each record: the prompts of
// EleutherAI's lm-evaluation-harness (version 0.4), without examples before them (0-shot).

import { type Fields, RecordError } from './fields.js';

/** How likely is `text`, after `context` and one space? */
export interface Request {
  context: string;
  text: string;
}

/** One question: a request per choice, and which choice is right. */
export interface Example {
  requests: Request[];
  gold: number;
}

/** Where the answer stands: a field, and its values in the order of the choices. */
interface Answer {
  field: string;
  values: readonly string[];
}

interface Format {
  /** Fields that no other format has together. */
  fields: readonly string[];
  requests(record: Fields): Request[];
  /** A function where the record itself has to be looked at; else any of these. The first is also that of a labels file. */
  answer: ((record: Fields) => number) | readonly Answer[];
}

const each = (context: string, texts: readonly string[]): Request[] => texts.map((text) => ({ context, text }));
const texts = (record: Fields, ...names: string[]) => names.map((name) => record.text(name));

/** ARC as published has the choices inside the question, on Hugging Face beside it and as two lists. */
function arcQuestion(record: Fields): { stem: string; labels: string[]; texts: string[] } {
  const flat = record.isText('question');
  const question = flat ? record : record.object('question');
  const stem = question.text(flat ? 'question' : 'stem');
  if (!question.isList('choices')) {
    const lists = question.object('choices');
    const [labels, texts] = [lists.texts('label'), lists.texts('text')];
    if (labels.length !== texts.length)
      throw new RecordError(`'choices' has ${labels.length} labels for ${texts.length} texts`);
    return { stem, labels, texts };
  }
  const choices = question.objects('choices');
  return { stem, labels: choices.map((choice) => choice.label('label')), texts: choices.map((c) => c.text('text')) };
}

/** First letter large, the others small, as Python's str.capitalize. */
function capitalize(text: string): string {
  const [first = ''] = text;
  const [large = '', ...small] = first.toUpperCase(); // two letters for 'ß'
  const rest = text.toLowerCase().slice(first.toLowerCase().length);
  return large + small.join('').toLowerCase() + rest;
}

/** A line without what stands in brackets, each from a [ to the next ]; a pattern would look for the end of each [ anew. */
function withoutBrackets(line: string): string {
  let kept = '';
  let at = 0;
  for (;;) {
    const begin = line.indexOf('[', at);
    const end = begin < 0 ? -1 : line.indexOf(']', begin);
    if (end < 0) return kept + line.slice(at);
    kept += line.slice(at, begin);
    at = end + 1;
  }
}

/** Brackets are left over from WikiHow's pages. */
const cleanWikiHow = (text: string) =>
  text.trim().replaceAll(' [title]', '. ').split('\n').map(withoutBrackets).join('\n').replaceAll('  ', ' ');

export const FORMATS = {
  arc: {
    fields: ['question', 'answerKey'],
    requests(record) {
      const { stem, texts } = arcQuestion(record);
      return each(`Question: ${stem}\nAnswer:`, texts);
    },
    answer(record) {
      const key = record.label('answerKey');
      const { labels } = arcQuestion(record);
      const gold = labels.indexOf(key);
      if (gold < 0) throw new RecordError(`'answerKey' is '${key}', which is none of the choices ${labels.join(', ')}`);
      return gold;
    },
  },

  hellaswag: {
    fields: ['activity_label', 'ctx_a', 'endings'],
    requests(record) {
      const begun = record.has('ctx_b') ? record.text('ctx_b') : '';
      const context = `${record.text('activity_label')}: ${record.text('ctx_a')} ${capitalize(begun)}`;
      return each(cleanWikiHow(context), record.texts('endings').map(cleanWikiHow));
    },
    answer: [{ field: 'label', values: ['0', '1', '2', '3'] }],
  },

  piqa: {
    fields: ['goal', 'sol1', 'sol2'],
    requests: (record) => each(`Question: ${record.text('goal')}\nAnswer:`, texts(record, 'sol1', 'sol2')),
    answer: [{ field: 'label', values: ['0', '1'] }],
  },

  sciq: {
    fields: ['question', 'correct_answer', 'distractor1'],
    requests(record) {
      const support = record.has('support') ? record.text('support').trimStart() : '';
      const context = `${support}\nQuestion: ${record.text('question')}\nAnswer:`;
      return each(context, texts(record, 'distractor1', 'distractor2', 'distractor3', 'correct_answer'));
    },
    answer: () => 3,
  },

  socialiqa: {
    fields: ['context', 'question', 'answerA'],
    requests: (record) =>
      each(
        `Q: ${record.text('context')} ${record.text('question')}\nA:`,
        texts(record, 'answerA', 'answerB', 'answerC'),
      ),
    answer: [
      { field: 'label', values: ['1', '2', '3'] },
      { field: 'correct', values: ['A', 'B', 'C'] },
    ],
  },

  // Partial evaluation: each option goes into the blank, and what follows the blank is scored.
  winogrande: {
    fields: ['sentence', 'option1', 'option2'],
    requests(record) {
      const sentence = record.text('sentence');
      const blank = sentence.indexOf('_');
      if (blank < 0) throw new RecordError("'sentence' has no blank (_)");
      const text = sentence.slice(blank + 1).trim();
      return texts(record, 'option1', 'option2').map((option) => ({
        context: sentence.slice(0, blank) + option,
        text,
      }));
    },
    answer: [{ field: 'answer', values: ['1', '2'] }],
  },
} as const satisfies Record<string, Format>;

export type FormatName = keyof typeof FORMATS;
export const FORMAT_NAMES = Object.keys(FORMATS) as FormatName[];

const formatOf = (name: FormatName): Format => FORMATS[name];

/** The format that has all its fields in the record. */
export const detectFormat = (record: Fields): FormatName | undefined =>
  FORMAT_NAMES.find((name) => formatOf(name).fields.every((field) => record.names.includes(field)));

/** Whether answers of this format may stand in a file of their own. */
export const mayHaveLabels = (name: FormatName): boolean => typeof formatOf(name).answer !== 'function';

/** Whether the record holds its answer. */
export function isAnswered(name: FormatName, record: Fields): boolean {
  const { answer } = formatOf(name);
  return typeof answer === 'function' || answer.some(({ field }) => record.has(field));
}

/** `label`: the record's line of a labels file, which then counts instead of the record's own field. Throws RecordError. */
export function exampleOf(name: FormatName, record: Fields, label?: string): Example {
  const { requests: requestsOf, answer } = formatOf(name);
  const requests = requestsOf(record);
  // One token, a space, would be more likely than any words.
  const empty = requests.findIndex(({ text }) => text.trim() === '');
  if (empty >= 0) throw new RecordError(`choice ${empty + 1} of ${requests.length} is empty`);
  if (typeof answer === 'function') return { requests, gold: answer(record) };

  const { field, values } = answer.find(({ field }) => label === undefined && record.has(field)) ?? answer[0];
  const value = label ?? record.label(field);
  const allowed = values.slice(0, requests.length);
  const gold = allowed.indexOf(value);
  if (gold < 0) {
    const what = label === undefined ? `'${field}'` : 'the label';
    throw new RecordError(`${what} must be one of ${allowed.join(', ')}, got '${value}'`);
  }
  return { requests, gold };
}
