/** The emulator finds faults of host code: streams, events, pools, pinned memory (streams.cu), and passes the sound programs. */
import { describe } from 'vitest';
import { testPlantedFaults } from './planted_faults.js';

describe('planted faults of host code', () => {
  testPlantedFaults({
    target: 'sas_emulator_streams',
    programs: ['staging', 'two streams', 'lives', 'pools', 'default stream', 'two threads'],
    faults: 25,
    scheduled: /^$/, // each program repeats itself until no schedule can hide its fault
    environment: { SAS_EMULATOR_MEMORY: String(4 * 2 ** 20) },
  });
});
