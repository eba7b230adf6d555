import { areaOf } from '../fault.js';
import { BINDING } from './binding.js';
import { COMPARISON } from './comparison.js';
import { CORE } from './core.js';
import { CPU } from './cpu.js';
import { CUDA } from './cuda.js';
import { EVALUATION } from './evaluation.js';
import { LIB } from './lib.js';
import { TRAINER } from './trainer.js';

/** By area, in the order of the table. */
export const FAULTS = [
  ...areaOf('cpu', CPU),
  ...areaOf('core', CORE),
  ...areaOf('binding', BINDING),
  ...areaOf('lib', LIB),
  ...areaOf('trainer', TRAINER),
  ...areaOf('comparison', COMPARISON),
  ...areaOf('evaluation', EVALUATION),
  ...areaOf('cuda', CUDA),
];
