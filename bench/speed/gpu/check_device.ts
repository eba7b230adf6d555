/** Exit code 0 and the name of the device SAS_DEVICE names, or exit code 3 and the reason why it cannot be used. */
import { type DeviceId, getDevice, listDevices } from '../../../lib/index.js';

const id = process.env.SAS_DEVICE || 'cuda:0';
const device = listDevices().find((candidate) => candidate.id === id);
if (device?.usable) {
  const { computeCapability, driver, blas, memoryBytes } = getDevice(id as DeviceId).info;
  const facts = [
    ...(computeCapability ? [`compute capability ${computeCapability.join('.')}`] : []),
    `${(memoryBytes / 2 ** 30).toFixed(0)} GiB`,
    ...(driver ? [`driver ${driver}`] : []),
    ...(blas ? [`matrix products by ${blas}`] : []),
  ];
  console.log(`${id}: ${device.name}, ${facts.join(', ')}`);
} else {
  console.log(`${id} cannot be used: ${device?.reason ?? 'there is no such device'}`);
  process.exitCode = 3;
}
