/** Columns as wide as their widest cell, under a header; those whose index is in `left` are aligned left. */
export function textTable(header: readonly string[], lines: readonly (readonly string[])[], left: number[]): string {
  const widths = header.map((title, c) => Math.max(title.length, ...lines.map((line) => (line[c] ?? '').length)));
  const pad = (cell: string, c: number) =>
    left.includes(c) ? cell.padEnd(widths[c] ?? 0) : cell.padStart(widths[c] ?? 0);
  const format = (cells: readonly string[]) => cells.map(pad).join('  ').trimEnd();
  return [format(header), format(widths.map((width) => '-'.repeat(width))), ...lines.map(format)].join('\n');
}
