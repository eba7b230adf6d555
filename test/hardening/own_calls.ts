/** Right calls of what the library exports besides ops: tensors, modules, devices. */
import {
  MatrixFactorizationAttention,
  MultiHeadAttention,
  MultiHeadLatentAttention,
  SimulatedAttention,
  TensorProductAttention,
} from '../../lib/attentions/index.js';
import { getDevice, type Module, SasAttention, Tensor } from '../../lib/index.js';
import { track } from '../../lib/scope.js';
import type { Generate, Maker } from './library_operands.js';

type Anything = (...args: never[]) => unknown;

/** A constructor as a function of as many arguments; what it makes is disposed of at once. */
function construct(Kind: new (...args: never[]) => Module): Anything {
  const make = (...args: never[]): void => new Kind(...args).dispose();
  return Object.defineProperty(make, 'length', { value: Kind.length });
}

/** A module whose parameters go with what the call made, or with the scope that is running. */
function kept<M extends Module>(make: Maker, module: M): M {
  for (const parameter of module.parameters.values()) {
    track(parameter);
    make.made.push(parameter);
  }
  return module;
}

const block = { heads: 2, headDim: 2, simHeads: 4, simHeadDim: 3, kernelSize: 3 };
const placed = (make: Maker) => ({ dtype: 'f32', device: make.device, seed: 1 }) as const;
const sas = (make: Maker) => kept(make, new SasAttention({ ...block, ...placed(make) }));
const multiHead = (make: Maker) =>
  kept(make, new MultiHeadAttention({ width: 4, heads: 2, kvHeads: 1, rope: { base: 100 }, ...placed(make) }));

/** Configs of every kind of module, with all that can be given. */
const rope = { base: 100, offset: 1, interleaved: true };
const configs: readonly [new (...args: never[]) => Module, object][] = [
  [SasAttention, { ...block, causal: false, scale: 0.5 }],
  [MultiHeadAttention, { width: 4, heads: 2, kvHeads: 1, headDim: 2, rope, bias: false, causal: true }],
  [MultiHeadLatentAttention, { width: 4, heads: 2, kvRank: 3, ropeDim: 2, queryRank: 3, headDim: 2, rope }],
  [TensorProductAttention, { width: 4, heads: 2, headDim: 2, queryRank: 2, keyRank: 1, valueRank: 1, rope }],
  [MatrixFactorizationAttention, { width: 4, heads: 2, headDim: 2, queryRank: 3, rope }],
  [
    SimulatedAttention,
    { width: 4, heads: 2, simHeads: 4, simHeadDim: 4, kernelSize: 3, rope: { base: 100 }, ropeAt: 'projected' },
  ],
];

export const ownCalls: readonly Generate[] = [
  (make) => {
    const size = make.draw.size();
    return {
      name: 'Tensor.from',
      run: Tensor.from,
      args: [make.draw.floats(size), [size], { dtype: make.float(), device: make.device }],
    };
  },
  (make) => ({
    name: 'Tensor.from',
    run: Tensor.from,
    args: [[...make.draw.floats(2)], [2], { dtype: make.float(), device: make.device }],
  }),
  (make) => ({ name: 'Tensor.wrap', run: Tensor.wrap, args: [make.draw.floats(6), [2, 3], { dtype: 'f32' }] }),
  (make) => ({
    name: 'Tensor.zeros',
    run: Tensor.zeros,
    args: [[2, make.draw.size()], { dtype: make.float(), device: make.device }],
  }),
  (make) => ({
    name: 'Tensor.randn',
    run: Tensor.randn,
    args: [[2, make.draw.size()], { seed: 3, dtype: make.float(), device: make.device }],
  }),
  (make) => {
    const { tensor } = make.pair(make.float(), 2, 6);
    return { name: 'reshape', run: tensor.reshape.bind(tensor), args: [[3, -1]] };
  },
  (make) => {
    const { tensor } = make.pair(make.float(), 2, 6);
    return { name: 'to', run: tensor.to.bind(tensor), args: [{ dtype: make.float(), device: make.device }] };
  },
  (make) => {
    const { tensor } = make.pair('f32', 6);
    return { name: 'copyFrom', run: tensor.copyFrom.bind(tensor), args: [make.draw.floats(6)] };
  },
  ...configs.map(
    ([Kind, config]): Generate =>
      (make) => ({ name: Kind.name, run: construct(Kind), args: [{ ...config, ...placed(make) }] }),
  ),
  (make) => {
    const module = sas(make);
    const inputs = Array.from({ length: 3 }, () => make.pair('f32', 1, 2, 2, 2).tensor);
    return { name: 'SasAttention.forward', run: module.forward.bind(module), args: [...inputs, { save: true }] };
  },
  (make) => {
    const module = sas(make);
    const x = make.pair('f32', 1, 2, 2, 2).tensor;
    const { output, saved } = module.forward(x, x, x);
    make.made.push(output, saved);
    return { name: 'SasAttention.backward', run: module.backward.bind(module), args: [output, saved] };
  },
  (make) => {
    const module = sas(make);
    return { name: 'expandWeights', run: module.expandWeights.bind(module), args: ['q'] };
  },
  (make) => {
    const module = kept(make, new MultiHeadAttention({ width: 2, heads: 1, bias: false, ...placed(make) }));
    const entries = [...module.parameters].map(
      ([name, { shape, size }]) => [name, { shape: [...shape], data: make.draw.floats(size), dtype: 'f32' }] as const,
    );
    return { name: 'loadStateDict', run: module.loadStateDict.bind(module), args: [entries] };
  },
  (make) => {
    const module = multiHead(make);
    const x = make.pair('f32', 1, 2, 4).tensor;
    return { name: 'MultiHeadAttention.forward', run: module.forward.bind(module), args: [x, { save: true }] };
  },
  (make) => {
    const module = multiHead(make);
    const { output, saved } = module.forward(make.pair('f32', 1, 2, 4).tensor);
    make.made.push(output, saved);
    return { name: 'MultiHeadAttention.backward', run: module.backward.bind(module), args: [output, saved] };
  },
  (make) => ({ name: 'getDevice', run: getDevice as Anything, args: [make.device.info.id] }),
];
