/** The environment variables that the library reads: each is parsed here, and nowhere else. An empty one counts as not set. */
import { isAbsolute } from 'node:path';
import { binding } from './binding.js';
import { ArgumentError } from './errors.js';

/** What devices are opened with; what is absent has its default. */
export interface Settings {
  /** CPU: the instruction set. */
  readonly isa?: string;
  /** CPU: compute threads. */
  readonly threads?: number;
  /** Bytes that the tensors of a device may reserve. */
  readonly memoryLimit?: number;
  /** CUDA: products of f32 operands in TF32. */
  readonly tf32?: boolean;
  /** Fresh memory is filled with NaN (for tests). */
  readonly poison?: boolean;
  /** The first op that writes a number that is not finite is named. */
  readonly anomaly?: boolean;
  /** Where /proc and /sys are looked for, which say what a container may have (for tests). */
  readonly systemRoot?: string;
}

/** The value of a variable, or undefined where it is not set; `parse` gives undefined for a text that means nothing. */
function variable<T>(name: string, expected: string, parse: (text: string) => T | undefined): T | undefined {
  const text = process.env[name];
  if (!text) return undefined;
  const value = parse(text);
  if (value === undefined) throw new ArgumentError(`${name} is '${text}', expected ${expected}`);
  return value;
}

const within = (value: number, min: number, max: number): number | undefined =>
  value >= min && value <= max ? value : undefined;

/** A number of threads, in digits alone. */
const threads = (text: string): number | undefined => (/^\d+$/.test(text) ? within(Number(text), 1, 1024) : undefined);

const units = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

/** Bytes: digits and a binary unit, in either case, with or without a B. */
function size(text: string): number | undefined {
  const [, digits, unit = ''] = /^(\d+)([KMG]?)B?$/i.exec(text) ?? [];
  return within(Number(digits) * units[unit.toUpperCase() as keyof typeof units], 1, Number.MAX_SAFE_INTEGER);
}

const flag = (text: string): boolean | undefined => ({ '0': false, '1': true })[text];

/** The device that is used where none is named. */
export const namedDevice = (): string | undefined =>
  variable('SAS_DEVICE', 'cpu or cuda:0, cuda:1, ...', (text) => (/^(cpu|cuda:\d+)$/.test(text) ? text : undefined));

/** What devices that are opened now are opened with. */
export function settings(): Settings {
  const isas = binding.instructionSets();
  return {
    isa: variable('SAS_ISA', `one of ${isas.join(', ')} (what this build has)`, (text) =>
      isas.includes(text) ? text : undefined,
    ),
    threads: variable('SAS_THREADS', 'a number of threads from 1 to 1024', threads),
    memoryLimit: variable('SAS_MEMORY_LIMIT', 'bytes, or a number of k, M or G such as 512M or 8GB', size),
    tf32: variable('SAS_TF32', '0 or 1', flag),
    poison: variable('SAS_POISON', '0 or 1', flag),
    anomaly: variable('SAS_ANOMALY', '0 or 1', flag),
    systemRoot: variable('SAS_SYSTEM_ROOT', 'an absolute path', (text) => (isAbsolute(text) ? text : undefined)),
  };
}

/** Throws for a variable that means nothing. */
export function checkEnvironment(): void {
  namedDevice();
  settings();
}
