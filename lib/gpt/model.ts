// A GPT whose forward and backward pass are written out, op by op, with any of the attentions.
//
// Shapes: B batch, T tokens, C width, F hidden, V vocabulary. Activations have the configured dtype, parameters and their
// gradients are f32.

import type { SelfAttention } from '../attentions/index.js';
import { elements } from '../checks.js';
import { type Device, ops, scope, Tensor } from '../index.js';
import { type Gradients, type LayerNormSaved, Layers } from '../layers.js';
import { random } from '../tensor.js';
import { type AttentionSizes, attentionParameters, createAttention } from './attention.js';
import type { Attention } from './config.js';
import { Random } from './random.js';

export interface ModelConfig extends AttentionSizes {
  attention: Attention;
  vocabulary: number;
  layers: number;
  /** F: width inside the feed-forward layers. */
  hidden: number;
  /** Longest sequence: rows of the position table. */
  seq: number;
}

interface BlockSaved {
  norm1: LayerNormSaved;
  attention: ReturnType<SelfAttention['forward']>['saved'];
  norm2: LayerNormSaved;
  normed2: Tensor;
  hidden: Tensor;
  activated: Tensor;
}

export interface Saved {
  tokens: Tensor;
  blocks: BlockSaved[];
  normFinal: LayerNormSaved;
  normed: Tensor;
}

/** The number of a parameter's random series: its name by FNV-1a, 32 bits. */
const streamOf = (name: string): number =>
  [...name].reduce((hash, char) => Math.imul(hash ^ char.charCodeAt(0), 0x01000193) >>> 0, 0x811c9dc5);

/** What a parameter begins with: random numbers, or one number. */
type Values = { readonly kind: 0 | 1; readonly scale: number } | number;
type Layer = readonly [name: string, shape: readonly number[], values: Values];

function linear(name: string, inputs: number, outputs: number, { bias = true } = {}): Layer[] {
  const values = { kind: 1, scale: 1 / Math.sqrt(inputs) } as const;
  const weight: Layer = [`${name}.weight`, [outputs, inputs], values];
  return bias ? [weight, [`${name}.bias`, [outputs], values]] : [weight];
}

const layerNorm = (name: string, width: number): Layer[] => [
  [`${name}.weight`, [width], 1],
  [`${name}.bias`, [width], 0],
];

const embedding = (name: string, rows: number, width: number): Layer => [name, [rows, width], { kind: 0, scale: 0.02 }];

/** The model's parameters in their order; those of an attention are its own to make. */
function* layout(config: ModelConfig): Generator<Layer | readonly [name: string, 'attention']> {
  const { width, layers, hidden, vocabulary, seq, positions } = config;
  yield embedding('token.weight', vocabulary, width);
  if (positions === 'learned') yield embedding('position.weight', seq, width);
  for (let i = 0; i < layers; i++) {
    const name = `blocks.${i}`;
    yield* layerNorm(`${name}.norm1`, width);
    yield [`${name}.attention`, 'attention'];
    yield* layerNorm(`${name}.norm2`, width);
    yield* linear(`${name}.mlp.up`, width, hidden);
    yield* linear(`${name}.mlp.down`, hidden, width);
  }
  yield* layerNorm('norm', width);
  yield* linear('head', width, vocabulary, { bias: false });
}

/** Names and shapes of the parameters that a model would have; takes no memory for them. */
export function parameterShapes(config: ModelConfig): Map<string, readonly number[]> {
  const attention = attentionParameters(config.attention, config);
  const shapes = [...layout(config)].flatMap(([name, shape]): [string, readonly number[]][] =>
    shape === 'attention' ? attention.map(([key, own]) => [`${name}.${key}`, own]) : [[name, shape]],
  );
  return new Map(shapes);
}

export class Gpt {
  private readonly all = new Map<string, Tensor>();
  private readonly layers = new Layers(this.all);
  /** One per block. */
  private readonly attentions: SelfAttention[] = [];

  constructor(
    readonly config: ModelConfig,
    private readonly device: Device,
  ) {
    for (const [name, ...of] of layout(config)) {
      if (of[0] === 'attention') this.initAttention(name);
      else this.init(name, ...of);
    }
  }

  /** Every trainable tensor by name, in a fixed order. */
  get parameters(): ReadonlyMap<string, Tensor> {
    return this.all;
  }

  get parameterCount(): number {
    let count = 0;
    for (const tensor of this.all.values()) count += tensor.size;
    return count;
  }

