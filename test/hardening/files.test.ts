/** Files when a call fails, and when power does; `npm run test:files` does more of both. */
import { randomInt } from 'node:crypto';
import { beforeAll, describe, expect, test } from 'vitest';
import { failCalls, loseWhile, type Protocol, recordCalls } from './file_faults.js';
import type { FileCall } from './power_loss.js';

test('every call of a save, a load, a resume and the metrics fails in turn', () => {
  const counts = failCalls('some');
  for (const { operation, calls, told, overcome } of counts) {
    console.info(`${operation}: ${calls} calls, ${told} failures told, ${overcome} overcome`);
    expect(told + overcome).toBe(3 * calls);
    expect(calls).toBeGreaterThan(5);
    expect(told).toBeGreaterThanOrEqual(calls - 1);
  }
  expect(counts.length).toBe(7);
});

describe('power failures', () => {
  const seed = randomInt(2 ** 32);
  let protocols: Protocol[];
  beforeAll(() => {
    protocols = recordCalls();
    console.info(`seed ${seed}`);
  });
  const of = (operation: string) => protocols.find((protocol) => protocol.operation === operation) as Protocol;
  const changed = (operation: string, change: (calls: readonly FileCall[]) => FileCall[]): Protocol => {
    const { recorded } = of(operation);
    return { operation, recorded: { ...recorded, calls: change(recorded.calls) } };
  };

  test('after every call, whatever of it the disk kept, files are the old ones or the new', () => {
    for (const protocol of protocols) {
      const { states, faults } = loseWhile(protocol, 40, seed);
      console.info(`${protocol.operation}: ${protocol.recorded.calls.length} calls, ${states} states`);
      expect(faults, protocol.operation).toEqual([]);
    }
    expect(protocols.map(({ operation }) => operation)).toEqual([
      'save',
      'save a new file',
      'save a checkpoint',
      'trim the metrics',
      'train for a step',
    ]);
  });

  test('a save writes, flushes, renames, then flushes the folder', () => {
    const kinds = of('save').recorded.calls.map(({ kind }) => kind);
    const steps = kinds.filter((kind) => !['other', 'close'].includes(kind));
    expect(steps).toEqual(['open', ...steps.filter((kind) => kind === 'write'), 'sync', 'rename', 'open', 'sync']);
    expect(kinds.filter((kind) => kind === 'open').length).toBe(kinds.filter((kind) => kind === 'close').length);
  });

  /** The calls of a save, changed: the disk must be able to lose them. */
  const planted: [string, (calls: readonly FileCall[]) => FileCall[]][] = [
    [
      'without flushing the file',
      (calls) =>
        calls.toSpliced(
          calls.findIndex(({ kind }) => kind === 'sync'),
          1,
        ),
    ],
    [
      'without flushing the folder',
      (calls) =>
        calls.toSpliced(
          calls.findLastIndex(({ kind }) => kind === 'sync'),
          1,
        ),
    ],
    [
      'renaming before flushing',
      (calls) => {
        const sync = calls.findIndex(({ kind }) => kind === 'sync');
        const rename = calls.findIndex(({ kind }) => kind === 'rename');
        return calls.with(sync, calls[rename] as FileCall).with(rename, calls[sync] as FileCall);
      },
    ],
    [
      'without the last write',
      (calls) =>
        calls.toSpliced(
          calls.findLastIndex(({ kind }) => kind === 'write'),
          1,
        ),
    ],
    [
      'into the file itself',
      (calls) =>
        calls
          .filter(({ kind }) => kind !== 'rename')
          .map((call) =>
            call.kind === 'open' && call.how === 'create'
              ? { ...call, how: 'truncate', path: 'model.safetensors' }
              : call,
          ),
    ],
  ];
  test.each(planted)('a save %s is found out', (_, change) => {
    expect(loseWhile(changed('save', change), 40, seed).faults).not.toEqual([]);
  });

  test('metrics that are not flushed before a checkpoint are found out', () => {
    const protocol = changed('train for a step', (calls) =>
      calls.toSpliced(
        calls.findIndex(({ kind }) => kind === 'sync'),
        1,
      ),
    );
    expect(loseWhile(protocol, 40, seed).faults).not.toEqual([]);
  });
});
