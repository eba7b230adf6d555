/** Right calls of the backward ops, and of what runs attention and the mean over its groups in one. */
import { ops, type Tensor } from '../../lib/index.js';
import * as reference from '../helpers/reference/index.js';
import type { Call, Generate, Maker } from './library_operands.js';

type Pair = ReturnType<Maker['pair']>;
type Pairs = Record<string, Pair>;

const of = <K extends 'tensor' | 'exact'>(pairs: Pairs, kind: K) =>
  Object.fromEntries(Object.entries(pairs).map(([name, pair]) => [name, pair[kind]])) as Record<string, Pair[K]>;

function attentionOperands(make: Maker, groups = 1) {
  const { draw } = make;
  const [dtype, B, kvHeads, H] = [make.float(), 1 + draw.below(2), 1 + draw.below(3), 1 + draw.below(3)];
  const [Tq, Tk, D, Dv, heads] = [draw.size(), draw.size(), draw.size(), draw.size(), groups * H * kvHeads];
  const [q, k, v] = [
    make.pair(dtype, B, Tq, heads, D),
    make.pair(dtype, B, Tk, kvHeads, D),
    make.pair(dtype, B, Tk, kvHeads, Dv),
  ];
  const options = { causal: draw.chance(0.5), scale: 0.7 };
  return { dtype, q, k, v, options, heads: heads / groups, gradOutput: () => make.pair(dtype, B, Tq, heads, Dv) };
}

function attentionBackward(make: Maker, naive: boolean): Call {
  const { dtype, q, k, v, options, gradOutput } = attentionOperands(make);
  const gradient = gradOutput();
  const { output, logSumExp } = ops.attention(q.tensor, k.tensor, v.tensor, options);
  const widened = !naive && make.draw.chance(0.3);
  return {
    name: naive ? 'naive.attentionBackward' : 'attentionBackward',
    run: naive ? ops.naive.attentionBackward : ops.attentionBackward,
    args: [
      gradient.tensor,
      { q: q.tensor, k: k.tensor, v: v.tensor, output: make.keep(output), logSumExp: make.keep(logSumExp) },
      widened ? { ...options, gradDtype: 'f32' } : options,
    ],
    dtype,
    truth: () => ({ ...reference.attentionBackward(gradient.exact, q.exact, k.exact, v.exact, options) }),
  };
}

function expandBackward(make: Maker, naive: boolean): Call {
  const { draw } = make;
  const [dtype, B, T, H, Hs, k] = [
    make.float(),
    1 + draw.below(2),
    draw.size(),
    1 + draw.below(3),
    1 + draw.below(6),
    draw.pick([1, 3, 5]),
  ];
  const rope = !naive && draw.chance(0.5) ? { base: 100, offset: draw.below(5) } : undefined;
  const unit = rope ? 2 : 1;
  const [features, D] = [draw.chance(0.5), unit * draw.size()];
  const Ds = features ? unit * draw.size() : D;
  const [x, gradOutput] = [
    make.pair(dtype, B, T, H, D),
    make.pair(!naive && draw.chance(0.3) ? 'f32' : dtype, B, T, Hs, Ds),
  ];
  const weights: Pairs = {
    headWeight: make.pair('f32', Hs, H, k),
    headBias: make.pair('f32', Hs),
    headResidualWeight: make.pair('f32', Hs, Hs, k),
    headResidualBias: make.pair('f32', Hs),
  };
  if (features) {
    weights.featureWeight = make.pair('f32', Ds, D);
    weights.featureBias = make.pair('f32', Ds);
    weights.featureResidualWeight = make.pair('f32', Ds, Ds);
    weights.featureResidualBias = make.pair('f32', Ds);
  }
  const run = naive ? ops.naive.expandBackward : ops.expandBackward;
  const truth = () => {
    const back = rope ? reference.ropeBackward(gradOutput.exact, { ...rope, interleaved: true }) : gradOutput.exact;
    const exact = of(weights, 'exact') as unknown as reference.ExpandWeights64;
    const { gradX, gradWeights } = reference.expandBackward(back, x.exact, exact);
    return { gradX, ...(gradWeights as unknown as Record<string, reference.Array64>) };
  };
  return {
    name: naive ? 'naive.expandBackward' : 'expandBackward',
    run: (...args: Parameters<typeof ops.expandBackward>) => {
      const { gradX, gradWeights } = run(...args);
      return { gradX, ...gradWeights };
    },
    args: [gradOutput.tensor, x.tensor, of(weights, 'tensor'), ...(rope ? [{ rope }] : [])],
    dtype,
    // Where a 16-bit pre-activation is about 0, its ReLU may turn: only f32 gradients are compared.
    truth: dtype === 'f32' ? truth : undefined,
  };
}

