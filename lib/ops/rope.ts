import { type BufferHandle, binding } from '../binding.js';
import * as check from '../checks.js';
import { floats } from '../dtype.js';
import { operands, produce, type Tensor } from '../tensor.js';

/** Settings of `rope` and its backward. */
export interface RopeOptions {
  /** Pair i of D/2 rotates by position / base^(2i/D). Default 10000. */
  base?: number;
  /** The position of the first token. Default 0. */
  offset?: number;
  /** Pairs are neighbours (2i, 2i + 1); otherwise (i, i + D/2), as GPT-NeoX. Default false. */
  interleaved?: boolean;
}

/** The options that angles follow from, checked; `path` stands before their names in messages. */
export function ropeAngles(op: string, options: RopeOptions, path = ''): { base: number; offset: number } {
  const { base = 10000, offset = 0 } = options;
  check.finite(op, `${path}base`, base, { above: 0 });
  check.integer(op, `${path}offset`, offset, { min: 0 });
  return { base, offset };
}

function rotate(op: string, name: string, inverse: boolean, x: Tensor, options: RopeOptions | undefined): Tensor {
  const { device, buffers } = operands(op, { [name]: x });
  const [, , , D] = check.shape(op, name, x, ['B', 'T', 'H', 'D']);
  check.multiple(op, `the width of ${name}`, D, 2, 'rotary positions rotate pairs of features');
  check.dtype(op, name, x, floats);
  const given = check.options(op, options, ['base', 'offset', 'interleaved']);
  const { base, offset } = ropeAngles(op, given);
  const { interleaved = false } = given;
  check.boolean(op, 'interleaved', interleaved);
  return produce(op, device, { output: [x.shape, x.dtype] }, (to) =>
    binding.rope(buffers[name] as BufferHandle, to.output, base, offset, interleaved, inverse),
  ).output;
}

/** Rotary position embedding of queries or keys (Su et al., arXiv 2104.09864). x [B, T, H, D], D even -> same shape and dtype. */
export function rope(x: Tensor, options?: RopeOptions): Tensor {
  return rotate(check.call('rope', arguments.length, 2), 'x', false, x, options);
}

/** The gradient of `rope`: the rotation backwards, gradOutput [B, T, H, D] -> same shape and dtype; `options` are those of the forward. */
export function ropeBackward(gradOutput: Tensor, options?: RopeOptions): Tensor {
  return rotate(check.call('ropeBackward', arguments.length, 2), 'gradOutput', true, gradOutput, options);
}
