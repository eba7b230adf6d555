/** Is what a device computes right, and how fast is it? In about two seconds. */

import { Random } from '../gpt/random.js';
import { type Device, ops, scope, Tensor } from '../index.js';
import { attentionCases, type Case, expandCases } from './cases.js';
import { type Results, run, type Values, verify } from './check.js';
import { subjectOn } from './here.js';
import { measureCase } from './measure.js';
import { attention, expand, type Forward, gradients } from './reference.js';
import { relativeError } from './relative_error.js';

export interface PrecisionCheck {
  readonly name: string;
  /** Largest relative L2 error of a result. */
  readonly error: number;
  /** That of the unfused twin; absent where it is what the op is compared with. */
  readonly naiveError?: number;
  readonly limit: number;
  readonly right: boolean;
}

export interface Speed {
  readonly name: string;
  readonly milliseconds: number;
  readonly gflops: number;
  /** Of what `Device.measurePeakFlops` says beside it. */
  readonly percentOfPeak: number;
}

export interface SelfTest {
  readonly device: string;
  readonly checks: readonly PrecisionCheck[];
  readonly speeds: readonly Speed[];
  readonly peakGflops: number;
  readonly seconds: number;
  readonly right: boolean;
}

/** Relative to float64; with TF32 (SAS_TF32=1), products have ten bits and a ReLU's sign can turn. */
const LIMITS = { f32: { forward: 2e-6, backward: 5e-6 }, tf32: { forward: 5e-3, backward: 5e-2 } } as const;

type Tensors = Readonly<Record<string, Tensor>>;

interface Implementation {
  forward(inputs: Tensors): Results;
  backward(gradOutput: Tensor, inputs: Tensors): Results;
}

/** An op at a small size, fused and not, and in float64. */
interface Problem {
  readonly name: string;
  readonly shapes: Readonly<Record<string, readonly number[]>>;
  readonly outputShape: readonly number[];
  readonly reference: Forward;
  readonly fused: Implementation;
  readonly naive: Implementation;
}

/** T = 9, heads 2 -> 6, features 8 -> 12, kernel 3. */
function expandProblem(): Problem {
  const [T, H, D, S, E, k] = [9, 2, 8, 6, 12, 3];
  const weights = ({ x: _, ...weights }: Tensors) => weights as unknown as ops.ExpandWeights;
  const implementation = ({ expand, expandBackward }: Pick<typeof ops.naive, 'expand' | 'expandBackward'>) => ({
    forward: (t: Tensors) => ({ output: expand(t.x as Tensor, weights(t)) }),
    backward(gradOutput: Tensor, t: Tensors) {
      const { gradX, gradWeights } = expandBackward(gradOutput, t.x as Tensor, weights(t));
      return { x: gradX, ...gradWeights };
    },
  });
  return {
    name: 'expand',
    shapes: {
      x: [1, T, H, D],
      headWeight: [S, H, k],
      headBias: [S],
      headResidualWeight: [S, S, k],
      headResidualBias: [S],
      featureWeight: [E, D],
      featureBias: [E],
      featureResidualWeight: [E, E],
      featureResidualBias: [E],
    },
    outputShape: [1, T, S, E],
    reference: expand(H, D),
    fused: implementation(ops),
    naive: implementation(ops.naive),
  };
}

/** T = 17, 3 heads, queries and keys 12 wide, values 8. */
function attentionProblem(): Problem {
  const [T, heads, width, valueWidth] = [17, 3, 12, 8];
  const implementation = ({ attention, attentionBackward }: Pick<typeof ops, 'attention' | 'attentionBackward'>) => {
    const saved = ({ q, k, v }: Tensors) => {
      const operands = { q: q as Tensor, k: k as Tensor, v: v as Tensor };
      return { ...operands, ...attention(operands.q, operands.k, operands.v) };
    };
    return {
      forward: (t: Tensors) => ({ output: saved(t).output }),
      backward(gradOutput: Tensor, t: Tensors) {
        const { gradQ, gradK, gradV } = attentionBackward(gradOutput, saved(t));
        return { q: gradQ, k: gradK, v: gradV };
      },
    };
  };
  return {
    name: 'attention',
    shapes: { q: [1, T, heads, width], k: [1, T, heads, width], v: [1, T, heads, valueWidth] },
    outputShape: [1, T, heads, valueWidth],
    reference: attention(heads, width, valueWidth),
    fused: implementation(ops),
    naive: implementation(ops.naive),
  };
}

