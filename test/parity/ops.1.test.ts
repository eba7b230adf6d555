import { opTable } from '../helpers/op_table.js';
import { parityTests } from '../helpers/parity_tests.js';

parityTests(opTable, { part: 0, of: 2 });
