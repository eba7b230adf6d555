/** A task file, and the file of labels that some tasks have beside it, as questions to a model. */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { UsageError } from '../../../lib/failure.js';
import { Fields, RecordError } from './fields.js';
import {
  detectFormat,
  type Example,
  exampleOf,
  FORMAT_NAMES,
  type FormatName,
  isAnswered,
  mayHaveLabels,
} from './formats.js';

export interface Task {
  file: string;
  format: FormatName;
  examples: Example[];
}

export interface TaskOptions {
  /** Without it, the first record decides. */
  format?: FormatName;
  /** One answer per line, in the order of the records. Without it, `NAME-labels.lst` beside NAME.jsonl where records hold none. */
  labels?: string;
  /** Questions to keep, from the first. */
  limit?: number;
}

/** What a string holds in any case. */
const MAX_TASK_BYTES = 2 ** 28;

interface Item {
  /** `file:line`, for errors. */
  where: string;
  text: string;
}

function readText(option: string, file: string): string {
  let bytes: Uint8Array;
  try {
    const stats = statSync(file);
    if (!stats.isFile()) throw new UsageError(`${option} '${file}': it is not a regular file`);
    if (stats.size > MAX_TASK_BYTES) {
      throw new UsageError(`${option} '${file}': it has ${stats.size} bytes, expected at most ${MAX_TASK_BYTES}`);
    }
    bytes = readFileSync(file);
  } catch (error) {
    if (error instanceof UsageError) throw error;
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    const reason = code === 'ENOENT' ? 'no such file' : `it cannot be read (${String(code ?? error)})`;
    throw new UsageError(`${option} '${file}': ${reason}`);
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new UsageError(`${option} '${file}': it is not UTF-8 text`);
  }
}

/** Lines that are not blank. */
const linesOf = (file: string, text: string): Item[] =>
  text
    .split('\n')
    .map((line, i) => ({ where: `${file}:${i + 1}`, text: line.trim() }))
    .filter((line) => line.text !== '');

function parseJson(where: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UsageError(`${where}: not JSON (${error instanceof Error ? error.message : error})`);
  }
}

/** Runs what may throw RecordError, and says where. */
function at<R>(where: string, body: () => R): R {
  try {
    return body();
  } catch (error) {
    throw error instanceof RecordError ? new UsageError(`${where}: ${error.message}`) : error;
  }
}

interface Entry {
  where: string;
  record: Fields;
}

/** JSON lines, or one JSON array. */
function readRecords(file: string): Entry[] {
  const text = readText('--task', file);
  const whole = text.trimStart().startsWith('[') ? parseJson(file, text) : undefined;
  const values = Array.isArray(whole)
    ? whole.map((value: unknown, i) => ({ where: `${file}: record ${i + 1}`, value }))
    : linesOf(file, text).map(({ where, text }) => ({ where, value: parseJson(where, text) }));
  return values.map(({ where, value }) => ({ where, record: at(where, () => Fields.of(value, 'a record')) }));
}

function detect(file: string, first: Fields): FormatName {
  const format = detectFormat(first);
  if (format !== undefined) return format;
  const known = FORMAT_NAMES.join(', ');
  throw new UsageError(
    `--task '${file}': no format has the fields of its first record (${first.names.join(', ')}); --format forces one of ${known}`,
  );
}

/** The labels that belong to the records, undefined where the records hold their own. */
function readLabels(file: string, format: FormatName, entries: readonly Entry[], given?: string): Item[] | undefined {
  if (given !== undefined && !mayHaveLabels(format)) {
    throw new UsageError(`--labels '${given}': records of format ${format} hold their own answers`);
  }
  const [first] = entries;
  if (given === undefined && isAnswered(format, first.record)) return undefined;
  const labelsFile = given ?? `${file.replace(/\.jsonl?$/, '')}-labels.lst`;
  if (given === undefined && !existsSync(labelsFile)) {
    throw new UsageError(`${first.where}: no answer in the record, and no file '${labelsFile}'; --labels names one`);
  }
  const labels = linesOf(labelsFile, readText('--labels', labelsFile));
  if (labels.length !== entries.length) {
    throw new UsageError(
      `--labels '${labelsFile}': ${labels.length} labels for the ${entries.length} records of '${file}'`,
    );
  }
  return labels;
}

/** Throws UsageError that names the file and the line. */
export function readTask(file: string, options: TaskOptions = {}): Task {
  const entries = readRecords(file);
  if (entries.length === 0) throw new UsageError(`--task '${file}': it has no records`);
  const format = options.format ?? detect(file, entries[0].record);
  const labels = readLabels(file, format, entries, options.labels);
  const examples = entries.slice(0, options.limit).map(({ where, record }, i) => {
    const label = labels?.[i];
    return at(label?.where ?? where, () => exampleOf(format, record, label?.text));
  });
  return { file, format, examples };
}
