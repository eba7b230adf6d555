/**
 * Every error of this package is `instanceof SasError` and has a stable `code`; some are the built-in kind as well, so that
 * `catch` blocks that know only JavaScript's own classes still sort them.
 */

import { types } from 'node:util';

/** The stable codes, one per class. */
export type SasErrorCode =
  | 'SAS_SHAPE'
  | 'SAS_DTYPE'
  | 'SAS_ARGUMENT'
  | 'SAS_DEVICE'
  | 'SAS_DISPOSED'
  | 'SAS_OUT_OF_MEMORY'
  | 'SAS_ANOMALY'
  | 'SAS_INTERNAL';

/**
 * The base of every error of this package (`instanceof` also holds for those that extend a built-in class), and the class
 * of a failure that is nobody's argument: a fault of the device or of the addon itself.
 */
export class SasError extends Error {
  static {
    SasError.prototype.name = 'SasError';
  }

  /** Says what went wrong; does not change between versions. */
  readonly code: SasErrorCode = 'SAS_INTERNAL';

  /** Holds for every error of this package, by its code. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    // biome-ignore lint/complexity/noThisInStatic: the subclass that is asked, when it is one
    return this === SasError ? isSasError(value) : Function.prototype[Symbol.hasInstance].call(this, value);
  }
}

/** A tensor's sizes do not fit the op, or do not fit each other. */
export class ShapeError extends RangeError {
  static {
    ShapeError.prototype.name = 'ShapeError';
  }

  readonly code = 'SAS_SHAPE';
}

/** A tensor's element type is not one that the op takes. */
export class DTypeError extends TypeError {
  static {
    DTypeError.prototype.name = 'DTypeError';
  }

  readonly code = 'SAS_DTYPE';
}

/** An argument of the wrong kind or outside its range, an unknown option, a malformed file. */
export class ArgumentError extends TypeError {
  static {
    ArgumentError.prototype.name = 'ArgumentError';
  }

  readonly code = 'SAS_ARGUMENT';
}

/** A device that does not exist or cannot be used, or operands that live on different ones. */
export class DeviceError extends SasError {
  static {
    DeviceError.prototype.name = 'DeviceError';
  }

  override readonly code = 'SAS_DEVICE';
}

/** Use of a tensor, or of what holds tensors, after its `dispose()`. */
export class DisposedError extends SasError {
  static {
    DisposedError.prototype.name = 'DisposedError';
  }

  override readonly code = 'SAS_DISPOSED';
}

/** The device, or the limit set by SAS_MEMORY_LIMIT, has no room. The device stays usable. */
export class OutOfMemoryError extends SasError {
  static {
    OutOfMemoryError.prototype.name = 'OutOfMemoryError';
  }

  override readonly code = 'SAS_OUT_OF_MEMORY';
}

/** With SAS_ANOMALY=1: an op has written a number that is NaN or infinite. */
export class AnomalyError extends SasError {
  static {
    AnomalyError.prototype.name = 'AnomalyError';
  }

  override readonly code = 'SAS_ANOMALY';
}

const classes = {
  SAS_SHAPE: ShapeError,
  SAS_DTYPE: DTypeError,
  SAS_ARGUMENT: ArgumentError,
  SAS_DEVICE: DeviceError,
  SAS_DISPOSED: DisposedError,
  SAS_OUT_OF_MEMORY: OutOfMemoryError,
  SAS_ANOMALY: AnomalyError,
  SAS_INTERNAL: SasError,
} satisfies Record<SasErrorCode, new (message: string) => Error>;

function isSasError(value: unknown): boolean {
  return (
    types.isNativeError(value) &&
    'code' in value &&
    typeof value.code === 'string' &&
    Object.hasOwn(classes, value.code)
  );
}

/** The error of the class that `code` names; what native code calls. An unknown code is a `SasError`. */
export function errorFromCode(code: string, message: string): Error {
  return new (Object.hasOwn(classes, code) ? classes[code as SasErrorCode] : SasError)(message);
}
