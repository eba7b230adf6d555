import { binding } from '../binding.js';
import * as check from '../checks.js';
import { floats } from '../dtype.js';
import { ShapeError } from '../errors.js';
import { operands, produce, type Tensor } from '../tensor.js';

/** What `concatBackward` must know of the tensors that `concat` was given. */
export interface ConcatSizes {
  /** Da: columns of gradOutput up to here belong to a, the others to b. */
  widthA: number;
  /** Ha: H, which is the default, or 1. */
  headsA?: number;
  /** Hb: H, which is the default, or 1. */
  headsB?: number;
}

/**
 * The features of a and b side by side: output[b, t, h] = [a[b, t, h], b[b, t, h]]. A tensor with one head stands beside each
 * head of the other, as the rotary key of latent attention (MLA, arXiv 2405.04434) that all heads share.
 *
 * a [B, T, Ha, Da], b [B, T, Hb, Db], Ha and Hb equal or one of them 1 -> [B, T, H, Da + Db], H the larger of them, same dtype.
 */
export function concat(a: Tensor, b: Tensor): Tensor {
  const op = check.call('concat', arguments.length, 2);
  const { device, buffers } = operands(op, { a, b });
  const [B, T, Ha, Da] = check.shape(op, 'a', a, ['B', 'T', 'Ha', 'Da']);
  check.dtype(op, 'a', a, floats);
  const because = check.because('a', a);
  const [, , Hb, Db] = check.shape(op, 'b', b, [B, T, 'Hb', 'Db'], because);
  check.dtype(op, 'b', b, a.dtype, `a has dtype ${a.dtype}`);
  if (Ha !== 1) oneOrAll(op, 'the number of heads of b', Hb, Ha, `a has ${Ha} heads`);
  const H = Math.max(Ha, Hb);
  return produce(op, device, { output: [[B, T, H, Da + Db], a.dtype] }, (to) =>
    binding.concat(buffers.a, buffers.b, to.output),
  ).output;
}

/**
 * The gradients of `concat`: gradOutput [B, T, H, Da + Db] -> gradA [B, T, Ha, Da], gradB [B, T, Hb, Db]. That of a tensor with
 * one head is the sum over all heads, added up in f32.
 */
export function concatBackward(gradOutput: Tensor, sizes: ConcatSizes): { gradA: Tensor; gradB: Tensor } {
  const op = check.call('concatBackward', arguments.length, 2);
  const { device, buffers } = operands(op, { gradOutput });
  const [B, T, H, D] = check.shape(op, 'gradOutput', gradOutput, ['B', 'T', 'H', 'Da+Db']);
  const dtype = check.dtype(op, 'gradOutput', gradOutput, floats);
  const { widthA, headsA = H, headsB = H } = check.options(op, sizes, ['widthA', 'headsA', 'headsB']);
  const Da = check.integer(op, 'widthA', widthA, { min: 1, below: D });
  const because = `gradOutput has ${H} heads`;
  const Ha = oneOrAll(op, 'headsA', check.integer(op, 'headsA', headsA, { min: 1 }), H, because);
  const Hb = oneOrAll(op, 'headsB', check.integer(op, 'headsB', headsB, { min: 1 }), H, because);
  if (Math.max(Ha, Hb) !== H) {
    throw new ShapeError(`${op}: headsA and headsB are 1, expected one of them to be ${H} (${because})`);
  }
  const outputs = { gradA: [[B, T, Ha, Da], dtype], gradB: [[B, T, Hb, D - Da], dtype] } as const;
  return produce(op, device, outputs, (to) => binding.concatBackward(buffers.gradOutput, to.gradA, to.gradB));
}

/** A number of heads is that of the output, or 1. */
function oneOrAll(op: string, name: string, heads: number, all: number, because: string): number {
  if (heads !== 1 && heads !== all) {
    throw new ShapeError(`${op}: ${name} is ${heads}, expected 1 or ${all} (${because})`);
  }
  return heads;
}
