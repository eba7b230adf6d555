/** A fault that is planted in a file, and the tests that must find it. */

export interface Planted {
  readonly name: string;
  readonly file: string;
  /** Occurs once in the file; any white space stands for any. */
  readonly find: string;
  readonly replace: string;
  /** Each must fail: `FILE > PART OF THE NAMES`, or a file; `FILE|FILE` where tests are shared out among files. */
  readonly tests: readonly string[];
  /** Of the tests. */
  readonly environment?: Readonly<Record<string, string>>;
  /** Which addon the tests load, where the file does not say. */
  readonly addon?: Addon;
}

export interface Fault extends Planted {
  readonly area: string;
  readonly addon: Addon;
  /** What must be built anew. */
  readonly native: boolean;
}

/** Compiled for one instruction set, or with the CUDA backend on the emulated device. */
export type Addon = 'cpu' | 'emulated';

export const areaOf = (area: string, faults: readonly Planted[]): Fault[] =>
  faults.map((fault) => ({
    ...fault,
    name: `${area}/${fault.name}`,
    area,
    addon: fault.addon ?? (fault.file.startsWith('native/cuda/') ? 'emulated' : 'cpu'),
    native: fault.file.startsWith('native/'),
  }));

const escaped = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

/** The text with the fault; an error says why it does not fit. */
export function plant({ name, file, find, replace }: Planted, text: string): string {
  const pattern = new RegExp(find.trim().split(/\s+/).map(escaped).join('\\s+'), 'g');
  const places = text.match(pattern)?.length ?? 0;
  if (places !== 1) throw new Error(`${name}: ${file} has ${places} places like \`${find}\`, expected 1`);
  return text.replace(pattern, () => replace);
}

export interface NamedTests {
  readonly files: readonly string[];
  /** Part of the full names of its tests; '': all of them. */
  readonly part: string;
}

export function testsOf({ tests }: Planted): NamedTests[] {
  return tests.map((test) => {
    const [files = '', part = ''] = test.split(' > ');
    return { files: files.split('|'), part };
  });
}

/** Vitest's `-t` for any of these. */
export const patternOf = (tests: readonly NamedTests[]): string => tests.map(({ part }) => escaped(part)).join('|');
