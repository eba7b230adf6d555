import { expect, it } from 'vitest';
import { ArgumentError, DTypeError, ops, ShapeError, type Tensor } from '../../lib/index.js';
import { bf16, f32, i32 } from '../api/helpers.js';
import { activation, type Case, defineOp, integers, type Named, normalParameter } from '../helpers/op.js';
import { device, integerTensor, activation as pairOf, valuesOf } from '../helpers/parity.js';
import * as reference from '../reference/index.js';

/** tokens [B, T], tokenTable [V, C], positionTable [Tmax, C]; positions 0: no such table */
function embedding([batch, time, vocabulary, width, positions]: readonly number[]): Case {
  return {
    label: `B=${batch} T=${time} V=${vocabulary} C=${width} Tmax=${positions}`,
    options: {},
    inputs: {
      tokens: integers([batch, time], vocabulary),
      tokenTable: normalParameter([vocabulary, width]),
      ...(positions > 0 && { positionTable: normalParameter([positions, width]) }),
      gradOutput: activation([batch, time, width]),
    },
  };
}

type Tables = Named<{ shape: readonly number[] }>;
const sizesOf = ({ tokenTable, positionTable }: Tables) => ({
  vocabulary: tokenTable.shape[0],
  ...(positionTable && { positions: positionTable.shape[0] }),
});

export default defineOp({
  name: 'embedding',
  // B, T, V, C, Tmax
  cases: [
    embedding([1, 1, 1, 1, 1]),
    embedding([2, 31, 5, 24, 40]), // every token many times
    embedding([1, 257, 1000, 40, 257]),
    embedding([3, 64, 50, 7, 0]),
    embedding([1, 1023, 11, 8, 1023]),
  ],
  repeated: [embedding([2, 101, 13, 40, 101])], // every token many times: the sums must not depend on who adds first
  small: [embedding([2, 3, 4, 5, 4])],
  random: (draw) => {
    const time = draw.size();
    return embedding([1 + draw.below(2), time, 4, draw.size(), draw.chance(0.5) ? time + draw.below(3) : 0]);
  },

  forward: {
    call: ops.embedding,
    args: ({ tokens, tokenTable, positionTable, gradOutput }) => [
      tokens,
      tokenTable,
      positionTable,
      { dtype: gradOutput.dtype },
    ],
  },
  backward: {
    call: ops.embeddingBackward,
    args: ({ gradOutput, tokens, ...tables }) => [gradOutput, tokens, sizesOf(tables)],
  },
  reference: {
    forward: ({ tokens, tokenTable, positionTable }) => ({
      output: reference.embedding(Int32Array.from(tokens.data), tokens.shape[0], tokenTable, positionTable),
    }),
    backward: ({ gradOutput, tokens, ...tables }) => {
      const { vocabulary, positions } = sizesOf(tables);
      const ids = Int32Array.from(tokens.data);
      const gradients = reference.embeddingBackward(gradOutput, ids, vocabulary, positions ?? tokens.shape[1]);
      const { gradTokenTable, gradPositionTable } = gradients;
      return { tokenTable: gradTokenTable, ...(positions && { positionTable: gradPositionTable }) };
    },
  },

  arguments: {
    embedding: {
      refuses: [
        ['embedding: tokens has dtype f32, expected i32', DTypeError, () => ops.embedding(f32(1, 4), f32(5, 3))],
        ['embedding: tokens has shape [4], expected [B, T]', ShapeError, () => ops.embedding(i32(4), f32(5, 3))],
        [
          'embedding: tokenTable has dtype bf16, expected f32 (parameters are f32)',
          DTypeError,
          () => ops.embedding(i32(1, 4), bf16(5, 3)),
        ],
        [
          'embedding: positionTable has shape [4, 2], expected [Tmax, 3] (tokenTable has width 3)',
          ShapeError,
          () => ops.embedding(i32(1, 4), f32(5, 3), f32(4, 2)),
        ],
        [
          'embedding: positionTable has 3 positions, expected at least 4 (tokens has length 4)',
          ShapeError,
          () => ops.embedding(i32(1, 4), f32(5, 3), f32(3, 3)),
        ],
        [
          "embedding: dtype is 'i32', expected f32, bf16, f16",
          DTypeError,
          () => ops.embedding(i32(1, 4), f32(5, 3), undefined, { dtype: 'i32' }),
        ],
        [
          'embeddingBackward: vocabulary is 0, expected an integer at least 1',
          ArgumentError,
          () => ops.embeddingBackward(f32(1, 4, 3), i32(1, 4), { vocabulary: 0 }),
        ],
        [
          'embeddingBackward: vocabulary is undefined, expected an integer at least 1',
          ArgumentError,
          () => ops.embeddingBackward(f32(1, 4, 3), i32(1, 4), {} as never),
        ],
        [
          'embeddingBackward: positions has 3 positions, expected at least 4 (tokens has length 4)',
          ShapeError,
          () => ops.embeddingBackward(f32(1, 4, 3), i32(1, 4), { vocabulary: 5, positions: 3 }),
        ],
        [
          'embeddingBackward: gradOutput has shape [1, 5, 3], expected [1, 4, C] (tokens has shape [1, 4])',
          ShapeError,
          () => ops.embeddingBackward(f32(1, 5, 3), i32(1, 4), { vocabulary: 5 }),
        ],
      ],
      tests: {
        'shapes of the results': () => {
          const output = ops.embedding(i32(2, 4), f32(5, 3), f32(9, 3), { dtype: 'bf16' });
          expect(output).toMatchObject({ shape: [2, 4, 3], dtype: 'bf16' });
          const grads = ops.embeddingBackward(bf16(2, 4, 3), i32(2, 4), { vocabulary: 5, positions: 9 });
          expect(grads.gradTokenTable.shape).toEqual([5, 3]);
          expect(grads.gradPositionTable?.shape).toEqual([9, 3]);
          const none = ops.embeddingBackward(f32(2, 4, 3), i32(2, 4), { vocabulary: 5 });
          expect(none).not.toHaveProperty('gradPositionTable');
        },
      },
    },
  },

  extra: (dtype) => {
    it.each([24, 7])('a token outside of the vocabulary rejects the wait, width %d', async (width) => {
      const tokens = new Int32Array(700).fill(1);
      const table = pairOf([5, width], 1, 'f32').tensor;
      const run = (ids: Tensor) => {
        const output = ops.embedding(ids, table, undefined, { dtype });
        return { output, ...ops.embeddingBackward(output, ids, { vocabulary: 5 }) };
      };
      const sound = run(integerTensor(tokens, [2, 350]));
      const gradOutput = sound.output;
      tokens.set([5, 2 ** 31 - 1, -1], 603); // the first is reported
      const ids = integerTensor(tokens, [2, 350]);
      const { output } = run(ids);
      const { gradTokenTable } = ops.embeddingBackward(gradOutput, ids, { vocabulary: 5 });
      const problem = 'token 5 at position 603 is outside the vocabulary of 5';
      await valuesOf(sound.gradTokenTable);
      await expect(valuesOf(output)).rejects.toThrow(`embedding: ${problem}`);
      await expect(valuesOf(gradTokenTable)).rejects.toThrow(`embeddingBackward: ${problem}`);
      await expect(device.synchronize()).rejects.toThrow(`embedding: ${problem}`);
      expect(await valuesOf(run(integerTensor(tokens.fill(1), [2, 350])).output)).toEqual(await valuesOf(sound.output));
    });
  },
});
