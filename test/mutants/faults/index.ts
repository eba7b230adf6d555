import { areaOf } from '../fault.js';
import { COMPARISON } from './comparison.js';
import { EVALUATION } from './evaluation.js';
import { TRAINER } from './trainer.js';

/** By area, in the order of the table. */
export const FAULTS = [
  ...areaOf('trainer', TRAINER),
  ...areaOf('comparison', COMPARISON),
  ...areaOf('evaluation', EVALUATION),
];