  /** tokens i32 [B,T] -> logits [B,T,V]. Without `save` nothing is kept for backward (inference). */
  forward(tokens: Tensor): { logits: Tensor; saved: Saved };
  forward(tokens: Tensor, options: { save: false }): { logits: Tensor; saved: null };
  forward(tokens: Tensor, { save = true } = {}): { logits: Tensor; saved: Saved | null } {
    const { layers, dtype } = this.config;
    let x = ops.embedding(tokens, this.layers.parameter('token.weight'), this.all.get('position.weight'), { dtype });
    const blocks: BlockSaved[] = [];
    for (let i = 0; i < layers; i++) {
      if (save) {
        const block = this.blockForward(i, x, true);
        blocks.push(block.saved);
        x = block.output;
      } else {
        const input = x;
        x = scope(() => this.blockForward(i, input, false).output);
        input.dispose();
      }
    }
    const norm = this.layers.layerNorm('norm', x);
    const logits = this.layers.linear('head', norm.output);
    return { logits, saved: save ? { tokens, blocks, normFinal: norm.saved, normed: norm.output } : null };
  }

  /** gradLogits [B,T,V] -> the gradient of every parameter. Uses `saved` up. */
  backward(gradLogits: Tensor, saved: Saved): Gradients {
    const gradients: Gradients = new Map();
    const gradNormed = this.layers.linearBackward('head', gradLogits, saved.normed, gradients);
    let gradX = this.layers.layerNormBackward('norm', gradNormed, saved.normFinal, gradients);
    for (const [i, block] of [...saved.blocks.entries()].reverse())
      gradX = this.blockBackward(i, gradX, block, gradients);
    const { vocabulary, seq, positions } = this.config;
    const tables = positions === 'learned' ? { vocabulary, positions: seq } : { vocabulary };
    const embedding = ops.embeddingBackward(gradX, saved.tokens, tables);
    gradients.set('token.weight', embedding.gradTokenTable);
    if (embedding.gradPositionTable) gradients.set('position.weight', embedding.gradPositionTable);
    return gradients;
  }

  dispose(): void {
    for (const attention of this.attentions) attention.dispose();
    for (const tensor of this.all.values()) tensor.dispose();
  }

  // One block: x + attention(norm1(x)), then x + mlp(norm2(x)); [B,T,C] -> [B,T,C].

  private blockForward(i: number, x: Tensor, save: boolean): { output: Tensor; saved: BlockSaved } {
    const name = `blocks.${i}`;
    const norm1 = this.layers.layerNorm(`${name}.norm1`, x);
    const attention = this.attention(i).forward(norm1.output, { save });
    const middle = ops.add(x, attention.output);
    const norm2 = this.layers.layerNorm(`${name}.norm2`, middle);
    const hidden = this.layers.linear(`${name}.mlp.up`, norm2.output); // [B,T,F]
    const activated = ops.gelu(hidden);
    const output = ops.add(middle, this.layers.linear(`${name}.mlp.down`, activated));
    const saved = {
      norm1: norm1.saved,
      attention: attention.saved,
      norm2: norm2.saved,
      normed2: norm2.output,
      hidden,
      activated,
    };
    return { output, saved };
  }

  private blockBackward(i: number, gradOutput: Tensor, saved: BlockSaved, gradients: Gradients): Tensor {
    const name = `blocks.${i}`;
    const gradActivated = this.layers.linearBackward(`${name}.mlp.down`, gradOutput, saved.activated, gradients);
    const gradHidden = ops.geluBackward(gradActivated, saved.hidden);
    const gradNormed2 = this.layers.linearBackward(`${name}.mlp.up`, gradHidden, saved.normed2, gradients);
    // A residual connection hands its gradient to both branches: they meet again in a sum.
    const gradMiddle = this.layers.layerNormBackward(`${name}.norm2`, gradNormed2, saved.norm2, gradients, gradOutput);
    if (!saved.attention) throw new Error(`${name}: nothing was saved by the forward pass`);
    const attention = this.attention(i).backward(gradMiddle, saved.attention);
    saved.attention.dispose();
    for (const [key, tensor] of attention.gradParameters) gradients.set(`${name}.attention.${key}`, tensor);
    return this.layers.layerNormBackward(`${name}.norm1`, attention.gradX, saved.norm1, gradients, gradMiddle);
  }

  private attention(i: number): SelfAttention {
    return this.attentions[i] as SelfAttention;
  }

  // Initial values as PyTorch's defaults, embeddings N(0, 0.02). Each parameter draws from a stream of its own, so
  // that parameters which two models share begin alike.

  private init(name: string, shape: readonly number[], values: Values): void {
    const { device } = this;
    const { seed } = this.config;
    const tensor =
      typeof values === 'number'
        ? Tensor.from(new Float32Array(elements(shape)).fill(values), shape, { device })
        : random(`Gpt: ${name}`, shape, { dtype: 'f32', device }, { ...values, seed, stream: streamOf(name) });
    this.all.set(name, tensor);
  }

  /** It draws its own initial values, in the order of its parameters. */
  private initAttention(name: string): void {
    const seed = Random.seeded(this.config.seed, name).next();
    const attention = createAttention(this.config.attention, { ...this.config, seed }, this.device);
    this.attentions.push(attention);
    for (const [key, tensor] of attention.parameters) this.all.set(`${name}.${key}`, tensor);
  }
}
