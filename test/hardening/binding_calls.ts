/** Right calls of every function of the raw binding on small random operands. */
import type { DTypeCode, RawAdamWState } from '../../binding.js';
import { type BufferHandle, binding } from '../../lib/binding.js';
import { type Call, F32, type Generator, type Workshop } from './binding_operands.js';
import { bindingCalls } from './factor_calls.js';

/** An op with an unfused twin: `at` is the place of the flag among the arguments; outputs are the last ones. */
function twins(
  shop: Workshop,
  name: 'expand' | 'expandBackward' | 'attention' | 'attentionBackward',
  args: unknown[],
  at: number,
  makeOutputs: () => { args: unknown[]; results: [BufferHandle, DTypeCode, number][] },
): Call {
  const own = makeOutputs();
  return {
    name,
    args: [...args, ...own.args],
    check: async () => {
      const twin = makeOutputs();
      const others = args.with(at, !args[at]);
      (binding[name] as (...all: unknown[]) => void)(...others, ...twin.args);
      for (const [i, [buffer, dtype, size]] of own.results.entries()) {
        await shop.same(
          `${name} output ${i}`,
          dtype,
          size,
          buffer,
          (twin.results[i] as (typeof twin.results)[number])[0],
        );
      }
    },
  };
}

const attentionSizes = (shop: Workshop) => {
  const { draw } = shop;
  const kvHeads = 1 + draw.below(3);
  return {
    dtype: shop.float(),
    B: 1 + draw.below(2),
    Tq: draw.size(),
    Tk: draw.size(),
    Hq: kvHeads * (1 + draw.below(3)),
    Hkv: kvHeads,
    D: draw.size(),
    Dv: draw.size(),
    causal: draw.chance(0.5),
    scale: 0.5,
  };
};

/** Widths are multiples of `unit`. */
const expandSizes = (shop: Workshop, unit = 1) => {
  const { draw } = shop;
  const features = draw.chance(0.6);
  const D = unit * draw.size();
  const sizes = {
    dtype: shop.float(),
    tokens: draw.size(),
    H: 1 + draw.below(3),
    D,
    Hs: 1 + draw.below(6),
    Ds: features ? unit * draw.size() : D,
    k: draw.pick([1, 3, 5]),
    features,
  };
  const { Hs, H, Ds, k } = sizes;
  const head = [[Hs, H, k], [Hs], [Hs, Hs, k], [Hs]];
  const feature = [[Ds, D], [Ds], [Ds, Ds], [Ds]];
  return { sizes, weightShapes: features ? [...head, ...feature] : head };
};

/** An expansion whose output is turned: `sizes` and `rope` as the binding takes them. */
const turnedExpand = (shop: Workshop) => {
  const { sizes, weightShapes } = expandSizes(shop, 2);
  const { dtype, H, D, Hs, Ds, k, features } = sizes;
  const [B, T] = [1 + shop.draw.below(3), shop.draw.size()];
  return {
    ...{ dtype, B, T, H, D, Hs, Ds, weightShapes },
    sizes: [dtype, B * T, H, D, Hs, Ds, k, features] as const,
    rope: [T, 100, shop.draw.below(9)] as const,
    x: shop.input(dtype, B, T, H, D),
  };
};

const product = (shape: readonly number[]): number => shape.reduce((all, extent) => all * extent, 1);

