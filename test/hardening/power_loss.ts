/**
 * A disk that keeps only what it must. Until a file is flushed, any of its writes may be lost, come in any order, or be torn: of
 * each sector what was there, what was written, or zeros. Until a folder is flushed, any of the changes of its names may be lost.
 * A file's content and its names are independent: flushing the one promises nothing of the other.
 */
import { basename } from 'node:path';
import { Draw } from './draw.js';

/** A call that succeeded. */
export type FileCall =
  | { kind: 'open'; file: number; path: string; how: string }
  | { kind: 'write'; file: number; at: number; bytes: Buffer }
  | { kind: 'cut'; file: number; size: number }
  | { kind: 'sync'; file: number }
  | { kind: 'close'; file: number }
  | { kind: 'rename'; from: string; to: string }
  | { kind: 'link'; from: string; to: string }
  | { kind: 'unlink'; path: string }
  | { kind: 'other' };

/** Files by their names, before an operation and after it, and the calls between. */
export interface Recorded {
  before: ReadonlyMap<string, Buffer>;
  after: ReadonlyMap<string, Buffer>;
  calls: readonly FileCall[];
}

/** Of file_faults.cc. */
export function parseTrace(text: string): FileCall[] {
  return text
    .split('\n')
    .filter(Boolean)
    .map((line): FileCall => {
      const [kind, ...words] = line.split(' ') as [string, ...string[]];
      const [first = '', second = '', third = ''] = words;
      const file = Number(first);
      switch (kind) {
        case 'open':
          return { kind, file, how: second, path: third };
        case 'write':
          return { kind, file, at: Number(second), bytes: Buffer.from(third, 'hex') };
        case 'cut':
          return { kind, file, size: Number(second) };
        case 'sync':
        case 'close':
          return { kind, file };
        case 'rename':
        case 'link':
          return { kind, from: first, to: second };
        case 'unlink':
          return { kind, path: first };
        default:
          return { kind: 'other' };
      }
    });
}

type Change = { at: number; bytes: Buffer } | { size: number };

/** A file, whatever its names: what is on the disk for certain, and what may be. */
interface Inode {
  flushed: Buffer;
  pending: Change[];
}

/** A name that gets a file, or none. */
type Naming = readonly [name: string, inode: Inode | undefined];

const SECTOR = 512;

/** The disk after some of the calls: one folder's names, and open files. */
class Disk {
  /** As the process sees them. */
  private readonly names = new Map<string, Inode>();
  private readonly flushed = new Map<string, Inode>();
  private pending: Naming[][] = [];
  /** By descriptor; null: the folder itself. */
  private readonly open = new Map<number, Inode | null>();

  constructor(files: ReadonlyMap<string, Buffer>) {
    for (const [name, data] of files) this.names.set(name, { flushed: data, pending: [] });
    for (const [name, inode] of this.names) this.flushed.set(name, inode);
  }

  do(call: FileCall): void {
    switch (call.kind) {
      case 'open': {
        const name = basename(call.path);
        let inode = this.names.get(name) ?? null;
        if (!inode && call.how === 'create') {
          inode = { flushed: Buffer.alloc(0), pending: [] };
          this.change([[name, inode]]);
        }
        if (call.how === 'truncate') inode?.pending.push({ size: 0 });
        this.open.set(call.file, inode);
        break;
      }
      case 'write':
        this.open.get(call.file)?.pending.push({ at: call.at, bytes: call.bytes });
        break;
      case 'cut':
        this.open.get(call.file)?.pending.push({ size: call.size });
        break;
      case 'sync': {
        const inode = this.open.get(call.file);
        if (inode) {
          inode.flushed = inode.pending.reduce(apply, inode.flushed);
          inode.pending = [];
        } else if (inode === null) {
          for (const naming of this.pending.flat()) name(this.flushed, naming);
          this.pending = [];
        }
        break;
      }
      case 'rename':
        this.change([
          [basename(call.to), this.names.get(basename(call.from))],
          [basename(call.from), undefined],
        ]);
        break;
      case 'link':
        this.change([[basename(call.to), this.names.get(basename(call.from))]]);
        break;
      case 'unlink':
        this.change([[basename(call.path), undefined]]);
        break;
    }
  }

  /** What a reader may find once power is back: everything, nothing or, `random`, any part of what was not flushed. */
  after(part: 'all' | 'none' | 'names' | 'random', draw: Draw): Map<string, Buffer> {
    const keeps = (kind: 'name' | 'data') =>
      part === 'all' || (part === 'names' && kind === 'name') || (part === 'random' && draw.below(2) === 1);
    const names = new Map(this.flushed);
    // The two halves of a renaming are one change: no journal tears them.
    for (const change of this.pending) if (keeps('name')) for (const naming of change) name(names, naming);
    const contents = new Map<Inode, Buffer>();
    const content = (inode: Inode): Buffer => {
      const known = contents.get(inode);
      if (known) return known;
      const order = part === 'random' ? shuffled(inode.pending, draw) : inode.pending;
      const kept = order
        .filter(() => keeps('data'))
        .map((change) => (part === 'random' ? torn(change, draw) : [change]));
      const data = kept.flat().reduce(apply, inode.flushed);
      contents.set(inode, data);
      return data;
    };
    return new Map([...names].map(([own, inode]) => [own, content(inode)]));
  }

  private change(namings: readonly Naming[]): void {
    for (const naming of namings) name(this.names, naming);
    this.pending.push([...namings]);
  }
}

function name(names: Map<string, Inode>, [own, inode]: Naming): void {
  if (inode) names.set(own, inode);
  else names.delete(own);
}

function apply(data: Buffer, change: Change): Buffer {
  const size = 'size' in change ? change.size : Math.max(data.length, change.at + change.bytes.length);
  const result = Buffer.alloc(size);
  data.copy(result);
  if ('bytes' in change) change.bytes.copy(result, change.at);
  return result;
}

const shuffled = <T>(list: readonly T[], draw: Draw): T[] =>
  list
    .map((item) => ({ item, key: draw.below(2 ** 30) }))
    .sort((a, b) => a.key - b.key)
    .map(({ item }) => item);

/** A write as some of its sectors, others as zeros or not at all. */
function torn(change: Change, draw: Draw): Change[] {
  if ('size' in change) return [change];
  const parts: Change[] = [];
  for (let begin = 0; begin < change.bytes.length; begin += SECTOR) {
    const bytes = change.bytes.subarray(begin, begin + SECTOR);
    const fate = draw.below(4);
    if (fate < 2) parts.push({ at: change.at + begin, bytes });
    if (fate === 2) parts.push({ at: change.at + begin, bytes: Buffer.alloc(bytes.length) });
  }
  return parts;
}

/** The files of the folder after a power failure behind each number of calls. */
export function* crashStates(
  { before, calls }: Recorded,
  times: number,
  seed: number,
): Generator<{ done: number; files: Map<string, Buffer> }> {
  const draw = new Draw(seed);
  const disk = new Disk(before);
  for (let done = 0; done <= calls.length; done++) {
    if (done > 0) disk.do(calls[done - 1] as FileCall);
    for (const part of ['all', 'none', 'names'] as const) yield { done, files: disk.after(part, draw) };
    for (let i = 0; i < times; i++) yield { done, files: disk.after('random', draw) };
  }
}
