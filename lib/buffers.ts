/** Buffers are made together and given back together: a call into native code costs more than one more entry in its list. */
import { type BufferHandle, binding } from './binding.js';

/** What is to be given back when the outermost `together` ends; null outside of one. */
let pending: BufferHandle[] | null = null;

/** Gives up a buffer, within `together` at its end. */
export function release(buffer: BufferHandle): void {
  if (pending) pending.push(buffer);
  else binding.release([buffer]);
}

/** Runs `body`; all that it releases goes back in one call. */
export function together(body: () => void): void {
  if (pending) {
    body();
    return;
  }
  const released: BufferHandle[] = [];
  pending = released;
  try {
    body();
  } finally {
    pending = null;
    if (released.length) binding.release(released);
  }
}
