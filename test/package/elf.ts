// What a shared library asks of the system that loads it, by binutils.
import { execFileSync } from 'node:child_process';

const run = (command: string, args: readonly string[]) => execFileSync(command, args, { encoding: 'utf8' });

const parts = (version: string) => version.split('.').map(Number);

/** The order of dotted version numbers. */
export function compareVersions(a: string, b: string): number {
  const [left, right] = [parts(a), parts(b)];
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const difference = (left[i] ?? 0) - (right[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

export interface Requirements {
  exported: string[];
  needed: string[];
  /** The newest version asked of each family: GLIBC, GLIBCXX, CXXABI, GCC. */
  floors: Record<string, string>;
  /** The symbols that ask for it. */
  because: Record<string, string[]>;
}

export function requirements(file: string): Requirements {
  const exported = run('nm', ['-D', '--defined-only', file]).match(/\S+$/gm) ?? [];
  const needed = [...run('readelf', ['-d', file]).matchAll(/NEEDED.*\[(.*)\]/g)].map((match) => match[1] ?? '');
  const floors: Record<string, string> = {};
  const because: Record<string, string[]> = {};
  for (const [, symbol = '', family = '', version = ''] of run('nm', ['-D', '--undefined-only', file]).matchAll(
    /(\S+)@([A-Z]+)_([\d.]+)$/gm,
  )) {
    const order = compareVersions(version, floors[family] ?? '0');
    if (order > 0) because[family] = [];
    if (order >= 0) {
      floors[family] = version;
      because[family]?.push(symbol);
    }
  }
  return { exported: exported.sort(), needed: needed.sort(), floors, because };
}
