/** The emulator finds the faults that are planted in mutations.cu, whatever the scheduling, and passes the sound kernels. */
import { describe } from 'vitest';
import { testPlantedFaults } from './planted_faults.js';

describe('planted faults', () => {
  testPlantedFaults({
    target: 'sas_emulator_mutations',
    programs: ['product', 'row sum'],
    faults: 30,
    scheduled: /^no __sync/,
  });
});
