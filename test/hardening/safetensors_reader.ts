/**
 * An independent reader of the safetensors format, written from its published description alone (it shares no code with lib/):
 * 8 bytes, the header's length N as an unsigned little-endian integer; N bytes of UTF-8 JSON that begin with '{' and may end in
 * spaces, of name -> { dtype, shape, data_offsets: [BEGIN, END] } and optionally "__metadata__" of strings; then the data, which
 * the offsets, counted from its first byte, cover without holes or overlaps; little-endian, row-major.
 */
import { readFileSync } from 'node:fs';

export interface Stored {
  dtype: string;
  shape: number[];
  values: number[];
}

const readers: Record<string, [bytes: number, read: (view: DataView, at: number) => number]> = {
  F32: [4, (view, at) => view.getFloat32(at, true)],
  I32: [4, (view, at) => view.getInt32(at, true)],
  // Their bits: what they stand for is not the format's business.
  BF16: [2, (view, at) => view.getUint16(at, true)],
  F16: [2, (view, at) => view.getUint16(at, true)],
};

export function readSafetensors(path: string): { metadata: Record<string, string>; tensors: Map<string, Stored> } {
  const file = readFileSync(path);
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const length = Number(view.getBigUint64(0, true));
  if (8 + length > file.length) throw new Error('the header is cut off');
  if (file[8] !== '{'.charCodeAt(0)) throw new Error('the header does not begin with {');
  const text = new TextDecoder('utf-8', { fatal: true }).decode(file.subarray(8, 8 + length));
  const { __metadata__: metadata = {}, ...entries } = JSON.parse(text);
  const tensors = new Map<string, Stored>();
  const covered: [number, number][] = [];
  for (const [name, entry] of Object.entries<{ dtype: string; shape: number[]; data_offsets: [number, number] }>(
    entries,
  )) {
    const [bytes, read] = readers[entry.dtype] ?? [0, () => Number.NaN];
    const count = entry.shape.reduce((product, size) => product * size, 1);
    const [begin, end] = entry.data_offsets;
    if (bytes === 0 || end - begin !== count * bytes) throw new Error(`${name}: size and offsets differ`);
    const values = Array.from({ length: count }, (_, i) => read(view, 8 + length + begin + i * bytes));
    tensors.set(name, { dtype: entry.dtype, shape: entry.shape, values });
    covered.push([begin, end]);
  }
  covered.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const end = covered.reduce((at, [from, to]) => (from === at ? to : Number.NaN), 0);
  if (end !== file.length - 8 - length) throw new Error('the offsets do not cover the data');
  return { metadata, tensors };
}
