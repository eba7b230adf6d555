/** What is measured of the ops: the fused ones beside their unfused twins, at the paper's reference heads. */
import type { DType, ops as library, Tensor } from '../index.js';
import { type Check, type Results, read, run, type Values } from './check.js';
import { linearBackwardOnHost, linearOnHost } from './host_linear.js';
import { DEFAULT } from './models.js';
import type { Subject } from './subject.js';
import type { Candidate } from './timing.js';
import type { UnitName } from './units.js';
import { attentionWork, expandWork, linearWork, REFERENCE, sasWork, sum, sumPasses, type Work } from './work.js';

export { REFERENCE };

/** What is known of a contestant before it runs. */
export interface ContestantFacts {
  readonly name: string;
  /** Useful work of one run; bytes and tokens are left out where they say nothing. */
  readonly work: Pick<Work, 'flops'> & Partial<Work> & { readonly tokens?: number };
  /** What the result is wished to reach, in the case's unit. */
  readonly target?: number;
  /** How many times as fast as another checkout's it is wished to be (`--against`). */
  readonly speedup?: number;
}

export interface Contestant extends ContestantFacts, Candidate {}

export interface CaseFacts {
  readonly name: string;
  /** Tokens per sequence, where there is one. */
  readonly length?: number;
  /** What the contestants' results are stated in. */
  readonly unit: UnitName;
  /** Results relative to another contestant are relative to the first one. */
  readonly contestants: readonly ContestantFacts[];
}

export interface Case extends CaseFacts {
  readonly contestants: readonly Contestant[];
  /** Absent where nothing else computes the same. */
  readonly check?: Check;
  /** Takes so long that it is left out where it is to be quick and nothing is asked for by name. */
  readonly slow?: boolean;
  /** Frees what the contestants made; absent where it is little. */
  dispose?(): void;
}

/**
 * Largest relative errors that pass; for bf16, a few roundings of 2^-9. A gradient through ReLU is not continuous: one
 * activation so near 0 that rounding turns its sign makes 3e-4 of gradX at T = 128.
 */
const LIMITS = { f32: 1e-4, throughRelu: 5e-3, bf16: 2e-2 } as const;

const { heads: H, headDim: D, simHeads: S, simHeadDim: E, kernelSize: K } = REFERENCE;

let seed = 0;

/** What cases are made of, in the library that is measured. */
export const toolsOf = (subject: Subject) => ({
  /** Inputs live as long as the process: the cases are few and small. */
  randn: (shape: readonly number[], dtype: DType = 'f32'): Tensor =>
    subject.Tensor.randn(shape, { seed: ++seed, dtype, device: subject.device }),
  /** A contestant that enqueues an op and frees its results. */
  op: (name: string, work: Contestant['work'], results: () => Results, target?: number): Contestant => ({
    name,
    work,
    target,
    run: () => subject.scope(() => void results()),
  }),
  valuesOf: (results: () => Results): Promise<Values> => run(subject, results),
  twins: (actual: () => Results, expected: () => Results, limit: number = LIMITS.f32): Check => ({
    actual: () => run(subject, actual),
    expected: () => run(subject, expected),
    limit,
  }),
});

