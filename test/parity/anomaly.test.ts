// SAS_ANOMALY=1: the first op whose result is not finite is named at the next wait.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { timeout } from '../helpers/parity.js';

const program = fileURLToPath(new URL('../helpers/anomaly_program.ts', import.meta.url));

const lines = async (name: string, anomaly: string): Promise<string[]> => {
  const env = { ...process.env, SAS_ANOMALY: anomaly };
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', program, name], { env });
  return stdout.trim().split('\n');
};

describe('SAS_ANOMALY=1', () => {
  it.each([
    [
      'spreads',
      [
        'SAS_ANOMALY add: its result of shape [2, 2] has Infinity at [1, 0]',
        'fine',
        'SAS_ANOMALY add: its result of shape [2, 2] has Infinity at [1, 0]',
        'fine',
      ],
    ],
    ['f16', ['SAS_ANOMALY add: its result of shape [2] has Infinity at [1]']],
    ['input', ['fine', 'SAS_ANOMALY add: its result of shape [2] has -Infinity at [1]']],
    ['inPlace', ['SAS_ANOMALY adamW: its result of shape [2] has NaN at [1]', 'fine']],
    ['masked', ['fine', '-Infinity', 'fine']],
    ['token', ['SAS_DEVICE embedding: token 9 at position 0 is outside the vocabulary of 2']],
  ])('%s', { timeout }, async (name, expected) => {
    expect(await lines(name, '1')).toEqual(expected);
  });

  it('is off by default', { timeout }, async () => {
    expect(await lines('spreads', '')).toEqual(['fine', 'fine', 'fine', 'fine']);
  });
});
