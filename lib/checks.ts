/**
 * The vocabulary in which the ops say what they expect. Each check takes the op and the argument by name first, and throws
 * `op: argument is this, expected that (because)`; a check of a plain value returns it, one of a shape returns its sizes.
 */
import { type DType, dtypes } from './dtype.js';
import { ArgumentError, DTypeError, ShapeError } from './errors.js';

/** What the checks read of a tensor. */
interface Described {
  readonly shape: readonly number[];
  readonly dtype: DType;
}

/** A size that is fixed (number), any size under a name, or, in front, '...': any number of leading sizes. */
type Pattern = readonly (number | string)[];

/** Bounds of a number: `min` and `max` are allowed themselves, `above` and `below` are not. */
interface Bounds {
  readonly min?: number;
  readonly max?: number;
  readonly above?: number;
  readonly below?: number;
}

/** The most dimensions a tensor may have. */
export const MAX_RANK = 8;
/** Tensors are smaller than this many bytes, so that no size or offset is ever inexact. */
const MAX_BYTES = 2 ** 48;

/** Part of a message: a name, or why something is expected. A function where putting it together takes time: most are never read. */
export type Text = string | (() => string);

export const text = (part: Text): string => (typeof part === 'string' ? part : part());

/** The number of elements of a shape; 1 for []. */
export function elements(shape: readonly number[]): number {
  let product = 1;
  for (const size of shape) product *= size;
  return product;
}

/** A shape as it stands in messages: [2, 64, Hkv, 96]. What is no size is described. */
export const show = (shape: Pattern): string =>
  `[${Array.from(shape, (size: unknown) => (typeof size === 'object' ? describe(size) : String(size))).join(', ')}]`;

/** A wrong value as it stands in messages, in one line. */
export function describe(value: unknown): string {
  if (typeof value === 'string') return `'${value.replace(/\p{Cc}/gu, (c) => JSON.stringify(c).slice(1, -1))}'`;
  if (Array.isArray(value)) return 'an array';
  if (typeof value === 'function') return 'a function';
  if (typeof value !== 'object' || value === null) return String(value);
  const name: unknown = value.constructor?.name;
  return typeof name === 'string' && name !== 'Object' ? `a ${name}` : 'an object';
}

