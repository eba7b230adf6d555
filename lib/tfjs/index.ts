/**
 * SAS attention as an op of TensorFlow.js, with gradients. Needs `@tensorflow/tfjs-core`, which the user installs.
 *
 * @module tfjs
 */
import * as tf from '@tensorflow/tfjs-core';
import * as check from '../checks.js';
import { Device, getDevice } from '../device.js';
import { ArgumentError, DisposedError, DTypeError } from '../errors.js';
import { isShareable } from '../host_array.js';
import { checkNames } from '../module.js';
import * as block from '../sas_block.js';
import { forget, scope } from '../scope.js';
import { Tensor } from '../tensor.js';

/** Settings of `sasAttention`. */
export interface SasAttentionOptions {
  /** Query i sees the keys j <= i + Tk - Tq. Default true. */
  causal?: boolean;
  /** The factor of the scores before the softmax. Default 1/sqrt(D'). */
  scale?: number;
  /** Where it is computed. Default `getDevice()`. */
  device?: Device;
}

/** The weights, float32, under the names and with the shapes of `SasAttention.parameters`. */
export type SasWeights = Readonly<Record<string, tf.Tensor>>;

/** What a forward pass leaves for the backward pass: native tensors, outside of TensorFlow.js's count. */
interface Kept {
  readonly parameters: block.Parameters;
  readonly activations: block.Activations;
}

/**
 * SAS attention over projected queries, keys and values, differentiable in q, k, v and every weight:
 * q [B, Tq, H, D], k and v [B, Tk, H, D], all float32 -> [B, Tq, H*D]. H, D, H', D' and the kernel size are read off the shapes.
 *
 * TensorFlow.js ops return values that exist, so this one waits for its result, on this thread: the event loop stands still
 * as it does during the ops of TensorFlow.js's own CPU backends. Inputs of its `cpu` backend are shared without a copy, others
 * are copied once by their backend; each result is copied once. What the backward pass needs is kept only when a gradient is
 * being recorded, and freed when it has been computed.
 *
 * Throws ShapeError, DTypeError, ArgumentError (weights missing or unknown; a gradient of the gradient), DisposedError,
 * OutOfMemoryError.
 */
export function sasAttention(
  q: tf.Tensor4D,
  k: tf.Tensor4D,
  v: tf.Tensor4D,
  weights: SasWeights,
  options?: SasAttentionOptions,
): tf.Tensor3D {
  const op = check.call('sasAttention', arguments.length, 5);
  const { names, settings, device } = checked(op, { q, k, v }, weights, options);
  const save = recording();
  const differentiable = tf.customGrad((...inputs) => {
    // After the inputs comes tfjs's function that saves tensors for the backward pass; what that needs is not tfjs's.
    const given = inputs.slice(0, 3 + names.length) as tf.Tensor[];
    const { value, kept } = scope(() => {
      const [q, k, v, ...rest] = given.map((input) => adopted(input, device)) as [Tensor, Tensor, Tensor, ...Tensor[]];
      const parameters = new Map(names.map((name, i) => [name, rest[i] as Tensor]));
      const { output, activations } = block.forward(op, settings, parameters, { q, k, v }, save);
      return { value: released(output), kept: activations && { parameters, activations } };
    });
    for (const tensor of tensorsOf(kept)) forget(tensor);
    return { value, gradFunc: (gradOutput: tf.Tensor) => gradients(op, gradOutput, settings, device, kept) };
  });
  return differentiable(q, k, v, ...names.map((name) => weights[name] as tf.Tensor)) as tf.Tensor3D;
}

/** The gradients in the order of the inputs. Frees what was kept for them: tfjs asks once. */
function gradients(
  op: string,
  gradOutput: tf.Tensor,
  settings: block.Settings,
  device: Device,
  kept: Kept | null,
): tf.Tensor[] {
  try {
    if (recording())
      throw new ArgumentError(`${op}: a gradient of its gradient was asked for, expected the first only`);
    const { parameters, activations } = kept as Kept;
    return scope(() => {
      const grads = block.backward(`${op} gradient`, settings, parameters, adopted(gradOutput, device), activations);
      const { gradQ, gradK, gradV, gradParameters } = grads;
      return [gradQ, gradK, gradV, ...[...parameters.keys()].map((name) => gradParameters.get(name) as Tensor)].map(
        released,
      );
    });
  } finally {
    for (const tensor of tensorsOf(kept)) tensor.dispose();
  }
}

