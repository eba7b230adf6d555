// What TypeScript accepts and refuses of the public API; compiled by `npm run typecheck`, never run. An @ts-expect-error above
// a line that compiles is an error itself.
import { MultiHeadAttention, MultiHeadLatentAttention } from '../../lib/attentions/index.js';
import { type DeviceId, type DType, getDevice, listDevices, ops, SasAttention, Tensor } from '../../lib/index.js';

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const same = <A, B>(_: Same<A, B>) => undefined;

const x = Tensor.from([1, 2, 3, 4], [1, 1, 4, 1]);
const sas = new SasAttention({
  heads: 2,
  headDim: 8,
  simHeads: 4,
  simHeadDim: 12,
  device: getDevice('cuda:0'),
  dtype: 'bf16',
});

// Results.
same<ReturnType<Tensor['data']>, Promise<Float32Array | Int32Array>>(true);
same<typeof x.shape, readonly number[]>(true);
same<DType, 'f32' | 'bf16' | 'f16' | 'i32'>(true);
same<DeviceId, 'cpu' | `cuda:${number}`>(true);
const saving = sas.forward(x, x, x);
sas.backward(saving.output, saving.saved);
const heads = new MultiHeadAttention({ width: 8, heads: 2, kvHeads: 1, rope: { base: 500 } });
heads.backward(x, heads.forward(x).saved).gradParameters satisfies ReadonlyMap<string, Tensor>;
same<ReturnType<typeof heads.forward>['output'], Tensor>(true);
const latent = new MultiHeadLatentAttention({ width: 8, heads: 2, kvRank: 4, ropeDim: 2, queryRank: null });
const inference = sas.forward(x, x, x, { save: false });
same<typeof inference.saved, null>(true);
const { output, logSumExp } = ops.attention(x, x, x, { causal: true });
ops.attentionBackward(output, { q: x, k: x, v: x, output, logSumExp });
for (const [name, gradient] of sas.backward(output, saving.saved).gradParameters)
  [name, gradient] satisfies [string, Tensor];
{
  using scoped = Tensor.zeros([2, 2]);
  scoped satisfies Disposable;
}

// Refused: wrong names, kinds and uses.
// @ts-expect-error no such dtype
Tensor.zeros([2], { dtype: 'f64' });
// @ts-expect-error 64-bit floats are no tensor data
Tensor.wrap(new Float64Array(2), [2]);
// @ts-expect-error a shape is required
Tensor.from([1, 2]);
// @ts-expect-error a seed is required
Tensor.randn([2], {});
// @ts-expect-error tensors are made by the static functions
new Tensor();
// @ts-expect-error the shape cannot be changed
x.shape[0] = 2;
// @ts-expect-error nor replaced
x.shape = [4];
// @ts-expect-error no such device
getDevice('gpu');
// @ts-expect-error simHeads is required
new SasAttention({ heads: 2, headDim: 8, simHeadDim: 12 });
// @ts-expect-error the rank of keys and values is required
new MultiHeadLatentAttention({ width: 8, heads: 2, ropeDim: 2 });
// @ts-expect-error another attention saved it
latent.backward(x, heads.forward(x).saved);
// @ts-expect-error nothing was saved
sas.backward(output, inference.saved);
// @ts-expect-error the number of heads is required
ops.attentionMean(x, x, x, {});
// @ts-expect-error a fused rotation is interleaved, there is no choice
({ rope: { interleaved: true } }) satisfies ops.ExpandOptions;
// @ts-expect-error an array is no tensor
ops.gelu([1, 2, 3]);
// @ts-expect-error what the forward pass saved is required whole
ops.attentionBackward(output, { q: x, k: x, v: x });
// @ts-expect-error what is found out about a device cannot be changed
for (const device of listDevices()) device.usable = true;
