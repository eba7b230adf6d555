// Variations of a right call that no function of the library may take, whatever it does: found by the arguments alone.
import { isPlain } from '../../lib/checks.js';

type Arguments = readonly unknown[];
export type Variation = readonly [what: string, args: unknown[]];

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && isPlain(value);

/** `value` with one thing changed, at each place at which `change` changes something. */
export function* changed(
  value: unknown,
  change: (part: unknown) => unknown[],
  path = '',
): Generator<[string, unknown]> {
  for (const part of change(value)) yield [path, part];
  const items: [string | number, unknown][] = Array.isArray(value)
    ? [...value.entries()]
    : isRecord(value)
      ? Object.entries(value)
      : [];
  for (const [key, item] of items) {
    for (const [at, part] of changed(item, change, `${path}.${key}`)) {
      yield [at, Array.isArray(value) ? value.with(key as number, part) : { ...(value as object), [key]: part }];
    }
  }
}

const at = (args: Arguments, i: number, value: unknown): unknown[] => Object.assign([...args], { [i]: value });

/** One argument more than the function declares, which are `most`. */
export const oneTooMany = (args: Arguments, most: number): Variation => [
  'one argument too many',
  at(args, most, args[0]),
];

/** A key that nobody knows, in each record, and in place of each argument that was left out. */
export function strangers(args: Arguments, most: number): Variation[] {
  const stranger = { stranger: 1 };
  const all = Array.from({ length: most }, (_, i) => args[i]);
  return all.flatMap((value, i) => {
    if (value === undefined) return [['options of a stranger', at(args, i, stranger)]] satisfies Variation[];
    const places = [...changed(value, (part) => (isRecord(part) ? [{ ...part, ...stranger }] : []))];
    return places.map(([path, part]): Variation => [`a stranger in argument ${i}${path}`, at(args, i, part)]);
  });
}

/** Numbers that f32 has not: in place of each number, and in place of each option that is known, given or not. */
export function beyondF32(args: Arguments, most: number, refusalOf: (args: unknown[]) => string): Variation[] {
  const numbers = args.flatMap((value, i) =>
    [...changed(value, (part) => (typeof part === 'number' ? [1e39, -1e39] : []))].map(
      ([path, part]): Variation => [`${1e39} in argument ${i}${path}`, at(args, i, part)],
    ),
  );
  const options = strangers(args, most).flatMap(([, strange]) => {
    const [, names = ''] = /(?:known: |expected only )(.*?)\)?$/.exec(refusalOf(strange)) ?? [];
    return names
      .split(', ')
      .filter(Boolean)
      .flatMap((path) => strange.flatMap((value, i) => withOption(args, i, value, path.split('.').at(-1) as string)));
  });
  return [...numbers, ...options];
}

/** Beside where the stranger stands in `value`, that option as a number that f32 has not. */
function withOption(args: Arguments, i: number, value: unknown, option: string): Variation[] {
  const replaced = (part: unknown): unknown[] => {
    if (!isRecord(part) || !('stranger' in part)) return [];
    const { stranger: _, ...others } = part;
    return [1e39, -1e39].map((number) => ({ ...others, [option]: number }));
  };
  return [...changed(value, replaced)].map(([path, part]) => [`${1e39} as ${path}.${option}`, at(args, i, part)]);
}
