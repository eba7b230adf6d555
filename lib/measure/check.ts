/** Is the result right? Asked of every fused op, against its unfused twin, before it is timed. */
import type { Tensor } from '../index.js';
import { relativeError } from './relative_error.js';
import type { Subject } from './subject.js';

/** Results of an op by name, on the device; undefined: not among them. */
export type Results = Readonly<Record<string, Tensor | undefined>>;
/** Results on the host. */
export type Values = Readonly<Record<string, ArrayLike<number>>>;

export interface Check {
  actual(): Promise<Values>;
  /** May have more results than `actual`. */
  expected(): Promise<Values>;
  /** Largest relative L2 error of a result: loose, since the parity tests know the tight ones. */
  readonly limit: number;
}

export interface Outcome {
  /** The result that is furthest off. */
  readonly result: string;
  readonly error: number;
  readonly limit: number;
  readonly right: boolean;
}

/** The elements of tensors. */
export async function read(tensors: Results): Promise<Values> {
  const values: Record<string, ArrayLike<number>> = {};
  for (const [name, tensor] of Object.entries(tensors)) if (tensor) values[name] = await tensor.data();
  return values;
}

/** Runs `make`, reads what it returns and frees it. */
export async function run({ scope }: Pick<Subject, 'scope'>, make: () => Results): Promise<Values> {
  const results = scope(make);
  const values = await read(results);
  for (const tensor of Object.values(results)) tensor?.dispose();
  return values;
}

/** The worst result of all; a NaN is worse than any number. */
export async function verify({ actual, expected, limit }: Check): Promise<Outcome> {
  const truth = await expected();
  let worst: Outcome | undefined;
  for (const [result, values] of Object.entries(await actual())) {
    const error = relativeError(values, truth[result] ?? []);
    if (!worst || !(error <= worst.error)) worst = { result, error, limit, right: error <= limit };
    if (Number.isNaN(error)) break;
  }
  if (!worst) throw new Error('a check without results');
  return worst;
}

export const outcomeText = ({ result, error, limit, right }: Outcome): string =>
  `${right ? 'right' : 'WRONG'}: ${result} is off by ${error.toExponential(1)} (limit ${limit.toExponential(0)})`;
