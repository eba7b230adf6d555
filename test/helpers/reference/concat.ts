import { type Array64, zeros64 } from './array64.js';

/** a [B, T, Ha, Da], b [B, T, Hb, Db], heads H or 1 (shared by all) -> [B, T, H, Da + Db] */
export function concat(a: Array64, b: Array64): Array64 {
  const [batch, time, headsA, widthA] = a.shape;
  const [, , headsB, widthB] = b.shape;
  const heads = Math.max(headsA, headsB);
  const output = zeros64([batch, time, heads, widthA + widthB]);
  for (let row = 0; row < batch * time * heads; row++) {
    const [rowA, rowB] = [headsA, headsB].map((own) => Math.floor(row / (heads / own)));
    for (let d = 0; d < widthA; d++) output.data[row * (widthA + widthB) + d] = a.data[rowA * widthA + d];
    for (let d = 0; d < widthB; d++) output.data[row * (widthA + widthB) + widthA + d] = b.data[rowB * widthB + d];
  }
  return output;
}

/** gradOutput [B, T, H, Da + Db]; the gradient of a shared part is the sum over the heads. */
export function concatBackward(
  gradOutput: Array64,
  { headsA, widthA, headsB }: { headsA: number; widthA: number; headsB: number },
): { gradA: Array64; gradB: Array64 } {
  const [batch, time, heads, width] = gradOutput.shape;
  const widthB = width - widthA;
  const gradA = zeros64([batch, time, headsA, widthA]);
  const gradB = zeros64([batch, time, headsB, widthB]);
  for (let row = 0; row < batch * time * heads; row++) {
    const [rowA, rowB] = [headsA, headsB].map((own) => Math.floor(row / (heads / own)));
    for (let d = 0; d < widthA; d++) gradA.data[rowA * widthA + d] += gradOutput.data[row * width + d];
    for (let d = 0; d < widthB; d++) gradB.data[rowB * widthB + d] += gradOutput.data[row * width + widthA + d];
  }
  return { gradA, gradB };
}
