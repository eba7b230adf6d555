// A GPT whose forward and backward pass are written out, op by op, with any of the attentions.
//
// Shapes: B batch, T tokens, C width, F hidden, V vocabulary. Activations have the configured dtype, parameters and their
// gradients are f32.

import { type Device, ops, scope, Tensor } from 'sas-attention';
import type { SelfAttention } from 'sas-attention/attentions';
import { Random } from '../random.js';
import { type AttentionSizes, createAttention } from './attention.js';
import type { Attention } from './options.js';

export interface ModelConfig extends AttentionSizes {
  attention: Attention;
  vocabulary: number;
  layers: number;
  /** F: width inside the feed-forward layers. */
  hidden: number;
  /** Longest sequence: rows of the position table. */
  seq: number;
}

export type Gradients = Map<string, Tensor>;

/** What backward needs of one layerNorm. */
interface NormSaved {
  x: Tensor;
  mean: Tensor;
  rstd: Tensor;
}

interface BlockSaved {
  norm1: NormSaved;
  attention: ReturnType<SelfAttention['forward']>['saved'];
  norm2: NormSaved;
  normed2: Tensor;
  hidden: Tensor;
  activated: Tensor;
}

export interface Saved {
  tokens: Tensor;
  blocks: BlockSaved[];
  normFinal: NormSaved;
  normed: Tensor;
}

export class Gpt {
  private readonly all = new Map<string, Tensor>();
  /** One per block. */
  private readonly attentions: SelfAttention[] = [];

  constructor(
    readonly config: ModelConfig,
    private readonly device: Device,
  ) {
    const { width, layers, hidden, vocabulary, seq, positions } = config;
    this.initNormal('token.weight', [vocabulary, width]);
    if (positions === 'learned') this.initNormal('position.weight', [seq, width]);
    for (let i = 0; i < layers; i++) {
      const name = `blocks.${i}`;
      this.initNorm(`${name}.norm1`);
      this.initAttention(`${name}.attention`);
      this.initNorm(`${name}.norm2`);
      this.initLinear(`${name}.mlp.up`, width, hidden);
      this.initLinear(`${name}.mlp.down`, hidden, width);
    }
    this.initNorm('norm');
    this.initLinear('head', width, vocabulary, { bias: false });
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
    let x = ops.embedding(tokens, this.get('token.weight'), this.all.get('position.weight'), { dtype });
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
    const norm = this.norm('norm', x);
    const logits = this.linear('head', norm.output);
    return { logits, saved: save ? { tokens, blocks, normFinal: norm.saved, normed: norm.output } : null };
  }

  /** gradLogits [B,T,V] -> the gradient of every parameter. Uses `saved` up. */
  backward(gradLogits: Tensor, saved: Saved): Gradients {
    const gradients: Gradients = new Map();
    const gradNormed = this.linearBackward('head', gradLogits, saved.normed, gradients);
    let gradX = this.normBackward('norm', gradNormed, saved.normFinal, gradients);
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
    const norm1 = this.norm(`${name}.norm1`, x);
    const attention = this.attention(i).forward(norm1.output, { save });
    const middle = ops.add(x, attention.output);
    const norm2 = this.norm(`${name}.norm2`, middle);
    const hidden = this.linear(`${name}.mlp.up`, norm2.output); // [B,T,F]
    const activated = ops.gelu(hidden);
    const output = ops.add(middle, this.linear(`${name}.mlp.down`, activated));
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
    const gradActivated = this.linearBackward(`${name}.mlp.down`, gradOutput, saved.activated, gradients);
    const gradHidden = ops.geluBackward(gradActivated, saved.hidden);
    const gradNormed2 = this.linearBackward(`${name}.mlp.up`, gradHidden, saved.normed2, gradients);
    // A residual connection hands its gradient to both branches: they meet again in an addition.
    const gradMiddle = ops.add(gradOutput, this.normBackward(`${name}.norm2`, gradNormed2, saved.norm2, gradients));
    if (!saved.attention) throw new Error(`${name}: nothing was saved by the forward pass`);
    const attention = this.attention(i).backward(gradMiddle, saved.attention);
    saved.attention.dispose();
    for (const [key, tensor] of attention.gradParameters) gradients.set(`${name}.attention.${key}`, tensor);
    return ops.add(gradMiddle, this.normBackward(`${name}.norm1`, attention.gradX, saved.norm1, gradients));
  }

  private attention(i: number): SelfAttention {
    return this.attentions[i] as SelfAttention;
  }

  // Layers by name: parameters `<name>.weight` and, where there is one, `<name>.bias`.

  private get(name: string): Tensor {
    const tensor = this.parameters.get(name);
    if (!tensor) throw new Error(`no parameter '${name}'`);
    return tensor;
  }

  private linear(name: string, x: Tensor): Tensor {
    return ops.linear(x, this.get(`${name}.weight`), this.parameters.get(`${name}.bias`));
  }

  private linearBackward(name: string, gradOutput: Tensor, x: Tensor, gradients: Gradients): Tensor {
    const bias = this.parameters.has(`${name}.bias`);
    const result = ops.linearBackward(gradOutput, x, this.get(`${name}.weight`), { bias });
    gradients.set(`${name}.weight`, result.gradWeight);
    if (result.gradBias) gradients.set(`${name}.bias`, result.gradBias);
    return result.gradX;
  }

  private norm(name: string, x: Tensor): { output: Tensor; saved: NormSaved } {
    const { output, mean, rstd } = ops.layerNorm(x, this.get(`${name}.weight`), this.get(`${name}.bias`));
    return { output, saved: { x, mean, rstd } };
  }

  private normBackward(name: string, gradOutput: Tensor, saved: NormSaved, gradients: Gradients): Tensor {
    const result = ops.layerNormBackward(gradOutput, { ...saved, weight: this.get(`${name}.weight`) });
    gradients.set(`${name}.weight`, result.gradWeight);
    gradients.set(`${name}.bias`, result.gradBias);
    return result.gradX;
  }

  // Initial values as PyTorch's defaults, embeddings N(0, 0.02). Each parameter draws from a stream of its own, so
  // that parameters which two models share begin alike.

  private init(name: string, shape: readonly number[], value: (random: Random) => number): void {
    const random = Random.seeded(this.config.seed, name);
    const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
    for (let i = 0; i < data.length; ++i) data[i] = value(random); // ten times as fast as Float32Array.from
    this.all.set(name, Tensor.from(data, shape, { device: this.device }));
  }

  private initNormal(name: string, shape: readonly number[]): void {
    this.init(name, shape, (random) => 0.02 * random.normal());
  }

  private initLinear(name: string, inputs: number, outputs: number, { bias = true } = {}): void {
    const bound = 1 / Math.sqrt(inputs);
    const uniform = (random: Random) => bound * (2 * random.uniform() - 1);
    this.init(`${name}.weight`, [outputs, inputs], uniform);
    if (bias) this.init(`${name}.bias`, [outputs], uniform);
  }

  private initNorm(name: string): void {
    this.init(`${name}.weight`, [this.config.width], () => 1);
    this.init(`${name}.bias`, [this.config.width], () => 0);
  }

  /** It draws its own initial values, in the order of its parameters. */
  private initAttention(name: string): void {
    const seed = Random.seeded(this.config.seed, name).next();
    const attention = createAttention(this.config.attention, { ...this.config, seed }, this.device);
    this.attentions.push(attention);
    for (const [key, tensor] of attention.parameters) this.all.set(`${name}.${key}`, tensor);
  }
}
