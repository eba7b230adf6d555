/** NaN and infinities through every op of cuda:0: what differs from float64, as one line of JSON. */
import { getDevice } from '../../lib/index.js';
import { propagate } from '../hardening/special_values.js';

const device = getDevice('cuda:0');
console.log(JSON.stringify({ blas: device.info.blas, ...(await propagate(device, Number(process.argv[2]))) }));
