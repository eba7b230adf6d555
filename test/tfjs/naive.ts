/** SAS attention in TensorFlow.js's own ops, step by step as the paper has it: what the bridge is held against. */
import * as tf from '@tensorflow/tfjs';

export type Weights = Record<string, tf.Tensor>;

/** x [N, D, channels], weight [O, channels, k], bias [O] -> [N, D, O]: the convolution along D with zero padding. */
function convolution(x: tf.Tensor3D, weight: tf.Tensor, bias: tf.Tensor): tf.Tensor3D {
  return tf.add(tf.conv1d(x, tf.transpose(weight as tf.Tensor3D, [2, 1, 0]), 1, 'same'), bias);
}

/** x [rows, C], weight [O, C], bias [O] -> [rows, O]. */
const linear = (x: tf.Tensor2D, weight: tf.Tensor, bias: tf.Tensor): tf.Tensor2D =>
  tf.add(tf.matMul(x, weight as tf.Tensor2D, false, true), bias);

/** [B, T, H, D] -> [B, H', T, D' or D]. */
function expand(x: tf.Tensor4D, weights: Weights, of: string): tf.Tensor4D {
  const [B, T, H, D] = x.shape;
  const [of0, of1, of2, of3] = ['0', '1.process', '2', '3.process'].map((layer) => `${of}.${layer}`);
  const heads = tf.transpose(tf.reshape(x, [B * T, H, D]), [0, 2, 1]) as tf.Tensor3D;
  const c1 = convolution(heads, weights[`${of0}.weight`], weights[`${of0}.bias`]);
  const y = tf.add(c1, convolution(tf.relu(c1), weights[`${of1}.weight`], weights[`${of1}.bias`]));
  const simHeads = y.shape[2] as number;
  let z: tf.Tensor = tf.reshape(tf.transpose(y, [0, 2, 1]), [B * T * simHeads, D]);
  if (weights[`${of2}.weight`]) {
    const z1 = linear(z as tf.Tensor2D, weights[`${of2}.weight`], weights[`${of2}.bias`]);
    z = tf.add(z1, linear(tf.relu(z1), weights[`${of3}.weight`], weights[`${of3}.bias`]));
  }
  return tf.transpose(tf.reshape(z, [B, T, simHeads, -1]), [0, 2, 1, 3]);
}

/** As `sasAttention`. */
export function naiveSasAttention(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  v: tf.Tensor4D,
  weights: Weights,
  { causal = true, scale }: { causal?: boolean; scale?: number } = {},
): tf.Tensor3D {
  const [B, Tq, H, D] = q.shape;
  const Tk = k.shape[1];
  const [eq, ek, ev] = [expand(q, weights, 'sas_q'), expand(k, weights, 'sas_k'), expand(v, weights, 'sas_v')];
  const [, simHeads, , simHeadDim] = eq.shape;
  const mask = Array.from({ length: Tq }, (_, i) =>
    Array.from({ length: Tk }, (_, j) => (!causal || j <= i + Tk - Tq ? 0 : -1e30)),
  );
  const scores = tf.mul(tf.matMul(eq, ek, false, true), scale ?? 1 / Math.sqrt(simHeadDim));
  const attended = tf.matMul(tf.softmax(tf.add(scores, tf.tensor2d(mask))), ev);
  const mean = tf.mean(tf.reshape(attended, [B, simHeads / H, H, Tq, D]), 1);
  const rows = tf.reshape(tf.transpose(mean, [0, 2, 1, 3]), [B * Tq, H * D]) as tf.Tensor2D;
  return tf.reshape(linear(rows, weights['output_dense.weight'], weights['output_dense.bias']), [B, Tq, H * D]);
}
