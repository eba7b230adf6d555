/** What is measured: the package's fused ops beside their unfused twins, at the paper's reference heads. */
import { type DType, ops, SasAttention, scope, Tensor } from 'sas-attention';
import type { Candidate } from './timing.js';

/** Reference heads of the paper's 125M model: 12 real heads of 64 to 36 simulated heads of 96, kernel 5. */
export const REFERENCE = { heads: 12, headDim: 64, simHeads: 36, simHeadDim: 96, kernelSize: 5 } as const;

export interface Contestant extends Candidate {
  /** 'fused' is what users call; the others are what it is held against. */
  readonly name: 'fused' | 'naive' | 'naive MHA';
  /** Useful FLOPs of one run (recomputation does not count). */
  readonly flops: number;
}

export interface Case {
  readonly name: string;
  readonly length: number;
  /** Lowest acceptable percent of the FMA peak for 'fused', where one is set. */
  readonly floor?: number;
  readonly contestants: readonly Contestant[];
}

const { heads: H, headDim: D, simHeads: S, simHeadDim: E, kernelSize: K } = REFERENCE;

/** FLOPs per token, forward; a multiply-add counts as 2. */
export const FLOPS = {
  headExpansion: 2 * D * K * (H * S + S * S),
  featureExpansion: 2 * S * (D * E + E * E),
  outputProjection: 2 * (H * D) ** 2,
  /** Causal: half of the full square. */
  attention: (heads: number, length: number, width: number, valueWidth: number) =>
    heads * length * (width + valueWidth),
};

/** FLOPs of the whole module forward, per token: the dense parts (backward: twice) and attention (backward: 2.5 times). */
export const moduleFlops = (length: number) => ({
  dense: 3 * FLOPS.headExpansion + 2 * FLOPS.featureExpansion + FLOPS.outputProjection,
  attention: FLOPS.attention(S, length, E, D),
});

let seed = 0;
/** Inputs live as long as the process: the cases are few and small. */
const randn = (shape: readonly number[], dtype: DType = 'f32') => Tensor.randn(shape, { seed: ++seed, dtype });
const inScope = (body: () => void) => () => scope(body);

export function expandWeights(features: boolean, scale = 0.1): ops.ExpandWeights {
  const weight = (...shape: number[]) =>
    Tensor.from(
      Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => scale * Math.sin(i * 12.9898)),
      shape,
    );
  return {
    headWeight: weight(S, H, K),
    headBias: weight(S),
    headResidualWeight: weight(S, S, K),
    headResidualBias: weight(S),
    ...(features && {
      featureWeight: weight(E, D),
      featureBias: weight(E),
      featureResidualWeight: weight(E, E),
      featureResidualBias: weight(E),
    }),
  };
}

function expandCases(length: number): Case[] {
  return [true, false].flatMap((features): Case[] => {
    const x = randn([1, length, H, D]);
    const weights = expandWeights(features);
    const gradOutput = randn([1, length, S, features ? E : D]);
    const flops = length * (FLOPS.headExpansion + (features ? FLOPS.featureExpansion : 0));
    const kind = features ? 'Q (heads + features)' : 'V (heads)';
    return [
      {
        name: `expand ${kind} forward`,
        length,
        ...(length >= 512 && { floor: 60 }),
        contestants: [
          { name: 'fused', flops, run: inScope(() => void ops.expand(x, weights)) },
          { name: 'naive', flops, run: inScope(() => void ops.naive.expand(x, weights)) },
        ],
      },
      {
        name: `expand ${kind} backward`,
        length,
        contestants: [
          { name: 'fused', flops: 2 * flops, run: inScope(() => void ops.expandBackward(gradOutput, x, weights)) },
          {
            name: 'naive',
            flops: 2 * flops,
            run: inScope(() => void ops.naive.expandBackward(gradOutput, x, weights)),
          },
        ],
      },
    ];
  });
}

function attentionCases(length: number): Case[] {
  const shape = (heads: number, width: number) => [1, length, heads, width];
  const [q, k, v] = [randn(shape(S, E)), randn(shape(S, E)), randn(shape(S, D))];
  const [mhaQ, mhaK, mhaV] = [randn(shape(H, D)), randn(shape(H, D)), randn(shape(H, D))];
  const gradOutput = randn(shape(S, D));
  const mhaGradOutput = randn(shape(H, D));
  const saved = { q, k, v, ...ops.attention(q, k, v) };
  const mhaSaved = { q: mhaQ, k: mhaK, v: mhaV, ...ops.attention(mhaQ, mhaK, mhaV) };
  const flops = length * FLOPS.attention(S, length, E, D);
  const mhaFlops = length * FLOPS.attention(H, length, D, D);
  return [
    {
      name: 'attention forward',
      length,
      ...(length === 1024 && { floor: 50 }),
      contestants: [
        { name: 'fused', flops, run: inScope(() => void ops.attention(q, k, v)) },
        { name: 'naive', flops, run: inScope(() => void ops.naive.attention(q, k, v)) },
        { name: 'naive MHA', flops: mhaFlops, run: inScope(() => void ops.naive.attention(mhaQ, mhaK, mhaV)) },
      ],
    },
    {
      name: 'attention backward',
      length,
      contestants: [
        { name: 'fused', flops: 2.5 * flops, run: inScope(() => void ops.attentionBackward(gradOutput, saved)) },
        { name: 'naive', flops: 2.5 * flops, run: inScope(() => void ops.naive.attentionBackward(gradOutput, saved)) },
        {
          name: 'naive MHA',
          flops: 2.5 * mhaFlops,
          run: inScope(() => void ops.naive.attentionBackward(mhaGradOutput, mhaSaved)),
        },
      ],
    },
  ];
}

