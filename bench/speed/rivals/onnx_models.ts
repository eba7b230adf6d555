/** ONNX graphs of attention and of the SAS block, static shapes, batch 1. */
import { REFERENCE } from '../../../lib/measure/cases.js';
import { HEADS, type HostTensors, WIDTH } from './contest.js';

/** What is used of npm's onnx-proto. */
export interface OnnxProto {
  readonly onnx: { readonly ModelProto: { encode(model: object): { finish(): Uint8Array } } };
}

/** Numbers of the enumerations in onnx.proto. */
const DATA = { float: 1, int64: 7 } as const;
const ATTRIBUTE = { float: 1, int: 2, ints: 7 } as const;

type Attributes = Readonly<Record<string, number | readonly number[] | { readonly float: number }>>;

function attributeOf(name: string, value: Attributes[string]): object {
  if (typeof value === 'number') return { name, type: ATTRIBUTE.int, i: value };
  if ('float' in value) return { name, type: ATTRIBUTE.float, f: value.float };
  return { name, type: ATTRIBUTE.ints, ints: value };
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array | BigInt64Array) =>
  new Uint8Array(buffer, byteOffset, byteLength);

/** Collects nodes and constants; values go by their names. */
class Graph {
  readonly #nodes: object[] = [];
  readonly #constants: object[] = [];
  #count = 0;

  #name(): string {
    return `t${this.#count++}`;
  }

  constant(data: Float32Array | readonly number[], dims: readonly number[]): string {
    const name = this.#name();
    const isFloat = data instanceof Float32Array;
    const values = isFloat ? data : BigInt64Array.from(data, BigInt);
    this.#constants.push({ name, dims, dataType: isFloat ? DATA.float : DATA.int64, rawData: bytesOf(values) });
    return name;
  }

  /** Adds an operation with one output, whose name it returns. */
  node(opType: string, input: readonly string[], attributes: Attributes = {}, domain = ''): string {
    const output = this.#name();
    const attribute = Object.entries(attributes).map(([name, value]) => attributeOf(name, value));
    this.#nodes.push({ opType, input, output: [output], attribute, domain });
    return output;
  }

  reshape(x: string, shape: readonly number[]): string {
    return this.node('Reshape', [x, this.constant(shape, [shape.length])]);
  }

  encode({ onnx }: OnnxProto, inputs: Readonly<Record<string, readonly number[]>>, output: string): Uint8Array {
    const value = (name: string, shape: readonly number[]) => ({
      name,
      type: { tensorType: { elemType: DATA.float, shape: { dim: shape.map((dimValue) => ({ dimValue })) } } },
    });
    const graph = {
      name: 'graph',
      node: [...this.#nodes, { opType: 'Identity', input: [output], output: ['output'] }],
      initializer: this.#constants,
      input: Object.entries(inputs).map(([name, shape]) => value(name, shape)),
      output: [{ name: 'output', type: { tensorType: { elemType: DATA.float } } }],
    };
    const opsetImport = [
      { domain: '', version: 17 },
      { domain: 'com.microsoft', version: 1 },
    ];
    return onnx.ModelProto.encode({ irVersion: 8, opsetImport, graph }).finish();
  }
}

/** onnxruntime's fused op over q, k, v [1, T, heads * width], which may differ in width. */
function fusedAttention(graph: Graph, qkv: readonly string[], heads: number, width: number, causal: boolean): string {
  const attributes = { num_heads: heads, unidirectional: Number(causal), scale: { float: 1 / Math.sqrt(width) } };
  return graph.node('MultiHeadAttention', qkv, attributes, 'com.microsoft');
}

/** q, k, v [1, T, H * D] -> output [1, T, H * D]. */
export function attentionModel(proto: OnnxProto, length: number, causal: boolean): Uint8Array {
  const graph = new Graph();
  const shape = [1, length, HEADS * WIDTH];
  const output = fusedAttention(graph, ['q', 'k', 'v'], HEADS, WIDTH, causal);
  return graph.encode(proto, { q: shape, k: shape, v: shape }, output);
}

