// Every op once, forward and backward, at sizes that are split between threads; a hash of the bits of all results. Run
//   node --import tsx test/helpers/digest.ts
// it prints the hashes as JSON: two processes with different SAS_THREADS must print the same.
import { createHash } from 'node:crypto';
import { pathToFileURL } from 'node:url';
import { ops, type Tensor } from '../../lib/index.js';
import { type AttentionShape, attentionProblem, disposeAttention, runAttention } from './attention_cases.js';
import { disposeExpand, expandProblem, runExpand } from './expand_cases.js';
import { linearProblem, runLinear } from './linear_cases.js';
import { activation, integerTensor, pair, parameter, type Results } from './parity.js';
import { type FloatType, integers, normal } from './random.js';
import { disposeModule, runModule, sasProblem } from './sas_cases.js';

async function digest({ outputs, gradients }: Results<Tensor>): Promise<string> {
  const hash = createHash('sha256');
  for (const [name, tensor] of Object.entries({ ...outputs, ...gradients })) {
    const bits = await tensor.raw();
    hash.update(`${name} [${tensor.shape.join(', ')}] ${tensor.dtype};`);
    hash.update(new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength));
    tensor.dispose();
  }
  return hash.digest('hex').slice(0, 16);
}

type Case = [string, () => Promise<string>];

/** Many tiles, an uneven number of heads, masked rows; the gradients of k and v are sums over queries and heads. */
export const attentionShapes: AttentionShape[] = [
  { batch: 2, timeQ: 193, timeK: 193, heads: 6, keyHeads: 2, width: 40, valueWidth: 24, causal: true },
  { batch: 1, timeQ: 97, timeK: 64, heads: 3, keyHeads: 3, width: 24, valueWidth: 40, causal: true },
  { batch: 1, timeQ: 70, timeK: 131, heads: 5, keyHeads: 1, width: 96, valueWidth: 64, causal: false },
];

function attentionCases(dtype: FloatType): Case[] {
  return attentionShapes.flatMap((shape, i) =>
    (['fused', 'naive'] as const).map(
      (implementation): Case => [
        `attention ${i} ${implementation} ${dtype}`,
        async () => {
          const problem = attentionProblem(shape, dtype, 1);
          const result = await digest(runAttention(implementation, problem));
          disposeAttention(problem);
          return result;
        },
      ],
    ),
  );
}

function expandCases(dtype: FloatType): Case[] {
  const sizes = { batch: 2, time: 67, heads: 4, width: 40, simHeads: 20, kernel: 5 };
  return (['fused', 'naive'] as const).flatMap((implementation) =>
    [24, 0].map(
      (simWidth): Case => [
        `expand D'=${simWidth} ${implementation} ${dtype}`,
        async () => {
          const problem = expandProblem({ ...sizes, simWidth }, dtype, 2);
          const result = await digest(runExpand(implementation, problem));
          disposeExpand(problem);
          return result;
        },
      ],
    ),
  );
}

async function sasDigest(dtype: FloatType): Promise<string> {
  const sizes = { heads: 3, headDim: 24, simHeads: 6, simHeadDim: 40, kernelSize: 5 };
  const problem = sasProblem({ ...sizes, batch: 2, timeQ: 67, timeK: 67 }, dtype, 3);
  const result = await digest(runModule(problem));
  disposeModule(problem);
  return result;
}

async function normDigest(dtype: FloatType): Promise<string> {
  const [x, gradOutput] = [activation([517, 96], 1, dtype), activation([517, 96], 2, dtype)];
  const [weight, bias] = [parameter([96], 3, 1), parameter([96], 4, 1)];
  const layer = ops.layerNorm(x.tensor, weight.tensor, bias.tensor);
  const rms = ops.rmsNorm(x.tensor, weight.tensor);
  const saved = { x: x.tensor, weight: weight.tensor };
  const layerSaved = { ...saved, mean: layer.mean, rstd: layer.rstd };
  const layerGradients = ops.layerNormBackward(gradOutput.tensor, layerSaved);
  const rmsGradients = ops.rmsNormBackward(gradOutput.tensor, { ...saved, rstd: rms.rstd });
  const gradients = { ...layerGradients, rmsGradX: rmsGradients.gradX, rmsGradWeight: rmsGradients.gradWeight };
  return digest({ outputs: { ...layer, rmsOutput: rms.output, rmsRstd: rms.rstd }, gradients });
}