export const gradientCalls: readonly Generate[] = [
  (make) => attentionBackward(make, false),
  (make) => attentionBackward(make, true),
  (make) => expandBackward(make, false),
  (make) => expandBackward(make, true),
  (make) => {
    const { dtype, q, k, v, options, heads } = attentionOperands(make, 1 + make.draw.below(3));
    return {
      name: 'attentionMean',
      run: ops.attentionMean,
      args: [q.tensor, k.tensor, v.tensor, { ...options, heads }],
      dtype,
      truth: () => {
        const { output } = reference.attention(q.exact, k.exact, v.exact, options);
        return { output: reference.aggregate(output, heads) };
      },
    };
  },
  (make) => {
    const [dtype, H, r, D] = [make.float(), 1 + make.draw.below(3), 1 + make.draw.below(3), make.draw.size()];
    const gradOutput = make.pair(dtype, 1, make.draw.size(), H * D);
    return {
      name: 'aggregateBackward',
      run: ops.aggregateBackward,
      args: [gradOutput.tensor, H, r * H],
      dtype,
      truth: () => ({ output: reference.aggregateBackward(gradOutput.exact, H, r * H) }),
    };
  },
  (make) => {
    const [dtype, rows, C] = [make.float(), make.draw.size(), 1 + make.draw.size()];
    const [gradOutput, x, weight] = [make.pair(dtype, rows, C), make.pair(dtype, rows, C), make.pair('f32', C)];
    const { mean, rstd } = ops.layerNorm(x.tensor, weight.tensor, weight.tensor, { eps: 0.1 });
    return {
      name: 'layerNormBackward',
      run: ops.layerNormBackward,
      args: [gradOutput.tensor, { x: x.tensor, weight: weight.tensor, mean: make.keep(mean), rstd: make.keep(rstd) }],
      dtype,
      truth: () => ({ ...reference.layerNormBackward(gradOutput.exact, x.exact, weight.exact, 0.1) }),
    };
  },
  (make) => {
    const [dtype, rows, C] = [make.float(), make.draw.size(), make.draw.size()];
    const [gradOutput, x, weight] = [make.pair(dtype, rows, C), make.pair(dtype, rows, C), make.pair('f32', C)];
    const { rstd } = ops.rmsNorm(x.tensor, weight.tensor, { eps: 0.1 });
    return {
      name: 'rmsNormBackward',
      run: ops.rmsNormBackward,
      args: [gradOutput.tensor, { x: x.tensor, weight: weight.tensor, rstd: make.keep(rstd) }],
      dtype,
      truth: () => ({ ...reference.rmsNormBackward(gradOutput.exact, x.exact, weight.exact, 0.1) }),
    };
  },
  (make) => {
    const [dtype, rows, C] = [make.float(), make.draw.size(), make.draw.size()];
    const [gradOutput, x] = [make.pair(dtype, rows, C), make.pair(dtype, rows, C)];
    const approximate = make.draw.pick(['none', 'tanh'] as const);
    return {
      name: 'geluBackward',
      run: ops.geluBackward,
      args: [gradOutput.tensor, x.tensor, { approximate }],
      dtype,
      truth: () => ({ output: reference.geluBackward(gradOutput.exact, x.exact, approximate) }),
    };
  },
  (make) => {
    const dtype = make.float();
    const gradOutput = make.pair(dtype, 1, make.draw.size(), 2, 2 * make.draw.size());
    const options = { base: 100, offset: make.draw.below(5), interleaved: make.draw.chance(0.5) };
    return {
      name: 'ropeBackward',
      run: ops.ropeBackward,
      args: [gradOutput.tensor, options],
      dtype,
      truth: () => ({ output: reference.ropeBackward(gradOutput.exact, options) }),
    };
  },
  (make) => {
    const [dtype, rows, V] = [make.float(), make.draw.size(), 4 + make.draw.below(9)];
    const [gradLoss, logits, targets] = [make.pair('f32'), make.pair(dtype, rows, V), make.ints(V, rows)];
    const { loss, logSumExp } = ops.crossEntropy(logits.tensor, targets.tensor, { ignoreIndex: 1 });
    make.keep(loss);
    const saved = { logits: logits.tensor, targets: targets.tensor, logSumExp: make.keep(logSumExp) };
    return {
      name: 'crossEntropyBackward',
      run: (...args: Parameters<typeof ops.crossEntropyBackward>): Tensor => ops.crossEntropyBackward(...args),
      args: [gradLoss.tensor, saved, { ignoreIndex: 1 }],
      dtype,
      truth: () => ({
        output: reference.crossEntropyBackward(gradLoss.exact.data[0] as number, logits.exact, targets.values, 1),
      }),
    };
  },
];
