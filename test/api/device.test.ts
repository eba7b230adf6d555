import { afterEach, describe, expect, test } from 'vitest';
import { ArgumentError, DeviceError, getDevice, listDevices, SasError } from '../../lib/index.js';
import { expectRefusal, f32, type Refusal } from './helpers.js';

const environment = process.env.SAS_DEVICE;
afterEach(() => {
  if (environment === undefined) delete process.env.SAS_DEVICE;
  else process.env.SAS_DEVICE = environment;
});

test('the CPU is always there and usable', () => {
  const cpu = listDevices().find((device) => device.id === 'cpu');
  expect(cpu).toMatchObject({ kind: 'cpu', usable: true });
  expect(cpu?.name).not.toBe('');
  expect(cpu?.memoryBytes).toBeGreaterThan(2 ** 28);
  expect(cpu?.threads).toBeGreaterThanOrEqual(1);
  expect(['avx512bf16', 'avx512', 'avx2', 'neon', 'baseline']).toContain(cpu?.isa);
});

test('what cannot be used says why', () => {
  for (const device of listDevices()) {
    expect(typeof device.usable).toBe('boolean');
    if (!device.usable) expect(device.reason).toMatch(/\w+/);
  }
});

describe('getDevice', () => {
  test('gives one object per id', () => {
    expect(getDevice('cpu')).toBe(getDevice('cpu'));
    expect(getDevice('cpu').info).toMatchObject({ id: 'cpu', usable: true });
  });

  test('prefers a usable CUDA device, then the CPU', () => {
    delete process.env.SAS_DEVICE;
    const cuda = listDevices().find((device) => device.kind === 'cuda' && device.usable);
    expect(getDevice().info.id).toBe(cuda?.id ?? 'cpu');
  });

  test('follows SAS_DEVICE', () => {
    process.env.SAS_DEVICE = 'cpu';
    expect(getDevice()).toBe(getDevice('cpu'));
    process.env.SAS_DEVICE = '';
    expect(() => getDevice()).not.toThrow();
  });

  test('never falls back', () => {
    process.env.SAS_DEVICE = 'cuda:97';
    expect(() => getDevice()).toThrow(/there is no device 'cuda:97' \(from SAS_DEVICE\); devices here: .*\bcpu\b/);
    expect(() => f32(1)).toThrow(DeviceError);
    for (const device of listDevices().filter(({ usable }) => !usable)) {
      expect(() => getDevice(device.id)).toThrow(`device '${device.id}' cannot be used: ${device.reason}`);
    }
  });

  test.each<Refusal>([
    [
      "getDevice: id is a number, expected a string such as 'cpu' or 'cuda:0'",
      ArgumentError,
      () => getDevice(0 as never),
    ],
  ])('%s', (...refusal) => expectRefusal(refusal));

  test.each(['gpu', 'cuda', 'CPU', 'cuda:-1', 'cuda:99'])("there is no '%s'", (id) => {
    const error = (() => {
      try {
        return getDevice(id as never);
      } catch (thrown) {
        return thrown;
      }
    })();
    expect(error).toBeInstanceOf(DeviceError);
    expect(error).toBeInstanceOf(SasError);
    expect(error).toMatchObject({ code: 'SAS_DEVICE', message: expect.stringContaining(`there is no device '${id}'`) });
  });
});

test('memory is counted and synchronize waits', async () => {
  const device = getDevice();
  const { live, peak, reserved } = device.memory();
  expect(peak).toBeGreaterThanOrEqual(live);
  expect(reserved).toBeGreaterThanOrEqual(0);
  await expect(device.synchronize()).resolves.toBeUndefined();
});