/** An object literal, of whatever realm: above it is nothing, or the root of its realm's objects. */
export function isPlain(value: object): value is Readonly<Record<string, unknown>> {
  if (Array.isArray(value)) return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** The shape of another operand as the reason. */
export const because =
  (name: string, { shape }: Described) =>
  (): string =>
    `${name} has shape ${show(shape)}`;

function why(reason: Text): string {
  const written = text(reason);
  return written ? ` (${written})` : '';
}

/**
 * The call has no arguments beyond the `most` that are declared; `given` is its `arguments.length`. Returns the op's name.
 * Every public function begins with it: an argument that nobody reads is a mistake of the caller.
 */
export function call(op: string, given: number, most: number): string {
  if (given > most) throw new ArgumentError(`${op}: the call has ${given} arguments, expected at most ${most}`);
  return op;
}

/**
 * The tensor has the expected sizes, all of them at least 1. Returns its sizes, in the order of the pattern; the leading
 * sizes under '...' come as one product.
 */
export function shape<const P extends Pattern>(
  op: string,
  name: Text,
  tensor: Described,
  expected: P,
  reason: Text = '',
): { -readonly [I in keyof P]: number } {
  const dims = tensor.shape;
  const open = expected[0] === '...' ? 1 : 0;
  const lead = dims.length - expected.length + open;
  let fits = open ? lead >= 0 : lead === 0;
  let sizes = dims;
  if (open && fits) {
    const joined = [1];
    for (let i = 0; i < dims.length; i++) {
      if (i < lead) (joined[0] as number) *= dims[i] as number;
      else joined.push(dims[i] as number);
    }
    sizes = joined;
  }
  let positive = true;
  for (let i = 0; i < sizes.length; i++) {
    const size = sizes[i] as number;
    const wanted = expected[i];
    if (size !== wanted && typeof wanted !== 'string') fits = false;
    if (size < 1) positive = false;
  }
  if (!fits || !positive) {
    const rule = fits ? ' with every size at least 1' : '';
    throw new ShapeError(
      `${op}: ${text(name)} has shape ${show(tensor.shape)}, expected ${show(expected)}${rule}${why(reason)}`,
    );
  }
  return sizes as { -readonly [I in keyof P]: number };
}

/** `size` is a multiple of `divisor`; `name` says what it is the size of. */
export function multiple(op: string, name: string, size: number, divisor: number, reason: Text): number {
  if (size % divisor !== 0) {
    throw new ShapeError(`${op}: ${name} is ${size}, expected a multiple of ${divisor}${why(reason)}`);
  }
  return size;
}

/** `size` is odd. */
export function odd(op: string, name: string, size: number, reason: Text): number {
  if (size % 2 !== 1) throw new ShapeError(`${op}: ${name} is ${size}, expected an odd number${why(reason)}`);
  return size;
}

/** The tensor's dtype is the allowed one, or one of those allowed. */
export function dtype(
  op: string,
  name: Text,
  tensor: Described,
  allowed: DType | readonly DType[],
  reason: Text = '',
): DType {
  if (tensor.dtype !== allowed && !(typeof allowed === 'object' && allowed.includes(tensor.dtype))) {
    const list = [allowed].flat().join(', ');
    throw new DTypeError(`${op}: ${text(name)} has dtype ${tensor.dtype}, expected ${list}${why(reason)}`);
  }
  return tensor.dtype;
}

/** The value is the name of a dtype, one of those allowed. */
export function dtypeName(
  op: string,
  name: string,
  value: unknown,
  allowed: readonly string[] = Object.keys(dtypes),
): DType {
  if (!allowed.includes(value as string)) {
    throw new DTypeError(`${op}: ${name} is ${describe(value)}, expected ${allowed.join(', ')}`);
  }
  return value as DType;
}

/** The value is an exact integer within the bounds. */
export function integer(op: string, name: string, value: unknown, bounds: Bounds = {}): number {
  if (!Number.isSafeInteger(value) || !within(value as number, bounds)) {
    throw new ArgumentError(`${op}: ${name} is ${describe(value)}, expected an integer${limits(bounds)}`);
  }
  return value as number;
}

/** The value is a finite number within the bounds, and stays so as f32, which is what kernels compute in. */
export function finite(op: string, name: string, value: unknown, bounds: Bounds = {}): number {
  const number = value as number;
  const stored = Math.fround(Number.isFinite(value) ? number : Number.NaN);
  if (!Number.isFinite(stored) || !within(number, bounds) || !within(stored, bounds)) {
    const reason = Number.isFinite(value) && within(number, bounds) ? `in f32 it is ${stored}` : '';
    const given = describe(value);
    throw new ArgumentError(`${op}: ${name} is ${given}, expected a finite number${limits(bounds)}${why(reason)}`);
  }
  return number;
}

function within(value: number, { min, max, above, below }: Bounds): boolean {
  return !(
    (min !== undefined && value < min) ||
    (max !== undefined && value > max) ||
    (above !== undefined && value <= above) ||
    (below !== undefined && value >= below)
  );
}

function limits({ min, max, above, below }: Bounds): string {
  const parts = [
    min === undefined ? '' : `at least ${min}`,
    max === undefined ? '' : `at most ${max}`,
    above === undefined ? '' : `above ${above}`,
    below === undefined ? '' : `below ${below}`,
  ].filter(Boolean);
  return parts.length ? ` ${parts.join(' and ')}` : '';
}

/** The value is true or false. */
export function boolean(op: string, name: string, value: unknown): boolean {
  if (typeof value !== 'boolean') {
    throw new ArgumentError(`${op}: ${name} is ${describe(value)}, expected true or false`);
  }
  return value;
}

/** The value is one of the words. */
export function oneOf<W extends string>(op: string, name: string, value: unknown, words: readonly W[]): W {
  if (!words.includes(value as W)) {
    const list = words.map((word) => `'${word}'`).join(' or ');
    throw new ArgumentError(`${op}: ${name} is ${describe(value)}, expected ${list}`);
  }
  return value as W;
}

/** The value is an object. */
export function object<T extends object>(op: string, name: Text, value: T): T {
  if (typeof value !== 'object' || value === null) {
    throw new ArgumentError(`${op}: ${text(name)} is ${describe(value)}, expected an object`);
  }
  return value;
}

/** The first key of a plain object that is not known. */
function stranger(op: string, name: Text, value: object, known: readonly string[]): string | undefined {
  if (!isPlain(object(op, name, value))) {
    throw new ArgumentError(
      `${op}: ${text(name)} is ${describe(value)}, expected a plain object (known: ${known.join(', ')})`,
    );
  }
  return Object.keys(value).find((key) => !known.includes(key));
}

/** The value is a record, such as the tensors that a backward op takes, without a key that is not known. */
export function record<T extends object>(op: string, name: Text, value: T, known: readonly (keyof T & string)[]): T {
  const unknown = stranger(op, name, value, known);
  if (unknown !== undefined) {
    throw new ArgumentError(`${op}: ${text(name)} has the key '${unknown}', expected only ${known.join(', ')}`);
  }
  return value;
}

/** The value is a list of at least one entry. Returns a copy without holes. */
export function list<T>(op: string, name: string, value: readonly T[]): readonly T[] {
  if (!Array.isArray(value) || value.length === 0) {
    const given = Array.isArray(value) ? 'empty' : describe(value);
    throw new ArgumentError(`${op}: ${name} is ${given}, expected an array of at least one`);
  }
  return Array.from(value);
}

/** The value is an iterable of pairs of a name and what goes by it, such as a Map. Returns them. */
export function entries<T>(op: string, name: string, value: Iterable<readonly [string, T]>): (readonly [string, T])[] {
  const refuse = (given: string) =>
    new ArgumentError(`${op}: ${name} is ${given}, expected pairs of a name and an entry, as a Map has them`);
  const isIterable = typeof value === 'object' && value !== null && Symbol.iterator in value;
  if (!isIterable || ArrayBuffer.isView(value)) throw refuse(describe(value));
  const pairs: unknown[] = [...value];
  const wrong = pairs.findIndex((pair) => !Array.isArray(pair) || typeof pair[0] !== 'string');
  if (wrong >= 0) throw refuse(`${describe(value)} with ${describe(pairs[wrong])} at ${wrong}`);
  return pairs as (readonly [string, T])[];
}

/** The options given, none by default, without a name that is not known. `within` is the option that they are the value of. */
export function options<T extends object>(
  op: string,
  given: T | undefined,
  known: readonly (keyof T & string)[],
  within = '',
): T {
  const checked = given === undefined ? ({} as T) : given;
  const unknown = stranger(op, within || 'options', checked, known);
  if (unknown !== undefined) {
    const path = within && `${within}.`;
    const names = known.map((name) => path + name).join(', ');
    throw new ArgumentError(`${op}: there is no option '${path}${unknown}'; known: ${names}`);
  }
  return checked;
}

/** The value is a shape that a tensor of that dtype can have. Returns a frozen copy. */
export function sizes(op: string, value: readonly number[], type: DType): readonly number[] {
  if (!Array.isArray(value)) throw new ArgumentError(`${op}: shape is ${describe(value)}, expected an array of sizes`);
  const copy: readonly number[] = Object.freeze([...value]);
  if (copy.length > MAX_RANK) {
    throw new ShapeError(`${op}: shape ${show(copy)} has ${copy.length} sizes, expected at most ${MAX_RANK}`);
  }
  if (!copy.every((size) => Number.isSafeInteger(size) && size >= 0)) {
    throw new ShapeError(`${op}: shape is ${show(copy)}, expected integers of at least 0`);
  }
  bytes(op, copy, type);
  return copy;
}

/** A tensor of that shape has fewer bytes than no device has. */
export function bytes(op: string, shape: readonly number[], type: DType): void {
  if (elements(shape) * dtypes[type].bytes >= MAX_BYTES) {
    throw new ShapeError(`${op}: shape ${show(shape)} of ${type} is too large, expected fewer than 2^48 bytes`);
  }
}

/** There are as many elements as the shape says. */
export function count(op: string, name: string, length: number, wanted: readonly number[]): void {
  if (length !== elements(wanted)) {
    throw new ShapeError(`${op}: ${name} has ${length} elements, expected ${elements(wanted)} (shape ${show(wanted)})`);
  }
}
