import { describe, expect, test } from 'vitest';
import { errorFromCode } from '../../lib/errors.js';
import {
  ArgumentError,
  DeviceError,
  DisposedError,
  DTypeError,
  OutOfMemoryError,
  SasError,
  ShapeError,
} from '../../lib/index.js';

const kinds = [
  [ShapeError, 'ShapeError', 'SAS_SHAPE', RangeError],
  [DTypeError, 'DTypeError', 'SAS_DTYPE', TypeError],
  [ArgumentError, 'ArgumentError', 'SAS_ARGUMENT', TypeError],
  [DeviceError, 'DeviceError', 'SAS_DEVICE', Error],
  [DisposedError, 'DisposedError', 'SAS_DISPOSED', Error],
  [OutOfMemoryError, 'OutOfMemoryError', 'SAS_OUT_OF_MEMORY', Error],
  [SasError, 'SasError', 'SAS_INTERNAL', Error],
] as const;

describe.each(kinds)('%o', (Kind, name, code, builtIn) => {
  const error = new Kind('what happened');

  test('is a SasError and the built-in kind', () => {
    expect(error).toBeInstanceOf(SasError);
    expect(error).toBeInstanceOf(Kind);
    expect(error).toBeInstanceOf(builtIn);
  });

  test('has a name, a code and a readable stack', () => {
    expect(error).toMatchObject({ name, code, message: 'what happened' });
    expect(error.stack).toMatch(`${name}: what happened`);
    expect(String(error)).toBe(`${name}: what happened`);
  });

  test('is of no other kind', () => {
    for (const [Other] of kinds) {
      if (Other !== Kind && Other !== SasError) expect(error).not.toBeInstanceOf(Other);
    }
  });

  test('is what native code makes from the code', () => {
    expect(errorFromCode(code, 'm')).toBeInstanceOf(Kind);
  });
});

test('ordinary errors are not SasErrors', () => {
  const withCode = Object.assign(new Error('x'), { code: 'ENOENT' });
  for (const other of [new Error('x'), new RangeError('x'), withCode, { code: 'SAS_SHAPE' }, null, 1]) {
    expect(other instanceof SasError).toBe(false);
  }
});

test('a code that is not known makes a plain SasError', () => {
  expect(errorFromCode('toString', 'm')).toMatchObject({ name: 'SasError', code: 'SAS_INTERNAL', message: 'm' });
});
