import { sasParityTests } from '../modules/sas_parity.js';

sasParityTests({ part: 0, of: 2 });
