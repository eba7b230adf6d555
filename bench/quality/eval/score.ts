// Multiple choice by log-likelihood, with the rules of EleutherAI's lm-evaluation-harness: which tokens are scored, what
// is cut off, what counts as right, and the standard error.

import { Failure } from '../../../lib/failure.js';
import type { Example, Request } from './formats.js';

export interface LanguageModel {
  /** Most tokens of one input (T). */
  readonly contextLength: number;
  readonly vocabulary: number;
  /** Token that stands where a context is empty: what separates texts in training. */
  readonly boundary: number;
  encode(text: string): number[];
  /** tokens [N,T] of inputs of `length` T -> logits [N,T,V]. A position must not see those after it: inputs are padded on the right. */
  logits(tokens: Int32Array, length: number): Promise<Float32Array>;
}

export interface ScoreOptions {
  /** Inputs per call of the model. */
  batch: number;
  /** Called after each batch with the number of inputs that are done, of all. */
  onProgress?(done: number, total: number): void;
}

/** Consecutive tokens, of which the last `scored` are scored; the last of all is never an input. */
interface Window {
  tokens: number[];
  scored: number;
}

/** The tokens of a request; those from `start` on are scored. White space at the end of the context counts to what follows. */
function tokensOf(model: LanguageModel, { context, text }: Request): { tokens: number[]; start: number } {
  const before = model.encode(context.trimEnd()).length;
  const tokens = model.encode(`${context} ${text}`);
  return before > 0 ? { tokens, start: before } : { tokens: [model.boundary, ...tokens], start: 1 };
}

/**
 * One window with as much context as fits, cut off on the left. The harness refuses a continuation that is longer than the
 * window; here it is scored in pieces of half a window, each after what precedes it.
 */
function windowsOf(tokens: readonly number[], start: number, contextLength: number): Window[] {
  const count = tokens.length - start;
  const piece = count <= contextLength ? count : Math.ceil(contextLength / 2);
  const windows: Window[] = [];
  for (let from = start; from < tokens.length; from += piece) {
    const to = Math.min(from + piece, tokens.length);
    windows.push({ tokens: tokens.slice(Math.max(0, to - contextLength - 1), to), scored: to - from });
  }
  return windows;
}

/** ln softmax(logits)[target], in float64. */
function logSoftmaxAt(logits: Float32Array, target: number): number {
  let max = Number.NEGATIVE_INFINITY;
  for (const logit of logits) max = Math.max(max, logit);
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - max);
  return logits[target] - max - Math.log(sum);
}

/** Log-likelihood of each window's scored tokens. */
async function scoreBatch(model: LanguageModel, windows: readonly Window[]): Promise<number[]> {
  const length = Math.max(...windows.map(({ tokens }) => tokens.length - 1));
  const inputs = new Int32Array(windows.length * length);
  windows.forEach(({ tokens }, row) => {
    inputs.set(tokens.slice(0, -1), row * length);
  });
  const logits = await model.logits(inputs, length);
  return windows.map(({ tokens, scored }, row) => {
    let sum = 0;
    for (let i = tokens.length - scored; i < tokens.length; i++) {
      const begin = (row * length + i - 1) * model.vocabulary;
      sum += logSoftmaxAt(logits.subarray(begin, begin + model.vocabulary), tokens[i]);
    }
    if (!Number.isFinite(sum)) throw new Failure(`the model gives a log-likelihood of ${sum}`);
    return sum;
  });
}

export interface Likelihoods {
  /** Natural logarithms, in the order of the requests. */
  values: number[];
  /** Requests that lost the beginning of their context. */
  cut: number;
  /** Requests whose continuation was scored in pieces. */
  split: number;
}

/** Log-likelihood of each request's text. Equal requests get equal values, whatever batch they would have been in. */
export async function logLikelihoods(
  model: LanguageModel,
  requests: readonly Request[],
  { batch, onProgress }: ScoreOptions,
): Promise<Likelihoods> {
  const { contextLength } = model;
  const unique = new Map<string, { window: Window; value: number }>();
  let cut = 0;
  let split = 0;
  const parts = requests.map((request) => {
    const { tokens, start } = tokensOf(model, request);
    const windows = windowsOf(tokens, start, contextLength);
    if (tokens.length > contextLength + 1) cut++;
    if (windows.length > 1) split++;
    return windows.map((window) => {
      const key = `${window.scored}:${window.tokens}`;
      const entry = unique.get(key) ?? { window, value: Number.NaN };
      unique.set(key, entry);
      return entry;
    });
  });

  // The longest first: little padding, and memory that does not suffice shows at once.
  const entries = [...unique.values()].sort((a, b) => b.window.tokens.length - a.window.tokens.length);
  for (let first = 0; first < entries.length; first += batch) {
    const some = entries.slice(first, first + batch);
    const values = await scoreBatch(
      model,
      some.map(({ window }) => window),
    );
    some.forEach((entry, i) => {
      entry.value = values[i];
    });
    onProgress?.(first + some.length, entries.length);
  }
  return { values: parts.map((own) => own.reduce((sum, { value }) => sum + value, 0)), cut, split };
}

/** Index of the largest value, the first of equal ones. */
const argmax = (values: readonly number[]) => values.indexOf(Math.max(...values));

/** Characters, as Python counts them: code points. */
const lengthOf = (text: string) => [...text].length;

/** Share of questions answered right, and the standard error of that share. */
export interface Accuracy {
  value: number;
  /** sqrt(p (1 - p) / (n - 1)); null for a single question. */
  stderr: number | null;
}

export interface Score {
  n: number;
  /** The choice of the highest log-likelihood. */
  acc: Accuracy;
  /** The choice of the highest log-likelihood per character of the choice. */
  accNorm: Accuracy;
  cut: number;
  split: number;
}

function accuracy(right: readonly boolean[]): Accuracy {
  const n = right.length;
  const value = right.filter(Boolean).length / n;
  return { value, stderr: n > 1 ? Math.sqrt((value * (1 - value)) / (n - 1)) : null };
}

export async function score(model: LanguageModel, examples: readonly Example[], options: ScoreOptions): Promise<Score> {
  const requests = examples.flatMap((example) => example.requests);
  const { values, cut, split } = await logLikelihoods(model, requests, options);
  let next = 0;
  const answered = examples.map(({ requests, gold }) => {
    const own = values.slice(next, next + requests.length);
    next += requests.length;
    // Nothing divided by no characters: as in the harness, an empty choice is never the best.
    const perCharacter = own.map((value, i) => value / lengthOf(requests[i].text));
    return { acc: argmax(own) === gold, accNorm: argmax(perCharacter) === gold };
  });
  return {
    n: examples.length,
    acc: accuracy(answered.map(({ acc }) => acc)),
    accNorm: accuracy(answered.map(({ accNorm }) => accNorm)),
    cut,
    split,
  };
}