function linearCases(length: number): Case[] {
  const width = H * D;
  const x = randn([length, width]);
  const weight = randn([width, width]);
  const bias = randn([width]);
  const flops = length * FLOPS.outputProjection;
  return [
    {
      name: 'linear forward',
      length,
      ...(length >= 512 && { floor: 75 }),
      contestants: [{ name: 'fused', flops, run: inScope(() => void ops.linear(x, weight, bias)) }],
    },
    {
      name: 'linear backward',
      length,
      ...(length >= 512 && { floor: 75 }),
      contestants: [{ name: 'fused', flops: 2 * flops, run: inScope(() => void ops.linearBackward(x, x, weight)) }],
    },
  ];
}

/** The whole block, forward and backward, beside the unfused pipeline of the same equations and plain MHA of the same width. */
function moduleCases(length: number): Case[] {
  const sas = new SasAttention({ ...REFERENCE });
  const weights = (part: string, features: boolean) => {
    const get = (name: string) => sas.parameters.get(`sas_${part}.${name}`) as Tensor;
    return {
      headWeight: get('0.weight'),
      headBias: get('0.bias'),
      headResidualWeight: get('1.process.weight'),
      headResidualBias: get('1.process.bias'),
      ...(features && {
        featureWeight: get('2.weight'),
        featureBias: get('2.bias'),
        featureResidualWeight: get('3.process.weight'),
        featureResidualBias: get('3.process.bias'),
      }),
    };
  };
  const [weightsQ, weightsK, weightsV] = [weights('q', true), weights('k', true), weights('v', false)];
  const outputWeight = sas.parameters.get('output_dense.weight') as Tensor;
  const outputBias = sas.parameters.get('output_dense.bias') as Tensor;
  const [x, y, z] = [randn([1, length, H, D]), randn([1, length, H, D]), randn([1, length, H, D])];
  const gradOutput = randn([1, length, H * D]);

  const fused = () => {
    const { saved } = sas.forward(x, y, z);
    sas.backward(gradOutput, saved);
  };
  const naive = () => {
    const [q, k, v] = [ops.naive.expand(x, weightsQ), ops.naive.expand(y, weightsK), ops.naive.expand(z, weightsV)];
    const attended = ops.naive.attention(q, k, v);
    const mean = ops.aggregate(attended.output, H);
    ops.linear(mean, outputWeight, outputBias);
    const grad = ops.linearBackward(gradOutput, mean, outputWeight);
    const grads = ops.naive.attentionBackward(ops.aggregateBackward(grad.gradX, H, S), { q, k, v, ...attended });
    ops.naive.expandBackward(grads.gradQ, x, weightsQ);
    ops.naive.expandBackward(grads.gradK, y, weightsK);
    ops.naive.expandBackward(grads.gradV, z, weightsV);
  };
  const naiveMha = () => {
    const attended = ops.naive.attention(x, y, z);
    const joined = attended.output.reshape([1, length, H * D]);
    ops.linear(joined, outputWeight, outputBias);
    const grad = ops.linearBackward(gradOutput, joined, outputWeight);
    ops.naive.attentionBackward(grad.gradX.reshape([1, length, H, D]), { q: x, k: y, v: z, ...attended });
  };

  const { dense, attention } = moduleFlops(length);
  const flops = length * (3 * dense + 3.5 * attention);
  const mhaFlops = 3 * length * FLOPS.outputProjection + 3.5 * length * FLOPS.attention(H, length, D, D);
  return [
    {
      name: 'SasAttention forward + backward',
      length,
      ...(length === 512 && { floor: 40 }),
      contestants: [
        { name: 'fused', flops, run: inScope(fused) },
        { name: 'naive', flops, run: inScope(naive) },
        { name: 'naive MHA', flops: mhaFlops, run: inScope(naiveMha) },
      ],
    },
  ];
}

/** The cases in the order of the report; each is built when it is reached. */
export const CASES: readonly { readonly name: string; readonly make: (length: number) => Case[] }[] = [
  { name: 'expand', make: expandCases },
  { name: 'attention', make: attentionCases },
  { name: 'linear', make: linearCases },
  { name: 'SasAttention', make: moduleCases },
];
