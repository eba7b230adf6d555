/**
 * Random calls, right and wrong: some seconds in `npm test`, a minute in `npm run test:sanitized`, there on the emulated GPU too.
 * The seed is printed; `npm run test:fuzz` runs longer.
 */
import { expect, test } from 'vitest';
import { sanitizers } from '../helpers/native_build.js';

process.env.SAS_MEMORY_LIMIT ??= String(256 << 20); // before a device is opened: huge sizes are refused, not tried
const { fuzz } = await import('./fuzz.js');

test('random calls of the binding and of the library', async () => {
  const summary = await fuzz({ seconds: sanitizers === undefined ? 8 : 60 });
  console.info(summary);
  expect(summary).toMatch(/^binding: \d{3,} calls.*library: \d{3,} calls/);
});