const count = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** Of all results; NaN where one is missing or has one. */
function worstError(actual: Values, truth: Values): number {
  const errors = Object.entries(truth).map(([name, values]) => relativeError(actual[name] ?? [], values));
  return errors.some(Number.isNaN) ? Number.NaN : Math.max(...errors);
}

/** Forward and backward against float64. */
async function againstFloat64(problem: Problem, device: Device, tf32: boolean): Promise<PrecisionCheck[]> {
  const random = Random.seeded(1, problem.name);
  // What f32 can hold, so that all begin with the same numbers.
  const draw = (shape: readonly number[]) =>
    Float64Array.from({ length: count(shape) }, () => Math.fround(random.normal()));
  const upload = (data: Float64Array, shape: readonly number[]) =>
    Tensor.from(Float32Array.from(data), shape, { device });
  const entries = Object.entries(problem.shapes).map(([name, shape]) => ({ name, shape, data: draw(shape) }));
  const inputs = Object.fromEntries(entries.map(({ name, data }) => [name, data]));
  const tensors = Object.fromEntries(entries.map(({ name, shape, data }) => [name, upload(data, shape)]));
  const gradOutput = draw(problem.outputShape);
  const gradTensor = upload(gradOutput, problem.outputShape);

  const truth = {
    forward: { output: problem.reference(inputs) },
    backward: gradients(problem.reference, inputs, gradOutput),
  };
  const errorsOf = async ({ forward, backward }: Implementation) => ({
    forward: worstError(await run({ scope }, () => forward(tensors)), truth.forward),
    backward: worstError(await run({ scope }, () => backward(gradTensor, tensors)), truth.backward),
  });
  const [fused, naive] = [await errorsOf(problem.fused), await errorsOf(problem.naive)];
  for (const tensor of [...Object.values(tensors), gradTensor]) tensor.dispose();

  const limits = LIMITS[tf32 ? 'tf32' : 'f32'];
  return (['forward', 'backward'] as const).map((pass): PrecisionCheck => {
    const [error, naiveError, limit] = [fused[pass], naive[pass], limits[pass]];
    return {
      name: `${problem.name} ${pass}, float64`,
      error,
      naiveError,
      limit,
      right: error <= limit && naiveError <= limit,
    };
  });
}

/** The benchmark's cases for a query's expansion and attention, forward and backward. */
function casesOf(length: number, device: Device): Case[] {
  const subject = subjectOn(device);
  return [...expandCases(length, subject).slice(0, 2), ...attentionCases(length, subject)];
}

const shortName = ({ name }: Case) => name.replace(/ \(.*\)/, '');

/** At the paper's reference heads, which fill whole tiles, fused against unfused. */
async function againstNaive(device: Device, tf32: boolean): Promise<PrecisionCheck[]> {
  const checks: PrecisionCheck[] = [];
  for (const item of casesOf(128, device)) {
    if (!item.check) continue;
    const limit = Math.max(item.check.limit, tf32 ? LIMITS.tf32.backward : 0);
    const { error } = await verify(item.check);
    checks.push({ name: `${shortName(item)}, T = ${item.length}, naive`, error, limit, right: error <= limit });
  }
  return checks;
}

async function speedOf(item: Case, device: Device): Promise<Speed[]> {
  const fused = item.contestants.filter(({ name }) => name === 'fused');
  const rows = await measureCase({ ...item, contestants: fused }, device, { samples: 3, minSeconds: 0.03 });
  return rows.map(({ milliseconds, gflops, value }) => ({
    name: `${shortName(item)}, T = ${item.length}`,
    milliseconds: milliseconds.median,
    gflops: gflops.median,
    percentOfPeak: value.median,
  }));
}

export async function selfTest(device: Device): Promise<SelfTest> {
  const start = performance.now();
  const tf32 = device.info.kind === 'cuda' && process.env.SAS_TF32 === '1';
  const checks = [
    ...(await againstFloat64(expandProblem(), device, tf32)),
    ...(await againstFloat64(attentionProblem(), device, tf32)),
    ...(await againstNaive(device, tf32)),
  ];
  const peakGflops = (await device.measurePeakFlops()) / 1e9;
  const speeds: Speed[] = [];
  for (const item of casesOf(512, device)) speeds.push(...(await speedOf(item, device)));
  return {
    device: device.info.id,
    checks,
    speeds,
    peakGflops,
    seconds: (performance.now() - start) / 1000,
    right: checks.every(({ right }) => right),
  };
}