export const generators: readonly Generator[] = [
  ...bindingCalls,
  ({ devices, draw }) => ({ name: 'memory', args: [draw.pick(devices)] }),
  ({ devices, draw }) => ({ name: 'synchronize', args: [draw.pick(devices)] }),
  () => ({ name: 'listDevices', args: [] }),
  ({ draw }) => ({ name: 'openDevice', args: [draw.pick(['cpu'])] }),
  ({ device, draw }) => ({ name: 'allocate', args: [device, draw.pick([0, 1, 2, 60, 64, 65, 4096])] }),
  ({ device, draw }) => ({
    name: 'upload',
    args: [device, draw.pick([new Float32Array(3), new Int32Array(0), new Uint16Array(5)])],
  }),
  ({ devices, draw }) => ({ name: 'wrap', args: [devices[0], draw.floats(draw.size())] }),
  (shop) => ({ name: 'share', args: [shop.input(0, 3)] }),
  (shop) => ({ name: 'release', args: [shop.input(0, 3)] }),
  (shop) => ({ name: 'write', args: [shop.output(0, 3), shop.draw.floats(3)] }),
  (shop) => {
    const size = shop.draw.size();
    const source = shop.input(1, size);
    return { name: 'read', args: [source, 1, size, new Float32Array(size)] };
  },
  (shop) => {
    const size = shop.draw.size() * 1000; // too large for a copy at once
    return { name: 'read', args: [shop.input(0, size), 0, size, new Float32Array(size)] };
  },
  (shop) => {
    const size = shop.draw.size();
    return { name: 'readSync', args: [shop.input(0, size), 0, size, new Float32Array(size)] };
  },
  (shop) => ({ name: 'transfer', args: [shop.input(shop.float(), shop.draw.size()), shop.draw.pick(shop.devices)] }),
  (shop) => {
    const [dtype, size] = [shop.draw.pick<DTypeCode>([0, 1, 2, 3]), shop.draw.size()];
    const [a, b] = [shop.output(dtype, size), shop.output(dtype, size)];
    return {
      name: 'fill',
      args: [dtype, size, 3, a],
      check: () => {
        binding.fill(dtype, size, 3, b);
        return shop.same('fill', dtype, size, a, b);
      },
    };
  },
  (shop) => {
    const size = shop.draw.size();
    return { name: 'random', args: [shop.float(), size, shop.draw.below(2), 1, 5, 6, shop.output(0, size)].with(0, 0) };
  },
  (shop) => {
    const [from, to, size] = [shop.float(), shop.float(), shop.draw.size()];
    const [input, output] = [shop.input(from, size), shop.output(to, size)];
    return {
      name: 'cast',
      args: [from, to, size, input, output],
      check: async () => {
        const back = shop.output(from, size);
        binding.cast(to, from, size, output, back);
        const coarse = [from, to].includes(1) ? 1 : Math.max(from, to);
        const [a, b] = await Promise.all([shop.values(input, from, size), shop.values(back, from, size)]);
        if (a.some((value, i) => !(Math.abs(value - (b[i] as number)) <= (coarse === 0 ? 0 : 2 ** -8)))) {
          throw new Error('cast: there and back is another value');
        }
      },
    };
  },
  (shop) => {
    const { sizes, weightShapes } = expandSizes(shop);
    const weights = weightShapes.map((shape) => shop.input(0, ...shape));
    const x = shop.input(sizes.dtype, sizes.tokens, sizes.H, sizes.D);
    const outSize = sizes.tokens * sizes.Hs * sizes.Ds;
    return twins(shop, 'expand', [...Object.values(sizes), shop.draw.chance(0.5), 0, 0, 0, x, weights], 8, () => {
      const output = shop.output(sizes.dtype, outSize);
      return { args: [output], results: [[output, sizes.dtype, outSize]] };
    });
  },
  (shop) => {
    const { sizes, weightShapes } = expandSizes(shop);
    const { dtype, tokens, H, D, Hs, Ds } = sizes;
    const weights = weightShapes.map((shape) => shop.input(0, ...shape));
    const x = shop.input(dtype, tokens, H, D);
    const gradOutput = shop.input(dtype, tokens, Hs, Ds);
    const args = [...Object.values(sizes), shop.draw.chance(0.5), 0, 0, 0, dtype, gradOutput, x, weights];
    const call = twins(shop, 'expandBackward', args, 8, () => {
      const gradX = shop.output(dtype, tokens * H * D);
      const gradients = weightShapes.map((shape) => shop.output(0, ...shape));
      // Where a 16-bit pre-activation is about 0, its ReLU may turn: only f32 gradients are compared.
      const results = [
        [gradX, dtype, tokens * H * D],
        ...gradients.map((gradient, i) => [gradient, 0, product(weightShapes[i] as number[])]),
      ] as [BufferHandle, DTypeCode, number][];
      return { args: [gradX, gradients], results: dtype === 0 ? results : [] };
    });
    return call;
  },
  (shop) => {
    const { dtype, B, T, Hs, Ds, sizes, rope, weightShapes, x } = turnedExpand(shop);
    const weights = weightShapes.map((shape) => shop.input(0, ...shape));
    const outputs = () => shop.output(dtype, B, T, Hs, Ds);
    const [fused, expanded, turned] = [outputs(), outputs(), outputs()];
    return {
      name: 'expand',
      args: [...sizes, false, ...rope, x, weights, fused],
      check: () => {
        binding.expand(...sizes, false, 0, 0, 0, x, weights, expanded);
        binding.rope(dtype, B, T, Hs, Ds, rope[1], rope[2], true, false, expanded, turned);
        return shop.same('expand with rope', dtype, B * T * Hs * Ds, fused, turned);
      },
    };
  },
  (shop) => {
    const { dtype, B, T, H, D, Hs, Ds, sizes, rope, weightShapes, x } = turnedExpand(shop);
    const weights = weightShapes.map((shape) => shop.input(0, ...shape));
    const [gradOutput, back] = [shop.input(dtype, B, T, Hs, Ds), shop.output(dtype, B, T, Hs, Ds)];
    const shapes = [[B, T, H, D], ...weightShapes];
    const outputs = () => shapes.map((shape, i) => shop.output(i === 0 ? dtype : 0, ...shape));
    const [fused, composed] = [outputs(), outputs()];
    return {
      name: 'expandBackward',
      args: [...sizes, false, ...rope, dtype, gradOutput, x, weights, fused[0], fused.slice(1)],
      check: async () => {
        if (dtype !== F32) return; // a rotation apart rounds the gradient once more
        binding.rope(dtype, B, T, Hs, Ds, rope[1], rope[2], true, true, gradOutput, back);
        const [gradX, ...gradients] = composed as [BufferHandle, ...BufferHandle[]];
        binding.expandBackward(...sizes, false, 0, 0, 0, dtype, back, x, weights, gradX, gradients);
        for (const [i, shape] of shapes.entries()) {
          const [a, b] = [fused[i] as BufferHandle, composed[i] as BufferHandle];
          await shop.same(`expandBackward with rope, output ${i}`, dtype, product(shape), a, b);
        }
      },
    };
  },
  (shop) => {
    const s = attentionSizes(shop);
    const [q, k, v] = attentionInputs(shop, s);
    return twins(shop, 'attention', [...Object.values(s), shop.draw.chance(0.5), q, k, v], 10, () => {
      const sizes = [s.B * s.Tq * s.Hq * s.Dv, s.B * s.Hq * s.Tq] as const;
      const [output, logSumExp] = [shop.output(s.dtype, sizes[0]), shop.output(0, sizes[1])];
      // Rows that see no key have -infinity there, which is not a number to subtract.
      return { args: [output, logSumExp], results: [[output, s.dtype, sizes[0]]] };
    });
  },
  (shop) => {
    const s = attentionSizes(shop);
    const [q, k, v] = attentionInputs(shop, s);
    return {
      name: 'attentionMean',
      args: [...Object.values(s), s.Hq, q, k, v, shop.output(s.dtype, s.B * s.Tq * s.Dv)],
    };
  },
  (shop) => {
    const s = attentionSizes(shop);
    const [q, k, v] = attentionInputs(shop, s);
    const outSize = s.B * s.Tq * s.Hq * s.Dv;
    const [output, logSumExp] = [shop.output(s.dtype, outSize), shop.output(0, s.B * s.Hq * s.Tq)];
    const gradOutput = shop.input(s.dtype, outSize);
    binding.attention(
      s.dtype,
      s.B,
      s.Tq,
      s.Tk,
      s.Hq,
      s.Hkv,
      s.D,
      s.Dv,
      s.causal,
      s.scale,
      false,
      q,
      k,
      v,
      output,
      logSumExp,
    );
    const sizes = [s.B * s.Tq * s.Hq * s.D, s.B * s.Tk * s.Hkv * s.D, s.B * s.Tk * s.Hkv * s.Dv];
    const args = [...Object.values(s), shop.draw.chance(0.5), s.dtype, gradOutput, q, k, v, output, logSumExp];
    return twins(shop, 'attentionBackward', args, 10, () => {
      const gradients = sizes.map((size) => shop.output(s.dtype, size));
      const results = gradients.map(
        (gradient, i) => [gradient, s.dtype, sizes[i]] as [BufferHandle, DTypeCode, number],
      );
      return { args: gradients, results: s.dtype === 0 ? results : [] };
    });
  },
  (shop) => {
    const [t, tokens, H, r, D] = [
      shop.float(),
      shop.draw.size(),
      1 + shop.draw.below(3),
      1 + shop.draw.below(3),
      shop.draw.size(),
    ];
    return {
      name: 'aggregate',
      args: [t, tokens, H, r * H, D, shop.input(t, tokens, r * H, D), shop.output(t, tokens, H, D)],
    };
  },
  (shop) => {
    const [t, tokens, H, r, D] = [
      shop.float(),
      shop.draw.size(),
      1 + shop.draw.below(3),
      1 + shop.draw.below(3),
      shop.draw.size(),
    ];
    return {
      name: 'aggregateBackward',
      args: [t, tokens, H, r * H, D, shop.input(t, tokens, H, D), shop.output(t, tokens, r * H, D)],
    };
  },
  (shop) => {
    const [t, rows, K, N] = [shop.float(), shop.draw.size(), shop.draw.size(), shop.draw.size()];
    const [x, weight, output] = [shop.input(t, rows, K), shop.input(0, N, K), shop.output(t, rows, N)];
    const bias = shop.draw.chance(0.5) ? shop.input(0, N) : null;
    return {
      name: 'linear',
      args: [t, rows, K, N, x, weight, bias, output],
      check: async () => {
        const [xs, ws, ys] = await Promise.all([
          shop.values(x, t, rows * K),
          shop.values(weight, 0, N * K),
          shop.values(output, t, rows * N),
        ]);
        const bs = bias ? await shop.values(bias, 0, N) : new Float32Array(N);
        for (let row = 0; row < rows; row++) {
          for (let column = 0; column < N; column++) {
            let sum = bs[column] as number;
            for (let i = 0; i < K; i++) sum += (xs[row * K + i] as number) * (ws[column * K + i] as number);
            const off = Math.abs((ys[row * N + column] as number) - sum);
            if (!(off <= (t === 0 ? 1e-5 : 3e-2) * (1 + Math.sqrt(K))))
              throw new Error(`linear: off by ${off} (dtype ${t})`);
          }
        }
      },
    };
  },
  (shop) => {
    const [t, rows, K, N] = [shop.float(), shop.draw.size(), shop.draw.size(), shop.draw.size()];
    const inputs = [shop.input(t, rows, N), shop.input(t, rows, K), shop.input(0, N, K)];
    const outputs = [shop.output(t, rows, K), shop.output(0, N, K), shop.draw.chance(0.5) ? shop.output(0, N) : null];
    return { name: 'linearBackward', args: [t, rows, K, N, ...inputs, ...outputs] };
  },
  (shop) => {
    const [t, rows, C] = [shop.float(), shop.draw.size(), shop.draw.size()];
    const inputs = [shop.input(t, rows, C), shop.input(0, C), shop.input(0, C)];
    return {
      name: 'layerNorm',
      args: [t, rows, C, 1e-5, ...inputs, shop.output(t, rows, C), shop.output(0, rows), shop.output(0, rows)],
    };
  },
  (shop) => {
    const [t, rows, C] = [shop.float(), shop.draw.size(), shop.draw.size()];
    const inputs = [
      shop.input(t, rows, C),
      shop.input(t, rows, C),
      shop.input(0, C),
      shop.input(0, rows),
      shop.input(0, rows),
    ];
    return {
      name: 'layerNormBackward',
      args: [t, rows, C, ...inputs, shop.output(t, rows, C), shop.output(0, C), shop.output(0, C)],
    };
  },
  (shop) => {
    const [t, rows, C] = [shop.float(), shop.draw.size(), shop.draw.size()];
    return {
      name: 'rmsNorm',
      args: [t, rows, C, 1e-6, shop.input(t, rows, C), shop.input(0, C), shop.output(t, rows, C), shop.output(0, rows)],
    };
  },
  (shop) => {
    const [t, rows, C] = [shop.float(), shop.draw.size(), shop.draw.size()];
    const inputs = [shop.input(t, rows, C), shop.input(t, rows, C), shop.input(0, C), shop.input(0, rows)];
    return { name: 'rmsNormBackward', args: [t, rows, C, ...inputs, shop.output(t, rows, C), shop.output(0, C)] };
  },
  (shop) => {
    const [t, n] = [shop.float(), shop.draw.size()];
    return { name: 'gelu', args: [t, n, shop.draw.chance(0.5), shop.input(t, n), shop.output(t, n)] };
  },
  (shop) => {
    const [t, n] = [shop.float(), shop.draw.size()];
    return {
      name: 'geluBackward',
      args: [t, n, shop.draw.chance(0.5), shop.input(t, n), shop.input(t, n), shop.output(t, n)],
    };
  },
  (shop) => {
    const [t, n] = [shop.float(), shop.draw.size()];
    const [a, b, sum, other] = [shop.input(t, n), shop.input(t, n), shop.output(t, n), shop.output(t, n)];
    return {
      name: 'add',
      args: [t, n, a, b, sum],
      check: () => {
        binding.add(t, n, b, a, other);
        return shop.same('add', t, n, sum, other);
      },
    };
  },
  (shop) => {
    const [t, B, T, C, V] = [
      shop.float(),
      1 + shop.draw.below(3),
      shop.draw.size(),
      shop.draw.size(),
      4 + shop.draw.below(3),
    ];
    const P = shop.draw.chance(0.5) ? T + shop.draw.below(3) : 0;
    const inputs = [shop.input(3, B, T), shop.input(0, V, C), P ? shop.input(0, P, C) : null];
    return { name: 'embedding', args: [t, B, T, C, V, P, ...inputs, shop.output(t, B, T, C)] };
  },
  (shop) => {
    const [t, B, T, C, V] = [
      shop.float(),
      1 + shop.draw.below(3),
      shop.draw.size(),
      shop.draw.size(),
      4 + shop.draw.below(3),
    ];
    const P = shop.draw.chance(0.5) ? T + shop.draw.below(3) : 0;
    const outputs = [shop.output(0, V, C), P ? shop.output(0, P, C) : null];
    return {
      name: 'embeddingBackward',
      args: [t, B, T, C, V, P, shop.input(t, B, T, C), shop.input(3, B, T), ...outputs],
    };
  },
  (shop) => {
    const [t, B, T, H, D] = [
      shop.float(),
      1 + shop.draw.below(2),
      shop.draw.size(),
      1 + shop.draw.below(3),
      2 * (1 + shop.draw.below(20)),
    ];
    const flags = [shop.draw.chance(0.5), shop.draw.chance(0.5)];
    return {
      name: 'rope',
      args: [t, B, T, H, D, 10000, shop.draw.below(9), ...flags, shop.input(t, B, T, H, D), shop.output(t, B, T, H, D)],
    };
  },
  (shop) => {
    const [t, rows, V] = [shop.float(), shop.draw.size(), 4 + shop.draw.below(20)];
    return {
      name: 'crossEntropy',
      args: [t, rows, V, -100, shop.input(t, rows, V), shop.input(3, rows), shop.output(0, 1), shop.output(0, rows)],
    };
  },
  (shop) => {
    const [t, rows, V] = [shop.float(), shop.draw.size(), 4 + shop.draw.below(20)];
    const inputs = [shop.input(0, 1), shop.input(t, rows, V), shop.input(3, rows), shop.input(0, rows)];
    return { name: 'crossEntropyBackward', args: [t, rows, V, 1, ...inputs, shop.output(t, rows, V)] };
  },
  (shop) => {
    const sizes = Array.from({ length: 1 + shop.draw.below(4) }, () => shop.draw.size());
    return { name: 'clipGradNorm', args: [sizes.map((size) => shop.input(0, size)), sizes, 1, shop.output(0, 1)] };
  },
  (shop) => {
    const states = Array.from({ length: 1 + shop.draw.below(3) }, (): RawAdamWState => {
      const size = shop.draw.size();
      const operand = () => shop.input(0, size);
      return { parameter: operand(), gradient: operand(), firstMoment: operand(), secondMoment: operand(), size };
    });
    return { name: 'adamW', args: [states, 1e-3, 0.9, 0.999, 1e-8, 0.01, 1 + shop.draw.below(9)] };
  },
];

function attentionInputs(shop: Workshop, s: ReturnType<typeof attentionSizes>): readonly BufferHandle[] {
  return [
    shop.input(s.dtype, s.B, s.Tq, s.Hq, s.D),
    shop.input(s.dtype, s.B, s.Tk, s.Hkv, s.D),
    shop.input(s.dtype, s.B, s.Tk, s.Hkv, s.Dv),
  ];
}
