import { binding } from '../binding.js';
import * as check from '../checks.js';
import { type DType, floats } from '../dtype.js';
import { ShapeError } from '../errors.js';
import { operands, produce, type Tensor } from '../tensor.js';

/**
 * tokenTable[token] + positionTable[position], rounded to `dtype` ('f32' by default). tokens [B, T] i32, tokenTable [V, C] f32,
 * positionTable [Tmax, C] f32 with T <= Tmax -> [B, T, C]. A token outside of 0..V-1 is a failure on the device: the next wait
 * on the result rejects.
 */
export function embedding(
  tokens: Tensor,
  tokenTable: Tensor,
  positionTable?: Tensor,
  options?: { dtype?: DType },
): Tensor {
  const op = check.call('embedding', arguments.length, 4);
  const { device, buffers } = operands(op, { tokens, tokenTable }, { positionTable });
  const [B, T] = check.shape(op, 'tokens', tokens, ['B', 'T']);
  check.dtype(op, 'tokens', tokens, 'i32');
  const [, C] = check.shape(op, 'tokenTable', tokenTable, ['V', 'C']);
  check.dtype(op, 'tokenTable', tokenTable, 'f32', 'parameters are f32');
  if (positionTable) {
    const [positions] = check.shape(op, 'positionTable', positionTable, ['Tmax', C], `tokenTable has width ${C}`);
    check.dtype(op, 'positionTable', positionTable, 'f32', 'parameters are f32');
    longEnough(op, 'positionTable', positions, T);
  }
  const { dtype = 'f32' } = check.options(op, options, ['dtype']);
  check.dtypeName(op, 'dtype', dtype, floats);
  return produce(op, device, { output: [[B, T, C], dtype] }, (to) =>
    binding.embedding(buffers.tokens, buffers.tokenTable, buffers.positionTable, to.output),
  ).output;
}

/**
 * The gradients of `embedding`, f32: gradTokenTable [vocabulary, C] and, if `positions` is given, gradPositionTable
 * [positions, C]. Rows that no token used are 0.
 */
export function embeddingBackward(
  gradOutput: Tensor,
  tokens: Tensor,
  sizes: { vocabulary: number; positions?: number },
): { gradTokenTable: Tensor; gradPositionTable?: Tensor } {
  const op = check.call('embeddingBackward', arguments.length, 3);
  const { device, buffers } = operands(op, { gradOutput, tokens });
  const [B, T] = check.shape(op, 'tokens', tokens, ['B', 'T']);
  check.dtype(op, 'tokens', tokens, 'i32');
  const [, , C] = check.shape(op, 'gradOutput', gradOutput, [B, T, 'C'], check.because('tokens', tokens));
  check.dtype(op, 'gradOutput', gradOutput, floats);
  const { vocabulary, positions } = check.options(op, sizes, ['vocabulary', 'positions']);
  const V = check.integer(op, 'vocabulary', vocabulary, { min: 1 });
  const P = positions === undefined ? 0 : check.integer(op, 'positions', positions, { min: 1 });
  if (P) longEnough(op, 'positions', P, T);
  return produce(
    op,
    device,
    {
      gradTokenTable: [[V, C], 'f32'],
      gradPositionTable: P ? [[P, C], 'f32'] : undefined,
    },
    (to) => binding.embeddingBackward(buffers.gradOutput, buffers.tokens, to.gradTokenTable, to.gradPositionTable),
  );
}

function longEnough(op: string, name: string, positions: number, length: number): void {
  if (positions < length) {
    throw new ShapeError(
      `${op}: ${name} has ${positions} positions, expected at least ${length} (tokens has length ${length})`,
    );
  }
}
