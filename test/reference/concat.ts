import { type Array64, zeros64 } from './array64.js';

/** a [B, T, Ha, Da], b [B, T, Hb, Db] -> [B, T, H, Da + Db]; Ha and Hb are H or 1 */
export function concat(a: Array64, b: Array64): Array64 {
  const [batch, time, headsA, widthA] = a.shape;
  const [, , headsB, widthB] = b.shape;
  const heads = Math.max(headsA, headsB);
  const width = widthA + widthB;
  const output = zeros64([batch, time, heads, width]);
  for (let row = 0; row < batch * time * heads; row++) {
    const token = Math.floor(row / heads);
    const rowA = headsA === 1 ? token : row;
    const rowB = headsB === 1 ? token : row;
    for (let d = 0; d < widthA; d++) output.data[row * width + d] = a.data[rowA * widthA + d];
    for (let d = 0; d < widthB; d++) output.data[row * width + widthA + d] = b.data[rowB * widthB + d];
  }
  return output;
}

export function concatBackward(
  gradOutput: Array64,
  { widthA, headsA, headsB }: { widthA: number; headsA: number; headsB: number },
): { gradA: Array64; gradB: Array64 } {
  const [batch, time, heads, width] = gradOutput.shape;
  const widthB = width - widthA;
  const gradA = zeros64([batch, time, headsA, widthA]);
  const gradB = zeros64([batch, time, headsB, widthB]);
  for (let row = 0; row < batch * time * heads; row++) {
    const token = Math.floor(row / heads);
    const rowA = headsA === 1 ? token : row;
    const rowB = headsB === 1 ? token : row;
    for (let d = 0; d < widthA; d++) gradA.data[rowA * widthA + d] += gradOutput.data[row * width + d];
    for (let d = 0; d < widthB; d++) gradB.data[rowB * widthB + d] += gradOutput.data[row * width + widthA + d];
  }
  return { gradA, gradB };
}
