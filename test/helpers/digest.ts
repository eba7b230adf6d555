// Every op once, forward and backward, at sizes that are split between threads; a hash of the bits of all results. Run
//   node --import tsx test/helpers/digest.ts
// it prints the number of threads and the hashes as JSON: two processes with different SAS_THREADS must print the same.
import { createHash } from 'node:crypto';
import { pathToFileURL } from 'node:url';
import { ops, Tensor } from '../../lib/index.js';
import { runModule, sasProblem } from '../modules/sas_attention.js';
import { type AttentionShape, attentionProblem, runAttention } from './attention_cases.js';
import { type ExpandShape, expandProblem, runExpand } from './expand_cases.js';
import { linearProblem, runLinear } from './linear_cases.js';
import { activation, device, floatTypes, integerTensor, pair, parameter, type Results } from './parity.js';
import { type FloatType, integers, normal } from './random.js';

async function digest({ outputs, gradients }: Results<Tensor>): Promise<string> {
  const hash = createHash('sha256');
  for (const [name, tensor] of [...Object.entries(outputs), ...Object.entries(gradients)]) {
    const bits = await tensor.raw();
    hash.update(`${name} [${tensor.shape.join(', ')}] ${tensor.dtype};`);
    hash.update(new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength));
    tensor.dispose();
  }
  return hash.digest('hex').slice(0, 16);
}

/** Prepares the inputs once; what it returns runs the ops on them. */
type Prepare = () => () => Results<Tensor>;
type Case = [name: string, prepare: Prepare];

/** Many tiles, an uneven number of heads, masked rows; the gradients of k and v are sums over queries and heads. */
const attentionShapes: AttentionShape[] = [
  { batch: 2, timeQ: 193, timeK: 193, heads: 6, keyHeads: 2, width: 40, valueWidth: 24, causal: true },
  { batch: 1, timeQ: 97, timeK: 64, heads: 3, keyHeads: 3, width: 24, valueWidth: 40, causal: true },
  { batch: 1, timeQ: 70, timeK: 131, heads: 5, keyHeads: 1, width: 96, valueWidth: 64, causal: false },
];

const implementations = ['fused', 'naive'] as const;

function attentionCases(dtype: FloatType): Case[] {
  return attentionShapes.flatMap((shape, i) =>
    implementations.map(
      (implementation): Case => [
        `attention ${i} ${implementation} ${dtype}`,
        () => {
          const problem = attentionProblem(shape, dtype, 1);
          return () => runAttention(implementation, problem);
        },
      ],
    ),
  );
}

function expandCases(dtype: FloatType): Case[] {
  const sizes = { batch: 2, time: 67, heads: 4, width: 40, simHeads: 20, kernel: 5 };
  const prepare = (implementation: (typeof implementations)[number], shape: ExpandShape) => () => {
    const problem = expandProblem(shape, dtype, 2);
    return () => runExpand(implementation, problem);
  };
  return [24, 0].flatMap((simWidth) => [
    ...implementations.map(
      (each): Case => [`expand D'=${simWidth} ${each} ${dtype}`, prepare(each, { ...sizes, simWidth })],
    ),
    [`expand D'=${simWidth} with rope ${dtype}`, prepare('fused', { ...sizes, simWidth, rope: { offset: 5 } })],
  ]);
}

function prepareModule(dtype: FloatType): () => Results<Tensor> {
  const sizes = { heads: 3, headDim: 24, simHeads: 6, simHeadDim: 40, kernelSize: 5 };
  const problem = sasProblem({ ...sizes, batch: 2, timeQ: 67, timeK: 67 }, dtype, 3);
  return () => runModule(problem);
}

function prepareLinear(dtype: FloatType): () => Results<Tensor> {
  const problem = linearProblem({ rows: [517], width: 112, outWidth: 96, bias: true }, dtype, 4);
  return () => runLinear(problem);
}

function prepareNorms(dtype: FloatType): () => Results<Tensor> {
  const [x, gradOutput] = [activation([517, 96], 1, dtype), activation([517, 96], 2, dtype)];
  const [weight, bias] = [parameter([96], 3, 1), parameter([96], 4, 1)];
  const saved = { x: x.tensor, weight: weight.tensor };
  return () => {
    const layer = ops.layerNorm(x.tensor, weight.tensor, bias.tensor);
    const rms = ops.rmsNorm(x.tensor, weight.tensor);
    const layerSaved = { ...saved, mean: layer.mean, rstd: layer.rstd };
    const layerGradients = ops.layerNormBackward(gradOutput.tensor, layerSaved);
    const rmsGradients = ops.rmsNormBackward(gradOutput.tensor, { ...saved, rstd: rms.rstd });
    const gradients = { ...layerGradients, rmsGradX: rmsGradients.gradX, rmsGradWeight: rmsGradients.gradWeight };
    return { outputs: { ...layer, rmsOutput: rms.output, rmsRstd: rms.rstd }, gradients };
  };
}