/** The rows of W [out, in] become columns: MatMul multiplies from the right. */
function transposed({ shape, data }: HostTensors[string]): Float32Array {
  const [rows = 0, columns = 0] = shape;
  return Float32Array.from(data, (_, i) => data[(i % rows) * columns + Math.floor(i / rows)] ?? 0);
}

/** Additive: 0 where query i sees key j, -Infinity where j > i. */
const causalMask = (length: number) =>
  Float32Array.from({ length: length * length }, (_, i) =>
    i % length > Math.floor(i / length) ? Number.NEGATIVE_INFINITY : 0,
  );

/**
 * q, k, v [1, T, H, D] -> output [1, T, H * D], causal. Attention is either MatMul, Add, Softmax, MatMul over [H', T, width], or
 * onnxruntime's fused op, which spares the transpositions.
 */
export function sasModel(proto: OnnxProto, parameters: HostTensors, length: number, fused: boolean): Uint8Array {
  const { heads: H, headDim: D, simHeads: S, simHeadDim: E, kernelSize } = REFERENCE;
  const graph = new Graph();
  const parameter = (name: string) => {
    const found = parameters[name];
    if (!found) throw new Error(`there is no parameter ${name}`);
    return found;
  };
  const constant = (name: string) => graph.constant(parameter(name).data, parameter(name).shape);
  const convolution = (x: string, layer: string) => {
    const pad = (kernelSize - 1) / 2;
    const inputs = [x, constant(`${layer}.weight`), constant(`${layer}.bias`)];
    return graph.node('Conv', inputs, { kernel_shape: [kernelSize], pads: [pad, pad] });
  };
  const linear = (x: string, layer: string) => {
    const { shape } = parameter(`${layer}.weight`);
    const weight = graph.constant(transposed(parameter(`${layer}.weight`)), [...shape].reverse());
    return graph.node('Add', [graph.node('MatMul', [x, weight]), constant(`${layer}.bias`)]);
  };
  const residual = (x: string, layer: (x: string) => string) => graph.node('Add', [x, layer(graph.node('Relu', [x]))]);

  /** [1, T, H, D] -> [T, S, E], or [T, S, D] without features. */
  const expand = (x: string, part: string, features: boolean) => {
    const heads = convolution(graph.reshape(x, [length, H, D]), `${part}.0`);
    const mixed = residual(heads, (y) => convolution(y, `${part}.1.process`));
    return features ? residual(linear(mixed, `${part}.2`), (y) => linear(y, `${part}.3.process`)) : mixed;
  };
  const q = expand('q', 'sas_q', true);
  const k = expand('k', 'sas_k', true);
  const v = expand('v', 'sas_v', false);

  /** [1, T, H * D]: the mean over groups of H heads. */
  const fusedMean = () => {
    const flat = [q, k, v].map((x, i) => graph.reshape(x, [1, length, S * (i === 2 ? D : E)]));
    const groups = graph.reshape(fusedAttention(graph, flat, S, E, true), [1, length, S / H, H * D]);
    return graph.node('ReduceMean', [groups], { axes: [2], keepdims: 0 });
  };
  const standardMean = () => {
    const scale = graph.constant(Float32Array.of(1 / Math.sqrt(E)), []);
    const queries = graph.node('Transpose', [graph.node('Mul', [q, scale])], { perm: [1, 0, 2] });
    const keys = graph.node('Transpose', [k], { perm: [1, 2, 0] });
    const mask = graph.constant(causalMask(length), [length, length]);
    const scores = graph.node('Add', [graph.node('MatMul', [queries, keys]), mask]);
    const weights = graph.node('Softmax', [scores], { axis: -1 });
    const attended = graph.node('MatMul', [weights, graph.node('Transpose', [v], { perm: [1, 0, 2] })]);
    const groups = graph.reshape(attended, [S / H, H, length, D]);
    const mean = graph.node('ReduceMean', [groups], { axes: [0], keepdims: 0 });
    return graph.reshape(graph.node('Transpose', [mean], { perm: [1, 0, 2] }), [1, length, H * D]);
  };
  const output = linear(fused ? fusedMean() : standardMean(), 'output_dense');
  const shape = [1, length, H, D];
  return graph.encode(proto, { q: shape, k: shape, v: shape }, output);
}