async function elementwiseDigest(dtype: FloatType): Promise<string> {
  const [x, gradOutput] = [activation([3, 67, 3, 40], 1, dtype), activation([3, 67, 3, 40], 2, dtype)];
  const outputs = {
    gelu: ops.gelu(x.tensor),
    geluTanh: ops.gelu(x.tensor, { approximate: 'tanh' }),
    add: ops.add(x.tensor, gradOutput.tensor),
    rope: ops.rope(x.tensor),
    aggregate: ops.aggregate(x.tensor, 1),
  };
  const gradients = {
    gelu: ops.geluBackward(gradOutput.tensor, x.tensor),
    rope: ops.ropeBackward(gradOutput.tensor, { interleaved: true }),
    aggregate: ops.aggregateBackward(gradOutput.tensor.reshape([3, 67, 120]), 1, 3),
  };
  const hashes = [await digest({ outputs, gradients: {} }), await digest({ outputs: {}, gradients })];
  return hashes.join('-');
}

/** Every token id occurs many times: the sums of its gradient must not depend on who adds first. */
async function languageDigest(dtype: FloatType): Promise<string> {
  const tokens = integerTensor(integers(2 * 301, 1, 13), [2, 301]);
  const [tokenTable, positionTable] = [parameter([13, 40], 2, 1), parameter([301, 40], 3, 1)];
  const output = ops.embedding(tokens, tokenTable.tensor, positionTable.tensor, { dtype });
  const gradOutput = activation([2, 301, 40], 4, dtype);
  const tables = ops.embeddingBackward(gradOutput.tensor, tokens, { vocabulary: 13, positions: 301 });
  const logits = activation([2, 301, 517], 5, dtype, 3);
  const targets = integerTensor(integers(2 * 301, 6, 517), [2, 301]);
  const { loss, logSumExp } = ops.crossEntropy(logits.tensor, targets);
  const gradLoss = pair(Float32Array.of(1), [], 'f32').tensor;
  const gradLogits = ops.crossEntropyBackward(gradLoss, { logits: logits.tensor, targets, logSumExp });
  const gradients: Record<string, Tensor> = { tokenTable: tables.gradTokenTable, logits: gradLogits };
  if (tables.gradPositionTable !== undefined) gradients.positionTable = tables.gradPositionTable;
  return digest({ outputs: { output, loss, logSumExp }, gradients });
}

async function optimizerDigest(): Promise<string> {
  const shapes = [[100003], [64, 40], [1]];
  const states = shapes.map((shape, i) => ({
    parameter: pair(normal(shape, 10 + i), shape, 'f32').tensor,
    gradient: pair(normal(shape, 20 + i), shape, 'f32').tensor,
    firstMoment: pair(normal(shape, 30 + i), shape, 'f32').tensor,
    secondMoment: pair(normal(shape, 40 + i).map(Math.abs), shape, 'f32').tensor,
  }));
  const gradients = states.map(({ gradient }) => gradient);
  const norm = ops.clipGradNorm(gradients, 1);
  ops.adamW(states, { lr: 1e-2, step: 2 });
  const outputs: Record<string, Tensor> = { norm };
  for (const [i, state] of states.entries()) {
    for (const [name, tensor] of Object.entries(state)) outputs[`${name} ${i}`] = tensor;
  }
  return digest({ outputs, gradients: {} });
}

const cases: Case[] = (['f32', 'bf16', 'f16'] as const).flatMap((dtype) => [
  ...attentionCases(dtype),
  ...expandCases(dtype),
  [`linear ${dtype}`, () => linearDigest(dtype)],
  [`SasAttention ${dtype}`, () => sasDigest(dtype)],
  [`norms ${dtype}`, () => normDigest(dtype)],
  [`element-wise ${dtype}`, () => elementwiseDigest(dtype)],
  [`embedding and crossEntropy ${dtype}`, () => languageDigest(dtype)],
]);
cases.push(['optimizer', optimizerDigest]);

async function linearDigest(dtype: FloatType): Promise<string> {
  return digest(runLinear(linearProblem({ rows: [517], width: 112, outWidth: 96, bias: true }, dtype, 4)));
}

/** Hash of all results of every op, by its name. */
export async function digests(): Promise<Record<string, string>> {
  const hashes: Record<string, string> = {};
  for (const [name, run] of cases) hashes[name] = await run();
  return hashes;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  console.log(JSON.stringify(await digests()));
}