function prepareElementwise(dtype: FloatType): () => Results<Tensor> {
  const [x, gradOutput] = [activation([3, 67, 3, 40], 1, dtype), activation([3, 67, 3, 40], 2, dtype)];
  const gradAggregate = activation([3, 67, 120], 3, dtype);
  return () => ({
    outputs: {
      gelu: ops.gelu(x.tensor),
      geluTanh: ops.gelu(x.tensor, { approximate: 'tanh' }),
      add: ops.add(x.tensor, gradOutput.tensor),
      rope: ops.rope(x.tensor),
      aggregate: ops.aggregate(x.tensor, 1),
    },
    gradients: {
      gelu: ops.geluBackward(gradOutput.tensor, x.tensor),
      geluTanh: ops.geluBackward(gradOutput.tensor, x.tensor, { approximate: 'tanh' }),
      rope: ops.ropeBackward(gradOutput.tensor, { interleaved: true }),
      aggregate: ops.aggregateBackward(gradAggregate.tensor, 3, 9),
    },
  });
}

/** Gradients of what several heads share are sums over heads, those of factors sums over heads and features. */
function prepareFactors(dtype: FloatType): () => Results<Tensor> {
  const shapes = [
    [3, 67, 5, 24],
    [3, 67, 1, 16],
    [3, 67, 6, 5],
    [3, 67, 6, 40],
    [3, 67, 5, 40],
  ];
  const [a, b, headFactors, featureFactors, gradOutput] = shapes.map(
    (shape, i) => activation(shape, 1 + i, dtype).tensor,
  );
  return () => ({
    outputs: { concat: ops.concat(a, b), tensorProduct: ops.tensorProduct(headFactors, featureFactors) },
    gradients: {
      ...ops.concatBackward(gradOutput, { widthA: 24, headsB: 1 }),
      ...ops.tensorProductBackward(gradOutput, headFactors, featureFactors),
    },
  });
}

/** Every token id occurs many times: the sums of its gradient must not depend on who adds first. */
function prepareLanguage(dtype: FloatType): () => Results<Tensor> {
  const tokens = integerTensor(integers(2 * 101, 1, 13), [2, 101]);
  const [tokenTable, positionTable] = [parameter([13, 40], 2, 1), parameter([101, 40], 3, 1)];
  const gradOutput = activation([2, 101, 40], 4, dtype);
  const logits = activation([2, 101, 517], 5, dtype, 3);
  const targets = integerTensor(integers(2 * 101, 6, 517), [2, 101]);
  const gradLoss = pair(Float32Array.of(1), [], 'f32').tensor;
  return () => {
    const output = ops.embedding(tokens, tokenTable.tensor, positionTable.tensor, { dtype });
    const tables = ops.embeddingBackward(gradOutput.tensor, tokens, { vocabulary: 13, positions: 101 });
    const { loss, logSumExp } = ops.crossEntropy(logits.tensor, targets);
    const gradLogits = ops.crossEntropyBackward(gradLoss, { logits: logits.tensor, targets, logSumExp });
    const gradients: Record<string, Tensor> = { tokenTable: tables.gradTokenTable, logits: gradLogits };
    if (tables.gradPositionTable !== undefined) gradients.positionTable = tables.gradPositionTable;
    return { outputs: { output, loss, logSumExp }, gradients };
  };
}

/** In place, so every run gets copies. */
function prepareOptimizer(): () => Results<Tensor> {
  const roles = ['parameter', 'gradient', 'firstMoment', 'secondMoment'] as const;
  const values = [[40003], [64, 40], [1]].map((shape, i) => ({
    shape,
    data: roles.map((_, j) => normal(shape, 10 * i + j).map(Math.abs)),
  }));
  return () => {
    const states = values.map(({ shape, data }) => {
      const [parameter, gradient, firstMoment, secondMoment] = data.map((copy) => Tensor.from(copy, shape, { device }));
      return { parameter, gradient, firstMoment, secondMoment };
    });
    const gradients = states.map(({ gradient }) => gradient);
    const outputs: Record<string, Tensor> = { norm: ops.clipGradNorm(gradients, 1) };
    ops.adamW(states, { lr: 1e-2, step: 2 });
    for (const [i, state] of states.entries()) {
      for (const role of roles) outputs[`${role} ${i}`] = state[role];
    }
    return { outputs, gradients: {} };
  };
}

const cases: Case[] = floatTypes.flatMap((dtype) => [
  ...attentionCases(dtype),
  ...expandCases(dtype),
  [`SasAttention ${dtype}`, () => prepareModule(dtype)] satisfies Case,
  [`linear ${dtype}`, () => prepareLinear(dtype)] satisfies Case,
  [`norms ${dtype}`, () => prepareNorms(dtype)] satisfies Case,
  [`element-wise ${dtype}`, () => prepareElementwise(dtype)] satisfies Case,
  [`concat and tensorProduct ${dtype}`, () => prepareFactors(dtype)] satisfies Case,
  [`embedding and crossEntropy ${dtype}`, () => prepareLanguage(dtype)] satisfies Case,
]);
cases.push(['optimizer', prepareOptimizer]);

/** The different hashes that `runs` runs of every op give, by its name: one hash if the op is repeatable. */
export async function digests(runs: number): Promise<Record<string, string[]>> {
  const hashes: Record<string, string[]> = {};
  for (const [name, prepare] of cases) {
    const run = prepare();
    const seen = new Set<string>();
    for (let i = 0; i < runs; i++) seen.add(await digest(run()));
    hashes[name] = [...seen];
  }
  return hashes;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  console.log(JSON.stringify({ threads: device.info.threads, hashes: await digests(1) }));
}
