/** All that the doctor finds out. */
import type { DeviceInfo } from '../../index.js';
import type { SelfTest } from '../../measure/self_test.js';
import { type Addon, loadAddon } from './addon.js';
import { describeMachine, type Machine } from './machine.js';
import { warningsOf } from './warnings.js';

/** What a device computes, or why it did not get that far. */
export type Outcome = SelfTest | { readonly device: string; readonly error: string; readonly right: false };

export interface Diagnosis {
  readonly date: string;
  readonly machine: Machine;
  readonly addon: Addon;
  /** Empty without an addon. */
  readonly devices: readonly DeviceInfo[];
  /** The device that is used where none is named. */
  readonly defaultDevice: string | null;
  /** One for every usable device. */
  readonly selfTests: readonly Outcome[];
  /** What has to be mended, in words one can act on. */
  readonly problems: readonly string[];
  /** What works, but not as well as it could, with what to do about it. */
  readonly warnings: readonly string[];
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

/** `onTest` hears which device is tested. */
export async function diagnose(onTest: (device: string) => void): Promise<Diagnosis> {
  const machine = describeMachine();
  const found = { date: new Date().toISOString(), machine };
  const addon = await loadAddon(machine.package.folder);
  if ('error' in addon) {
    const [first = ''] = addon.error.split('\n');
    const problems = [first.startsWith('SAS_') ? first : 'the native addon cannot be loaded'];
    return { ...found, addon, devices: [], defaultDevice: null, selfTests: [], problems, warnings: [] };
  }

  const { getDevice, listDevices } = await import('../../index.js');
  const { selfTest } = await import('../../measure/self_test.js');
  const problems: string[] = [];
  const devices = listDevices();
  let defaultDevice: string | null = null;
  try {
    defaultDevice = getDevice().info.id;
  } catch (error) {
    problems.push(messageOf(error));
  }
  const selfTests: Outcome[] = [];
  for (const { id } of devices.filter(({ usable }) => usable)) {
    onTest(id);
    try {
      selfTests.push(await selfTest(getDevice(id)));
    } catch (error) {
      selfTests.push({ device: id, error: messageOf(error), right: false });
    }
  }
  for (const { device, right } of selfTests) {
    if (!right) problems.push(`the self-test of ${device} failed`);
  }
  const warnings = warningsOf(devices, machine.nvidiaDriver);
  return { ...found, addon, devices, defaultDevice, selfTests, problems, warnings };
}
