import type { Planted } from '../fault.js';

const FAILURES = 'test/api/failures.test.ts';
const LIFETIME = 'test/api/lifetime.test.ts';
const MEMORY = 'test/api/memory.test.ts';

/** What both devices share: queue, buffers, statuses; and the CPU's threads and scratch memory. */
export const CORE: readonly Planted[] = [
  {
    name: 'inline op before what is queued',
    file: 'native/core/queue.cc',
    find: 'if (run_inline && idle) {',
    replace: 'if (run_inline) {',
    tests: [`${LIFETIME} > ops that are queued finish on the memory they were given`],
  },
  {
    name: 'failure of an input ignored',
    file: 'native/core/queue.cc',
    find: 'status = FailureOf(*buffer); if (buffer->pending_checks.period',
    replace: 'if (buffer->pending_checks.period',
    tests: [`${FAILURES} > rejects the next wait on what depends on it`],
  },
  {
    name: 'failure kept by what is written anew',
    file: 'native/core/queue.cc',
    find: 'buffer->failure = status;',
    replace: 'if (!status.ok()) buffer->failure = status;',
    tests: [`${FAILURES} > writing new content heals a tensor`],
  },
  {
    name: 'failure without the name of its op',
    file: 'native/core/queue.cc',
    find: 'status = Named(task.name, own);',
    replace: 'status = own;',
    tests: [`${FAILURES} > rejects the next wait on what depends on it`],
  },
  {
    name: 'synchronize forgets the first failure',
    file: 'native/core/queue.cc',
    find: 'if (failure_.ok()) failure_ = status; for (',
    replace: 'failure_ = status; for (',
    tests: [FAILURES],
  },
  {
    name: 'failure on another queue not carried on',
    file: 'native/core/queue.cc',
    find: 'if (task.after.valid()) status = OutcomeOf(task.after);',
    replace: 'if (task.after.valid()) OutcomeOf(task.after);',
    tests: ['test/parity/transfer.test.ts > carries a failure on to the copy'],
    addon: 'emulated',
  },
  {
    name: 'room for checks never made',
    file: 'native/core/queue.cc',
    find: 'if (checks_.size() < Device::kMaxChecks) return {};',
    replace: 'if (checks_.size() < 2 * Device::kMaxChecks) return {};',
    tests: [`${FAILURES} > among many that nobody has waited for`],
    addon: 'emulated',
  },
  {
    name: 'checks of the period before taken for those of this one',
    file: 'native/core/queue.cc',
    find: 'checks_.clear(); ++period_;',
    replace: 'checks_.clear();',
    tests: [`${FAILURES} > among many that nobody has waited for`],
    addon: 'emulated',
  },
  {
    name: 'waiter called before its task is done',
    file: 'native/core/queue.cc',
    find: 'waiters_.begin()->first <= completed)',
    replace: 'waiters_.begin()->first <= completed + 1)',
    tests: [`${LIFETIME} > ops that are queued finish on the memory they were given`],
  },
  {
    name: 'memory of a view counted twice',
    file: 'native/core/buffer.cc',
    find: 'Count(-static_cast<ptrdiff_t>(buffer.bytes));',
    replace: 'Count(-static_cast<ptrdiff_t>(buffer.capacity));',
    tests: [`${MEMORY} > dispose gives the memory back`],
  },
  {
    name: 'peak not raised',
    file: 'native/core/buffer.cc',
    find: 'use_.peak = std::max(use_.peak, use_.live);',
    replace: 'use_.peak = use_.live;',
    tests: ['test/api/device.test.ts > memory is counted'],
  },
  {
    name: 'memory limit not kept',
    file: 'native/core/buffer.cc',
    find: 'if (capacity <= limit_ && use_.reserved + capacity <= limit_) {',
    replace: 'if (capacity > 0) {',
    tests: [`${FAILURES} > SAS_MEMORY_LIMIT sets the room`],
  },
  {
    name: 'block that queued work still uses given to the host',
    file: 'native/core/buffer.cc',
    find: 'return free.last_use <= idle_since;',
    replace: 'return free.last_use <= idle_since || idle_since > 0;',
    tests: [`${LIFETIME} > ops that are queued finish on the memory they were given`],
  },
  {
    name: 'scratch memory handed out twice',
    file: 'native/cpu/context.cc',
    find: 'used_ += bytes; return data;',
    replace: 'used_ += bytes / 2 / 64 * 64; return data;',
    tests: ['test/parity/random.test.ts > random sizes f32 expand'],
  },
  {
    name: 'last item of a parallel loop dropped',
    file: 'native/cpu/thread_pool.cc',
    find: 'item < items_; item = next_++)',
    replace: 'item < items_ - 1; item = next_++)',
    tests: ['test/parity/random.test.ts > random sizes f32 attention'],
    environment: { SAS_THREADS: '2' },
  },
  {
    name: 'loop left while a worker is inside',
    file: 'native/cpu/thread_pool.cc',
    find: 'while (inside_ != 0) Pause();',
    replace: '',
    tests: ['test/hardening/hardening.test.ts > ThreadSanitizer'],
  },
];
