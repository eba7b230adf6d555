/** The devices of this machine and how one is chosen. */
import { binding, type DeviceHandle } from './binding.js';
import * as check from './checks.js';
import { checkEnvironment, namedDevice, settings } from './environment.js';
import { ArgumentError, DeviceError, SasError } from './errors.js';
import { fairly } from './turn.js';

checkEnvironment(); // now, rather than where the first device happens to be opened

/** The name of a device: the CPU, or a CUDA device by its ordinal. */
export type DeviceId = 'cpu' | `cuda:${number}`;

/** What is known of a device, usable or not. */
export interface DeviceInfo {
  readonly id: DeviceId;
  readonly kind: 'cpu' | 'cuda';
  /** The maker's name of it. */
  readonly name: string;
  readonly usable: boolean;
  /** Why it is not usable, in words one can act on. */
  readonly reason?: string;
  /** Memory in bytes; CPU: what the machine has, or what a container (control group) may have of it. */
  readonly memoryBytes: number;
  /** CPU: the instruction set that the kernels use (SAS_ISA chooses a lesser one). */
  readonly isa?: string;
  /** CPU: the number of compute threads (SAS_THREADS); by default as many as the processors or the processor time that this process may use. */
  readonly threads?: number;
  /** CUDA: major and minor. */
  readonly computeCapability?: readonly [number, number];
  /** CUDA: the newest CUDA version that the driver supports. */
  readonly driver?: string;
  /** CUDA, once the device has been opened: what computes plain matrix products, cuBLAS with its version and place or the built-in kernels, and why. */
  readonly blas?: string;
}

let handleOf: (device: Device) => DeviceHandle;

/** A device that is open; get it from `getDevice`. */
export class Device {
  static {
    handleOf = (device) => device.#handle;
  }

  /** What is known of it. */
  readonly info: DeviceInfo;
  readonly #handle: DeviceHandle;

  /** @internal */
  constructor(info: DeviceInfo, handle: DeviceHandle) {
    this.info = info;
    this.#handle = handle;
  }

  /** Resolves when all work enqueued so far is done; rejects with the first failure since the last call. */
  synchronize(): Promise<void> {
    return fairly(async () => {
      check.call('Device.synchronize', arguments.length, 0);
      await binding.synchronize(this.#handle);
    });
  }

  /**
   * The device's multiply-add peak in FLOP/s (a multiply-add counts as 2), all threads together, measured now on registers
   * for about `seconds` (0.05): what a benchmark can hold a kernel against. On CUDA: products of bf16 on the tensor cores.
   */
  measurePeakFlops(seconds?: number): Promise<number> {
    return fairly(async () => {
      const op = check.call('Device.measurePeakFlops', arguments.length, 1);
      const duration = check.finite(op, 'seconds', seconds === undefined ? 0.05 : seconds, { above: 0, max: 60 });
      const rate = new Float32Array(1);
      await binding.peakFlops(this.#handle, duration, rate);
      return rate[0] ?? 0;
    });
  }

  /**
   * Gives all idle memory back to the system: what tensors have given up, once the work enqueued so far no longer uses it, and what
   * ops keep for their intermediates. The ops that follow take it anew, which costs time: for a program that pauses. What the last
   * 64 waits had no use for goes back without it.
   */
  trim(): Promise<void> {
    return fairly(async () => {
      check.call('Device.trim', arguments.length, 0);
      await binding.trim(this.#handle);
      await binding.trim(this.#handle); // what work still used at the first call
    });
  }

  /**
   * Bytes held by tensors and by work that is not done (`live`: a tensor that has been disposed counts until the work that uses
   * it is done), the most so far, and what is reserved from the system.
   */
  memory(): { live: number; peak: number; reserved: number } {
    check.call('Device.memory', arguments.length, 0);
    return binding.memory(this.#handle);
  }
}

/** The native handle of a device. */
export const deviceHandle = (device: Device): DeviceHandle => handleOf(device);

/** Every device found, also those that cannot be used, with the reason, so that it throws for none. */
export function listDevices(): DeviceInfo[] {
  check.call('listDevices', arguments.length, 0);
  try {
    return binding.listDevices(settings()) as DeviceInfo[];
  } catch (error) {
    if (!(error instanceof SasError)) throw error;
    const { message: reason } = error;
    return binding.listDevices().map((device) => ({ ...(device as DeviceInfo), usable: false, reason }));
  }
}

const opened = new Map<string, Device>();
let preferred: string | undefined;

/** The first usable CUDA device, else the CPU. Devices do not come and go: asked once. */
function preferredId(): string {
  preferred ??= listDevices().find((device) => device.kind === 'cuda' && device.usable)?.id ?? 'cpu';
  return preferred;
}

/**
 * The device of that id; without one the device that SAS_DEVICE names, else the first usable CUDA device, else the CPU.
 * The same object for the same id. Throws DeviceError for an id that cannot be used: never a silent fallback.
 */
export function getDevice(id?: DeviceId): Device {
  const op = check.call('getDevice', arguments.length, 1);
  if (id !== undefined && typeof id !== 'string') {
    throw new ArgumentError(`${op}: id is a ${typeof id}, expected a string such as 'cpu' or 'cuda:0'`);
  }
  const named = id === undefined ? namedDevice() : undefined;
  const wanted = id ?? named ?? preferredId();
  const device = opened.get(wanted) ?? open(wanted, named ? ' (from SAS_DEVICE)' : '');
  opened.set(wanted, device);
  return device;
}

function open(id: string, origin: string): Device {
  const devices = listDevices();
  const info = devices.find((device) => device.id === id);
  if (!info) {
    const known = devices.map((device) => (device.usable ? device.id : `${device.id} (unusable: ${device.reason})`));
    throw new DeviceError(`getDevice: there is no device '${id}'${origin}; devices here: ${known.join(', ')}`);
  }
  if (!info.usable) {
    throw new DeviceError(`getDevice: device '${id}'${origin} cannot be used: ${info.reason}`);
  }
  const handle = binding.openDevice(id, settings());
  // Opening may have told more: of a cuBLAS that does not start, say.
  const now = listDevices().find((device) => device.id === id) ?? info;
  return new Device(Object.freeze(now), handle);
}
