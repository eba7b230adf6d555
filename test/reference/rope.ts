import { type Array64, zeros64 } from './array64.js';

export interface RopeOptions64 {
  base?: number; // default 10000
  offset?: number; // position of token 0, default 0
  interleaved?: boolean; // pairs (2i, 2i+1); default false: pairs (i, i + D/2)
}

/** Rotates pair i of token t by sign * (t + offset) * base^(-2i/D) radians. x [B, T, H, D], D even. */
function rotate(x: Array64, options: RopeOptions64, sign: 1 | -1): Array64 {
  const { base = 10000, offset = 0, interleaved = false } = options;
  const [, time, heads, width] = x.shape;
  const output = zeros64(x.shape);
  for (let row = 0; row * width < x.data.length; row++) {
    const position = (Math.floor(row / heads) % time) + offset;
    for (let i = 0; i < width / 2; i++) {
      const angle = sign * position * base ** ((-2 * i) / width);
      const first = row * width + (interleaved ? 2 * i : i);
      const second = interleaved ? first + 1 : first + width / 2;
      const [a, b] = [x.data[first], x.data[second]];
      output.data[first] = a * Math.cos(angle) - b * Math.sin(angle);
      output.data[second] = a * Math.sin(angle) + b * Math.cos(angle);
    }
  }
  return output;
}

export function rope(x: Array64, options: RopeOptions64 = {}): Array64 {
  return rotate(x, options, 1);
}

/** A rotation's transpose is the rotation back. */
export function ropeBackward(gradOutput: Array64, options: RopeOptions64 = {}): Array64 {
  return rotate(gradOutput, options, -1);
}
