/** Command-line options, with a suggestion for what is misspelt. */
import { type ParseArgsConfig, parseArgs } from 'node:util';
import { UsageError } from '../failure.js';

type Flags = NonNullable<ParseArgsConfig['options']>;
type Values<F extends Flags> = ReturnType<
  typeof parseArgs<{ args: string[]; options: F; strict: true; allowPositionals: false }>
>['values'];

/** Letters to insert, drop, replace or swap with their neighbour until `a` is `b`. */
function distance(a: string, b: string): number {
  let [before, last] = [[] as number[], Array.from({ length: b.length + 1 }, (_, j) => j)];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const at = (list: readonly number[], k: number) => list[k] ?? Number.POSITIVE_INFINITY;
      const replaced = at(last, j - 1) + (a[i - 1] === b[j - 1] ? 0 : 1);
      const swapped = i > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1] ? at(before, j - 2) + 1 : replaced;
      row.push(Math.min(at(last, j) + 1, at(row, j - 1) + 1, replaced, swapped));
    }
    [before, last] = [last, row];
  }
  return last[b.length] ?? 0;
}

/** The candidate that was probably meant. */
export function closest(word: string, candidates: readonly string[]): string | undefined {
  const ranked = candidates.map((name) => ({ name, far: distance(word, name) })).sort((a, b) => a.far - b.far);
  const [best] = ranked;
  return best && best.far <= Math.max(1, Math.floor(word.length / 3)) ? best.name : undefined;
}

/** What to add to a message: what was probably meant, or nothing. */
export function suggestion(word: string, candidates: readonly string[]): string {
  const meant = closest(word, candidates);
  return meant === undefined ? '' : ` (did you mean '${meant}'?)`;
}

export function parseFlags<const F extends Flags>(args: readonly string[], options: F): Values<F> {
  try {
    return parseArgs({ args: [...args], options, strict: true, allowPositionals: false }).values as Values<F>;
  } catch (error) {
    // Node's own messages run over several lines of advice; the first sentence says what is wrong.
    const message = (error instanceof Error ? error.message : String(error)).split(/\.\s/)[0] ?? '';
    const [, unknown] = /^Unknown option '(--[^']*)'/.exec(message) ?? [];
    const names = Object.keys(options).map((name) => `--${name}`);
    throw new UsageError(`${message}${unknown ? suggestion(unknown, names) : ''}; --help lists the options`);
  }
}
