import { type Array64, zeros64 } from './array64.js';

/** tokens [B, T], tokenTable [V, C], positionTable [Tmax, C] -> [B, T, C] */
export function embedding(tokens: Int32Array, batch: number, tokenTable: Array64, positionTable?: Array64): Array64 {
  const width = tokenTable.shape[1];
  const time = tokens.length / batch;
  const output = zeros64([batch, time, width]);
  for (let i = 0; i < tokens.length; i++) {
    for (let c = 0; c < width; c++) {
      const position = positionTable === undefined ? 0 : positionTable.data[(i % time) * width + c];
      output.data[i * width + c] = tokenTable.data[tokens[i] * width + c] + position;
    }
  }
  return output;
}

/** gradOutput [B, T, C] -> gradients of both tables ([vocabulary, C], [positions, C]) */
export function embeddingBackward(
  gradOutput: Array64,
  tokens: Int32Array,
  vocabulary: number,
  positions: number,
): { gradTokenTable: Array64; gradPositionTable: Array64 } {
  const [, time, width] = gradOutput.shape;
  const gradTokenTable = zeros64([vocabulary, width]);
  const gradPositionTable = zeros64([positions, width]);
  for (let i = 0; i < tokens.length; i++) {
    for (let c = 0; c < width; c++) {
      const grad = gradOutput.data[i * width + c];
      gradTokenTable.data[tokens[i] * width + c] += grad;
      gradPositionTable.data[(i % time) * width + c] += grad;
    }
  }
  return { gradTokenTable, gradPositionTable };
}
