/** The training step that the endurance tests repeat: embedding, SAS attention, output layer, loss, backward, clip, AdamW. */
import { type Device, ops, SasAttention, scope, Tensor } from '../../lib/index.js';

const [B, T, H, D, V] = [2, 16, 2, 8, 32];

export class TrainingStep {
  readonly #module: SasAttention;
  readonly #table: Tensor;
  readonly #head: Tensor;
  readonly #states: { parameter: Tensor; firstMoment: Tensor; secondMoment: Tensor }[];
  #initial: Float32Array[] = [];
  #step = 0;

  constructor(readonly device: Device) {
    this.#module = new SasAttention({ heads: H, headDim: D, simHeads: 4, simHeadDim: 12, kernelSize: 3, device });
    this.#table = Tensor.randn([V, H * D], { seed: 1, device });
    this.#head = Tensor.randn([V, H * D], { seed: 2, device });
    this.#states = [this.#table, this.#head, ...this.#module.parameters.values()].map((parameter) => ({
      parameter,
      firstMoment: Tensor.zeros(parameter.shape, { device }),
      secondMoment: Tensor.zeros(parameter.shape, { device }),
    }));
  }

  /** Enqueues one step and returns its loss. */
  run(): Tensor {
    const step = ++this.#step;
    const { device } = this;
    return scope(() => {
      const bytes = Int32Array.from({ length: B * T + 1 }, (_, i) => (i * i + step) % V);
      const tokens = Tensor.from(bytes.subarray(0, B * T), [B, T], { device });
      const targets = Tensor.from(bytes.subarray(1), [B, T], { device });
      const x = ops.embedding(tokens, this.#table);
      const q = ops.rope(x.reshape([B, T, H, D]));
      const { output, saved } = this.#module.forward(q, q, q);
      const logits = ops.linear(ops.gelu(output), this.#head);
      const { loss, logSumExp } = ops.crossEntropy(logits, targets);

      const one = Tensor.from([1], [], { device });
      const gradLogits = ops.crossEntropyBackward(one, { logits, targets, logSumExp });
      const gradHead = ops.linearBackward(gradLogits, output, this.#head, { bias: false });
      const grads = this.#module.backward(ops.geluBackward(gradHead.gradX, output), saved);
      const gradQ = ops.ropeBackward(ops.add(ops.add(grads.gradQ, grads.gradK), grads.gradV));
      const { gradTokenTable } = ops.embeddingBackward(gradQ.reshape([B, T, H * D]), tokens, { vocabulary: V });
      const gradients = [gradTokenTable, gradHead.gradWeight, ...grads.gradParameters.values()];
      ops.clipGradNorm(gradients, 1);
      const states = this.#states.map((state, i) => ({ ...state, gradient: gradients[i] as Tensor }));
      ops.adamW(states, { lr: 1e-3, step });
      return loss;
    });
  }

  /** One step, awaited: its loss. */
  async loss(): Promise<number> {
    const loss = this.run();
    try {
      return (await loss.data())[0] as number;
    } finally {
      loss.dispose();
    }
  }

  /** Remembers the parameters, or sets everything back to what was remembered: work that failed leaves them failed. */
  async remember(): Promise<void> {
    this.#initial = await Promise.all(
      this.#states.map(async ({ parameter }) => (await parameter.data()) as Float32Array),
    );
  }

  restore(): void {
    this.#step = 0;
    for (const [i, { parameter, firstMoment, secondMoment }] of this.#states.entries()) {
      parameter.copyFrom(this.#initial[i] as Float32Array);
      firstMoment.copyFrom(new Float32Array(parameter.size));
      secondMoment.copyFrom(new Float32Array(parameter.size));
    }
  }

  dispose(): void {
    for (const { parameter, firstMoment, secondMoment } of this.#states) {
      for (const tensor of [parameter, firstMoment, secondMoment]) tensor.dispose();
    }
  }
}