const tensorsOf = (kept: Kept | null): Tensor[] =>
  kept ? [...kept.parameters.values(), ...Object.values(kept.activations)] : [];

/** Whether tfjs records the op that is called now, to differentiate it. */
function recording(): boolean {
  const { gradientDepth, kernelDepth } = tf.engine().state;
  return gradientDepth > 0 && kernelDepth === 0;
}

/** The values of a tfjs tensor on our device; shared, not copied, where the memory allows. */
function adopted(input: tf.Tensor, device: Device): Tensor {
  const data = input.dataSync() as Float32Array;
  const host = isShareable(data.buffer) ? Tensor.wrap(data, input.shape) : Tensor.from(data, input.shape, cpu());
  return host.to({ device });
}

const cpu = () => ({ device: getDevice('cpu') });

/** A tfjs tensor of what the device leaves in ours; waits for it. */
function released(tensor: Tensor): tf.Tensor {
  return tf.tensor(tensor.dataSync(), [...tensor.shape], 'float32');
}

/** The names of the weights in the order of `SasAttention.parameters`, and the sizes read off the shapes. */
function checked(
  op: string,
  inputs: Readonly<Record<'q' | 'k' | 'v', tf.Tensor>>,
  weights: SasWeights,
  options: SasAttentionOptions | undefined,
): { names: string[]; settings: block.Settings; device: Device } {
  const [, , heads, headDim] = check.shape(op, 'q', described(op, 'q', inputs.q), ['B', 'Tq', 'H', 'D']);
  described(op, 'k', inputs.k);
  described(op, 'v', inputs.v);
  check.object(op, 'weights', weights);
  const weight = (name: string) => described(op, name, weights[name]);
  const sizeOf = <const P extends readonly (string | number)[]>(name: string, pattern: P, because: string) => {
    if (!Object.hasOwn(weights, name)) throw new ArgumentError(`${op}: the weight ${name} is missing`);
    return check.shape(op, name, weight(name), pattern, because);
  };
  const [simHeads, , kernelSize] = sizeOf('sas_q.0.weight', ["H'", heads, 'k'], `q has ${heads} heads`);
  const [simHeadDim] = sizeOf('sas_q.2.weight', ["D'", headDim], `q has width ${headDim}`);
  const sizes = { heads, headDim, simHeads, simHeadDim, kernelSize };
  block.checkSizes(op, sizes);
  const table = block.parameterTable(sizes);
  const names = table.map(([name]) => name);
  checkNames(op, names, Object.keys(weights));
  for (const [name, shape] of table)
    check.shape(op, name, weight(name), shape, 'by the shapes of q and of the weights');

  const known = check.options(op, options, ['causal', 'scale', 'device']);
  const { causal = true, scale = 1 / Math.sqrt(simHeadDim), device = getDevice() } = known;
  check.boolean(op, 'causal', causal);
  check.finite(op, 'scale', scale);
  if (!(device instanceof Device)) {
    throw new ArgumentError(`${op}: device is ${check.describe(device)}, expected a Device (from getDevice)`);
  }
  return { names, settings: { ...sizes, causal, scale, dtype: 'f32' }, device };
}

/** What the checks read of a tfjs tensor that is alive and float32. */
function described(op: string, name: string, value: unknown): { shape: readonly number[]; dtype: 'f32' } {
  if (!(value instanceof tf.Tensor)) {
    throw new ArgumentError(`${op}: ${name} is ${check.describe(value)}, expected a tensor of TensorFlow.js`);
  }
  if (value.isDisposed) throw new DisposedError(`${op}: ${name} has been disposed`);
  if (value.dtype !== 'float32') throw new DTypeError(`${op}: ${name} has dtype ${value.dtype}, expected float32`);
  return { shape: value.shape, dtype: 'f32' };
}
