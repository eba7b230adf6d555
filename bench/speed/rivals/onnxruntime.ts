/**
 * onnxruntime-node on its CPU provider. Its threads may spin between operations, as they do by default: that is its fastest
 * setting, and the pause between samples lets them go to sleep.
 */
import { type Contest, HEADS, type OpenRival, type Rival, type Side, sampleRuns, WIDTH, type Work } from './contest.js';
import { load, versionOf } from './npm/packages.js';
import { attentionModel, type OnnxProto, sasModel } from './onnx_models.js';

interface OrtTensor {
  readonly data: Float32Array;
}
type Feeds = Record<string, OrtTensor>;
interface Session {
  run(feeds: Feeds): Promise<Record<string, OrtTensor>>;
}
interface Ort {
  readonly InferenceSession: { create(model: Uint8Array, options: object): Promise<Session> };
  readonly Tensor: new (type: 'float32', data: Float32Array, dims: readonly number[]) => OrtTensor;
}

const FUSED = 'its fused attention';

async function side(ort: Ort, proto: OnnxProto, threads: number, contest: Contest, work: Work): Promise<Side> {
  const { kind, length, causal, variant } = contest;
  const model =
    kind === 'sas'
      ? sasModel(proto, work.parameters, length, variant === FUSED)
      : attentionModel(proto, length, causal);
  const session = await ort.InferenceSession.create(model, {
    executionProviders: ['cpu'],
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    graphOptimizationLevel: 'all',
  });
  const shape = kind === 'sas' ? [1, length, HEADS, WIDTH] : [1, length, HEADS * WIDTH];
  const { q, k, v } = work.inputs;
  const feeds = Object.fromEntries(
    Object.entries({ q, k, v }).map(([name, { data }]) => [name, new ort.Tensor('float32', data, shape)]),
  );
  const run = () => session.run(feeds);
  return {
    results: async () => ({ output: (await run()).output?.data ?? new Float32Array() }),
    sample: (repeats) => sampleRuns(async () => void (await run()), repeats),
  };
}

export const onnxruntime: Rival = {
  name: 'onnxruntime-node',
  async open(threads): Promise<OpenRival> {
    const ort = await load<Ort>('onnxruntime-node');
    const proto = (await load<{ default: OnnxProto }>('onnx-proto')).default;
    return {
      version: `${versionOf('onnxruntime-node')}, CPU provider, ${threads} threads`,
      side: (contest, work) => side(ort, proto, threads, contest, work),
    };
  },
};