export function expandWeights(
  { Tensor, device }: Pick<Subject, 'Tensor'> & Partial<Pick<Subject, 'device'>>,
  features: boolean,
): library.ExpandWeights {
  const weight = (...shape: number[]) =>
    Tensor.from(
      Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => 0.1 * Math.sin(i * 12.9898)),
      shape,
      { device },
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

export function expandCases(length: number, subject: Subject): Case[] {
  const { ops } = subject;
  const { randn, op, twins } = toolsOf(subject);
  const enough = length >= 512;
  const kinds = [
    { kind: 'Q (heads + features)', features: true, forwardTarget: 88, backwardTarget: 75 },
    { kind: 'V (heads)', features: false, forwardTarget: 88, backwardTarget: 72 },
  ];
  return kinds.flatMap(({ kind, features, forwardTarget, backwardTarget }): Case[] => {
    const x = randn([1, length, H, D]);
    const weights = expandWeights(subject, features);
    const gradOutput = randn([1, length, S, features ? E : D]);
    const work = expandWork(length, REFERENCE, features);
    const forward = (expand: typeof ops.naive.expand) => () => ({ output: expand(x, weights) });
    const backward = (expandBackward: typeof ops.naive.expandBackward) => () => {
      const { gradX, gradWeights } = expandBackward(gradOutput, x, weights);
      return { gradX, ...gradWeights };
    };
    // With what the forward pass keeps, made when it is first asked for: an older library keeps nothing.
    let kept: library.ExpandKept | undefined;
    const keptBackward = op(
      'fused, kept',
      work.backward,
      () => {
        const { gradX, gradWeights } = ops.expandBackward(gradOutput, x, weights, { kept });
        return { gradX, ...gradWeights };
      },
      enough ? backwardTarget : undefined,
    );
    const backwardKept: Contestant = {
      ...keptBackward,
      run() {
        kept ??= ops.expand(x, weights, { keep: true }).kept;
        keptBackward.run();
      },
    };
    return [
      {
        name: `expand ${kind} forward`,
        length,
        unit: 'percent',
        contestants: [
          op('fused', work.forward, forward(ops.expand), enough ? forwardTarget : undefined),
          op('naive', work.forward, forward(ops.naive.expand)),
        ],
        check: twins(forward(ops.expand), forward(ops.naive.expand)),
      },
      {
        name: `expand ${kind} backward`,
        length,
        unit: 'percent',
        contestants: [
          op('fused', work.backward, backward(ops.expandBackward)),
          backwardKept,
          op('naive', work.backward, backward(ops.naive.expandBackward)),
        ],
        check: twins(backward(ops.expandBackward), backward(ops.naive.expandBackward), LIMITS.throughRelu),
      },
    ];
  });
}

const ATTENTION_TARGETS: Readonly<Record<number, { forward: number; backward: number }>> = {
  512: { forward: 72, backward: 70 },
  2048: { forward: 82, backward: 76 },
};

interface AttentionShape {
  readonly batch: number;
  readonly heads: number;
  readonly width: number;
  readonly valueWidth: number;
}

/** SAS's shape, 36 heads with q/k 96 and v 64 wide, and plain MHA's, 12 heads 64 wide. */
const SHAPES = {
  sas: { batch: 1, heads: S, width: E, valueWidth: D },
  mha: { batch: 1, heads: H, width: D, valueWidth: D },
} as const;

/** One attention's inputs, forward and backward, and its work. */
function attending(length: number, shape: AttentionShape, subject: Subject) {
  const { batch, heads, width, valueWidth } = shape;
  const { randn } = toolsOf(subject);
  const [q, k] = [randn([batch, length, heads, width]), randn([batch, length, heads, width])];
  const [v, gradOutput] = [randn([batch, length, heads, valueWidth]), randn([batch, length, heads, valueWidth])];
  const saved = { q, k, v, ...subject.ops.attention(q, k, v) };
  return {
    work: attentionWork({ ...shape, length }),
    forward: (attention: typeof library.attention) => () => ({ ...attention(q, k, v) }),
    backward: (attentionBackward: typeof library.attentionBackward) => () => attentionBackward(gradOutput, saved),
  };
}

export function attentionCases(length: number, subject: Subject): Case[] {
  const { ops } = subject;
  const { op, twins } = toolsOf(subject);
  const [sas, mha] = [attending(length, SHAPES.sas, subject), attending(length, SHAPES.mha, subject)];
  const targets = ATTENTION_TARGETS[length];
  return [
    {
      name: 'attention forward',
      length,
      unit: 'percent',
      contestants: [
        op('fused', sas.work.forward, sas.forward(ops.attention), targets?.forward),
        op('naive', sas.work.forward, sas.forward(ops.naive.attention)),
        op('naive MHA', mha.work.forward, mha.forward(ops.naive.attention)),
      ],
      check: twins(sas.forward(ops.attention), sas.forward(ops.naive.attention)),
    },
    {
      name: 'attention backward',
      length,
      unit: 'percent',
      contestants: [
        op('fused', sas.work.backward, sas.backward(ops.attentionBackward), targets?.backward),
        op('naive', sas.work.backward, sas.backward(ops.naive.attentionBackward)),
        op('naive MHA', mha.work.backward, mha.backward(ops.naive.attentionBackward)),
      ],
      check: twins(sas.backward(ops.attentionBackward), sas.backward(ops.naive.attentionBackward)),
    },
  ];
}

/** The attention inside the default model's SAS: narrow heads, short sequences, many of them. */
export function exampleAttentionCases(subject: Subject): Case[] {
  const { ops } = subject;
  const { op, twins } = toolsOf(subject);
  const { batch, seq: length, width, heads, simHeads, simHeadDim } = DEFAULT.configOf('sas');
  const shape = { batch, heads: simHeads, width: simHeadDim, valueWidth: width / heads };
  const { work, forward, backward } = attending(length, shape, subject);
  const pass = (name: string, own: Work, fused: () => Results, naive: () => Results): Case => ({
    name: `attention ${name}, default model`,
    length,
    unit: 'percent',
    contestants: [op('fused', own, fused, 60), op('naive', own, naive)],
    check: twins(fused, naive),
  });
  return [
    pass('forward', work.forward, forward(ops.attention), forward(ops.naive.attention)),
    pass('backward', work.backward, backward(ops.attentionBackward), backward(ops.naive.attentionBackward)),
  ];
}

/** Linear has no unfused twin: plain loops on the host stands for it. */
export function linearCases(length: number, subject: Subject): Case[] {
  const { ops } = subject;
  const { randn, op, valuesOf } = toolsOf(subject);
  const width = H * D;
  const [x, gradOutput] = [randn([length, width]), randn([length, width])];
  const [weight, bias] = [randn([width, width]), randn([width])];
  const work = linearWork(length, width, width);
  const target = length === 512 ? 90 : undefined;
  const forward = () => ({ output: ops.linear(x, weight, bias) });
  const backward = () => ({ ...ops.linearBackward(gradOutput, x, weight) });
  const inputs = async () => ({ rows: length, values: await read({ x, gradOutput, weight, bias }) });
  return [
    {
      name: 'linear forward',
      length,
      unit: 'percent',
      contestants: [op('fused', work.forward, forward, target)],
      check: { actual: () => valuesOf(forward), expected: async () => linearOnHost(await inputs()), limit: LIMITS.f32 },
    },
    {
      name: 'linear backward',
      length,
      unit: 'percent',
      contestants: [op('fused', work.backward, backward, target)],
      check: {
        actual: () => valuesOf(backward),
        expected: async () => linearBackwardOnHost(await inputs()),
        limit: LIMITS.f32,
      },
    },
  ];
}

/** The gradient of a bias can be 0 in exact arithmetic (that of all keys alike): only noise to compare. */
const withoutBiases = (results: Results): Results =>
  Object.fromEntries(Object.entries(results).filter(([name]) => !name.endsWith('.bias')));

const MODULE_TARGETS: Readonly<Record<number, number>> = { 512: 70, 2048: 78 };

/** The whole block, forward and backward, beside the unfused pipeline of the same equations and plain MHA of the same width. */
export function moduleCases(length: number, subject: Subject): Case[] {
  const { ops, SasAttention, device } = subject;
  const { randn, op, twins } = toolsOf(subject);
  const sas = new SasAttention({ ...REFERENCE, device });
  const parameter = (name: string) => sas.parameters.get(name) as Tensor;
  const names = new Map([...sas.parameters].map(([name, tensor]) => [tensor, name]));
  const named = (weights: library.ExpandWeights, gradients: library.ExpandWeights): Results =>
    Object.fromEntries(
      (Object.keys(gradients) as (keyof library.ExpandWeights)[]).map((key) => [
        names.get(weights[key] as Tensor) ?? key,
        gradients[key],
      ]),
    );
  const [weightsQ, weightsK, weightsV] = [sas.expandWeights('q'), sas.expandWeights('k'), sas.expandWeights('v')];
  const [outputWeight, outputBias] = [parameter('output_dense.weight'), parameter('output_dense.bias')];
  const [x, y, z] = [randn([1, length, H, D]), randn([1, length, H, D]), randn([1, length, H, D])];
  const gradOutput = randn([1, length, H * D]);

  const fused = () => {
    const { output, saved } = sas.forward(x, y, z);
    const { gradQ, gradK, gradV, gradParameters } = sas.backward(gradOutput, saved);
    return { output, gradQ, gradK, gradV, ...Object.fromEntries(gradParameters) };
  };
  const naive = () => {
    const [q, k, v] = [ops.naive.expand(x, weightsQ), ops.naive.expand(y, weightsK), ops.naive.expand(z, weightsV)];
    const attended = ops.naive.attention(q, k, v);
    const mean = ops.aggregate(attended.output, H);
    const output = ops.linear(mean, outputWeight, outputBias);
    const grad = ops.linearBackward(gradOutput, mean, outputWeight);
    const grads = ops.naive.attentionBackward(ops.aggregateBackward(grad.gradX, H, S), { q, k, v, ...attended });
    const gradX = ops.naive.expandBackward(grads.gradQ, x, weightsQ);
    const gradY = ops.naive.expandBackward(grads.gradK, y, weightsK);
    const gradZ = ops.naive.expandBackward(grads.gradV, z, weightsV);
    return {
      output,
      gradQ: gradX.gradX,
      gradK: gradY.gradX,
      gradV: gradZ.gradX,
      ...named(weightsQ, gradX.gradWeights),
      ...named(weightsK, gradY.gradWeights),
      ...named(weightsV, gradZ.gradWeights),
      'output_dense.weight': grad.gradWeight,
      'output_dense.bias': grad.gradBias,
    };
  };
  const naiveMha = () => {
    const attended = ops.naive.attention(x, y, z);
    const joined = attended.output.reshape([1, length, H * D]);
    const output = ops.linear(joined, outputWeight, outputBias);
    const grad = ops.linearBackward(gradOutput, joined, outputWeight);
    const heads = grad.gradX.reshape([1, length, H, D]);
    return { output, ...ops.naive.attentionBackward(heads, { q: x, k: y, v: z, ...attended }) };
  };

  const bothPasses = ({ forward, backward }: ReturnType<typeof sasWork>) => sum([forward, backward]);
  const work = bothPasses(sasWork(1, length, REFERENCE));
  const attention = attentionWork({ length, ...SHAPES.mha });
  const mhaWork = bothPasses(sumPasses([attention, linearWork(length, H * D, H * D)]));
  return [
    {
      name: 'SasAttention forward + backward',
      length,
      unit: 'percent',
      contestants: [
        op('fused', work, fused, MODULE_TARGETS[length]),
        op('naive', work, naive),
        op('naive MHA', mhaWork, naiveMha),
      ],
      check: twins(
        () => withoutBiases(fused()),
        () => withoutBiases(naive()),
        LIMITS.throughRelu,
      ),
    },
  ];
}

/** The same values stored in 32 and in 16 bits; parameters are f32 in both. */
export function bf16Cases(length: number, subject: Subject): Case[] {
  const { ops, device } = subject;
  const { randn, op, twins } = toolsOf(subject);
  const target = device.info.isa === 'avx512bf16' ? 1.4 : undefined; // other instruction sets compute in f32
  const pair = (...shape: number[]) => {
    const bf16 = randn(shape, 'bf16');
    return { bf16, f32: bf16.to({ dtype: 'f32' }) };
  };
  const of = (
    name: string,
    work: (elementBytes: number) => Work,
    results: (type: 'f32' | 'bf16') => Results,
  ): Case => ({
    name: `${name}, bf16`,
    length,
    unit: 'ratio',
    contestants: [op('f32', work(4), () => results('f32')), op('bf16', work(2), () => results('bf16'), target)],
    check: twins(
      () => results('bf16'),
      () => results('f32'),
      LIMITS.bf16,
    ),
  });
  const x = pair(1, length, H, D);
  const weights = expandWeights(subject, true);
  const [q, k, v] = [pair(1, length, S, E), pair(1, length, S, E), pair(1, length, S, D)];
  const rows = pair(length, H * D);
  const [weight, bias] = [randn([H * D, H * D]), randn([H * D])];
  return [
    of(
      'expand Q forward',
      (bytes) => expandWork(length, REFERENCE, true, bytes).forward,
      (type) => ({ output: ops.expand(x[type], weights) }),
    ),
    of(
      'attention forward',
      (bytes) => attentionWork({ length, ...SHAPES.sas }, bytes).forward,
      (type) => ({ ...ops.attention(q[type], k[type], v[type]) }),
    ),
    of(
      'linear forward',
      (bytes) => linearWork(length, H * D, H * D, bytes).forward,
      (type) => ({ output: ops.linear(rows[type], weight, bias) }),
    ),
  ];
}

/** From the call to the result in JavaScript's hands. */
export function smallCases(size: number, subject: Subject): Case[] {
  const { ops } = subject;
  const { randn, valuesOf } = toolsOf(subject);
  const [a, b] = [randn([size]), randn([size])];
  const add = () => ({ output: ops.add(a, b) });
  const runAndRead = async () => {
    const { output } = add();
    await output.data();
    output.dispose();
  };
  const sums = async () => {
    const values = await read({ a, b });
    return { output: Float32Array.from(values.a ?? [], (value, i) => value + (values.b?.[i] ?? 0)) };
  };
  return [
    {
      name: `add of ${size} f32, call to data`,
      unit: 'microseconds',
      contestants: [{ name: 'op, data()', work: { flops: size, bytes: 12 * size }, target: 15, run: runAndRead }],
      check: { actual: () => valuesOf(add), expected: sums, limit: LIMITS.f32 },
    },
  ];
}
