import { stripVTControlCharacters } from 'node:util';

/** Colours take no room. */
const widthOf = (cell: string) => stripVTControlCharacters(cell).length;

/** Columns as wide as their widest cell, under a header; those whose index is in `left` are aligned left. */
export function textTable(header: readonly string[], lines: readonly (readonly string[])[], left: number[]): string {
  const widths = header.map((title, c) => Math.max(title.length, ...lines.map((line) => widthOf(line[c] ?? ''))));
  const pad = (cell: string, c: number) => {
    const room = ' '.repeat(Math.max(0, (widths[c] ?? 0) - widthOf(cell)));
    return left.includes(c) ? cell + room : room + cell;
  };
  const format = (cells: readonly string[]) => cells.map(pad).join('  ').trimEnd();
  return [format(header), format(widths.map((width) => '-'.repeat(width))), ...lines.map(format)].join('\n');
}
