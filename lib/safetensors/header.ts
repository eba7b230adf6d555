/** The header of a safetensors file: its length, then JSON of name -> { dtype, shape, data_offsets }, and strings to keep. */
import * as check from '../checks.js';
import { type DType, dtypes } from '../dtype.js';
import { ArgumentError, DTypeError } from '../errors.js';

/** A tensor's place in a file. */
export interface Placed {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: DType;
  /** Of its first byte and behind its last, counted from the end of the header. */
  readonly begin: number;
  readonly end: number;
}

export interface Header {
  readonly metadata: ReadonlyMap<string, string>;
  /** In the order of the header. */
  readonly tensors: readonly Placed[];
}

/** Makes the error that says what is wrong with the file. */
type Refuse = (fault: string) => ArgumentError;

/** The format's own bound on the header, in bytes. */
export const MAX_HEADER_BYTES = 100_000_000;
/** Bounds on the header's JSON: how deep it nests (names, entries, sizes) and how much structure it may hold. */
const MAX_HEADER_DEPTH = 3;
const MAX_HEADER_MARKS = 2_000_000;
export const METADATA = '__metadata__';

/** What is written in front of the elements: padded with spaces so that they are aligned to 8 bytes. */
export function encodeHeader(op: string, { metadata, tensors }: Header): Uint8Array {
  const entries: [string, object][] = tensors.map(({ name, shape, dtype, begin, end }) => [
    name,
    { dtype: dtypes[dtype].fileName, shape, data_offsets: [begin, end] },
  ]);
  if (metadata.size > 0) entries.unshift([METADATA, Object.fromEntries(metadata)]);
  // Not as one object, which would put names like '7' first.
  const json = Buffer.from(
    `{${entries.map((entry) => entry.map((part) => JSON.stringify(part)).join(':')).join(',')}}`,
  );
  const length = Math.ceil(json.length / 8) * 8;
  if (length > MAX_HEADER_BYTES) {
    throw new ArgumentError(`${op}: the header has ${length} bytes, expected at most ${MAX_HEADER_BYTES}`);
  }
  const bytes = Buffer.alloc(8 + length, ' ');
  bytes.writeBigUInt64LE(BigInt(length));
  bytes.set(json, 8);
  return bytes;
}

/** The header's bytes, checked against the `dataBytes` that follow them. */
export function decodeHeader(bytes: Uint8Array, dataBytes: number, refuse: Refuse): Header {
  refuseExcess(bytes, refuse);
  const { text, header } = parse(bytes, refuse);
  const names = namesOf(text, refuse);
  const metadata = header[METADATA] ?? {};
  if (!isRecord(metadata) || Object.values(metadata).some((value) => typeof value !== 'string')) {
    throw refuse(`${METADATA} is not a map of strings`);
  }
  const tensors = names.filter((name) => name !== METADATA).map((name) => place(name, header[name], refuse));
  let offset = 0;
  for (const { name, begin, end } of inFileOrder(tensors)) {
    if (begin !== offset) throw refuse(`'${name}' begins at byte ${begin}, expected ${offset} (no gaps, no overlaps)`);
    offset = end;
  }
  if (offset !== dataBytes)
    throw refuse(`the tensors have ${offset} bytes, expected ${dataBytes} (the rest of the file)`);
  return { metadata: new Map(Object.entries(metadata as Record<string, string>)), tensors };
}

export const inFileOrder = (tensors: readonly Placed[]): Placed[] =>
  tensors.toSorted((a, b) => a.begin - b.begin || a.end - b.end);

/**
 * Throws before JSON.parse would spend gigabytes and minutes on a header of nothing but structure: every `{`, `[` and `,` may
 * become an object of its own. A tensor needs about ten of these marks.
 */
function refuseExcess(header: Uint8Array, refuse: Refuse): void {
  let depth = 0;
  let marks = 0;
  for (let i = 0; i < header.length; i++) {
    switch (header[i]) {
      case 0x22: // a string, up to the next quote that no backslash escapes
        for (i++; i < header.length && header[i] !== 0x22; i++) if (header[i] === 0x5c) i++;
        break;
      case 0x7b: // {
      case 0x5b: // [
        marks++;
        if (++depth > MAX_HEADER_DEPTH) throw refuse(`the header nests deeper than ${MAX_HEADER_DEPTH} levels`);
        break;
      case 0x7d: // }
      case 0x5d: // ]
        depth--;
        break;
      case 0x2c: // ,
        marks++;
        break;
    }
    if (marks > MAX_HEADER_MARKS) throw refuse(`the header has more than ${MAX_HEADER_MARKS} brackets and commas`);
  }
}

function parse(bytes: Uint8Array, refuse: Refuse): { text: string; header: Record<string, unknown> } {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw refuse('the header is not UTF-8');
  }
  let header: unknown;
  try {
    header = JSON.parse(text);
  } catch (cause) {
    throw refuse(`the header is not JSON (${(cause as Error).message})`);
  }
  if (!text.startsWith('{') || !isRecord(header)) throw refuse('the header is not a JSON object');
  return { text, header };
}

function place(name: string, entry: unknown, refuse: Refuse): Placed {
  const integers = (value: unknown): value is number[] =>
    Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
  if (!isRecord(entry)) throw refuse(`'${name}' is not an object`);
  const { dtype: fileName, shape, data_offsets: offsets } = entry;
  const known = Object.entries(dtypes) as [DType, (typeof dtypes)[DType]][];
  const found = known.find(([, traits]) => traits.fileName === fileName);
  if (!found) {
    const names = known.map(([, traits]) => traits.fileName).join(', ');
    throw new DTypeError(`loadSafetensors: '${name}' has dtype ${check.describe(fileName)}, expected ${names}`);
  }
  const [dtype, { bytes }] = found;
  if (!integers(shape)) throw refuse(`the shape of '${name}' is not a list of sizes`);
  if (!integers(offsets) || offsets.length !== 2) throw refuse(`the data_offsets of '${name}' are not two offsets`);
  const [begin, end] = offsets as [number, number];
  if (end - begin !== check.elements(shape) * bytes) {
    throw refuse(
      `'${name}' has ${end - begin} bytes, expected ${check.elements(shape) * bytes} (${dtype} ${check.show(shape)})`,
    );
  }
  return { name, shape, dtype, begin, end };
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/**
 * The keys of the outermost object of valid JSON, in their order, which JSON.parse does not keep. No object in it may hold a
 * key twice: JSON.parse would keep the last, another reader the first.
 */
function namesOf(json: string, refuse: Refuse): string[] {
  const names: string[] = [];
  const open: (Set<string> | null)[] = []; // the keys of each object that is open; null for an array
  let latest = '';
  for (let i = 0; i < json.length; i++) {
    const c = json[i];
    if (c === '{') open.push(new Set());
    else if (c === '[') open.push(null);
    else if (c === '}' || c === ']') open.pop();
    else if (c === ':') {
      const keys = open.at(-1);
      const key: string = JSON.parse(latest);
      if (keys?.has(key)) {
        throw refuse(open.length === 1 ? `the name '${key}' occurs twice` : `'${names.at(-1)}' has '${key}' twice`);
      }
      keys?.add(key);
      if (open.length === 1) names.push(key);
    } else if (c === '"') {
      const begin = i;
      for (i++; json[i] !== '"'; i++) if (json[i] === '\\') i++;
      latest = json.slice(begin, i + 1);
    }
  }
  return names;
}
