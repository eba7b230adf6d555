import { sasParityTests } from '../modules/sas_parity.js';

sasParityTests({ part: 1, of: 2 });
