import type { Planted } from '../fault.js';

const ODD = 'test/api/odd_arguments.test.ts > ';
const TENSOR = 'test/api/tensor.test.ts > ';
const LIFETIME = 'test/api/lifetime.test.ts > ';
const FUZZ = 'test/hardening/fuzz.test.ts';

/** N-API: handles, lifetimes, sizes. */
export const BINDING: readonly Planted[] = [
  {
    name: 'sizes of operands not compared',
    file: 'native/binding/args.cc',
    find: 'if (!fits || handle.dtype != dtype) {',
    replace: 'if ((!fits && handle.shape.rank != 4) || handle.dtype != dtype) {',
    tests: [`${ODD}refuses keys of another width`],
  },
  {
    name: 'dtype of operands not compared',
    file: 'native/binding/args.cc',
    find: 'if (!fits || handle.dtype != dtype) {',
    replace: 'if (!fits) {',
    tests: [`${ODD}refuses two dtypes`],
  },
  {
    name: 'empty axes let through',
    file: 'native/binding/args.cc',
    find: 'if (handle.buffer->bytes == 0 && allowed_ == Operands::kUsual) Fail("an operand is empty");',
    replace: '',
    tests: [`${ODD}refuses an empty axis`],
  },
  {
    name: 'operand released during the call',
    file: 'native/binding/args.cc',
    find: 'if (buffer->owners == 0) Fail("an operand was released during the call");',
    replace: '',
    tests: [`${ODD}an operand released by a getter`],
  },
  {
    name: 'detached memory used',
    file: 'native/binding/args.cc',
    find: 'return data != handle.buffer->data;',
    replace: 'return data == nullptr && handle.buffer->data == nullptr;',
    tests: [`${ODD}wrapped memory that has been detached`],
  },
  {
    name: 'leading sizes of any number',
    file: 'native/binding/shape.cc',
    find: 'if (!(leading.shape == front)) return false;',
    replace: '',
    tests: ['test/hardening/fuzz.test.ts'],
  },
  {
    name: 'mean of any number of groups',
    file: 'native/binding/attention_ops.cc',
    find: 'args.Expect(all % width == 0 && heads % (all / width) == 0,',
    replace: 'args.Expect(all >= width,',
    tests: [`${ODD}refuses a mean of heads that are not whole`],
  },
  {
    name: 'read into too small a target',
    file: 'native/binding/memory.cc',
    find: 'ExpectContent(args, target, widen ? DType::kF32 : handle.dtype, handle.shape);',
    replace: 'if (!widen) ExpectContent(args, target, handle.dtype, handle.shape);',
    tests: [`${ODD}refuses a target of another length`],
  },
  {
    name: 'write from too small a source',
    file: 'native/binding/memory.cc',
    find: 'ExpectContent(args, source, handle.dtype, handle.shape);',
    replace: 'if (!source.Holds(handle.dtype)) args.Fail("the array is of another kind");',
    tests: [FUZZ],
  },
  {
    name: 'view frees the memory of its base',
    file: 'native/binding/memory.cc',
    find: 'if (--buffer->owners > 0) return;',
    replace: '--buffer->owners;',
    tests: ['test/api/memory.test.ts > a view holds the memory it shares'],
  },
  {
    name: 'last element not uploaded',
    file: 'native/binding/memory.cc',
    find: 'if (source.bytes > 0) memcpy(buffer->data, source.data, source.bytes);',
    replace: 'if (source.bytes > 4) memcpy(buffer->data, source.data, source.bytes - 4);',
    tests: [`${TENSOR}from`],
  },
  {
    name: 'new content written before what is queued',
    file: 'native/binding/memory.cc',
    find: 'handle.Allocate(source.bytes, direct);',
    replace: 'handle.Allocate(source.bytes, false);',
    tests: [`${LIFETIME}ops that are queued finish on the memory`],
  },
  {
    name: 'wrapped memory not kept alive',
    file: 'native/binding/memory.cc',
    find: 'handle.Adopt(std::move(buffer), std::move(array));',
    replace: 'handle.Adopt(std::move(buffer), std::make_shared<Napi::ObjectReference>());',
    tests: [`${TENSOR}wrap keeps the memory alive`],
  },
  {
    name: 'read does not wait',
    file: 'native/binding/memory.cc',
    find: 'handle.buffer->last_write <= handle.session->queue->completed()',
    replace: 'handle.buffer->last_write <= handle.session->queue->submitted()',
    tests: ['test/parity/data_sync.test.ts > waits for the work'],
  },
  {
    name: 'failure not looked at when reading',
    file: 'native/binding/memory.cc',
    find: 'if (Status status = queue.FailureOf(buffer); !status.ok() || buffer.bytes == 0) return status;',
    replace: 'if (buffer.bytes == 0) return {};',
    tests: ['test/parity/data_sync.test.ts > throws where data() rejects'],
  },
  {
    name: 'betas swapped',
    file: 'native/binding/training_ops.cc',
    find: 'p.beta1 = args.Number(); p.beta2 = args.Number();',
    replace: 'p.beta2 = args.Number(); p.beta1 = args.Number();',
    tests: ['test/parity/random.test.ts > random sizes f32 adamW'],
  },
  {
    name: 'stream of random numbers ignored',
    file: 'native/binding/tensor_ops.cc',
    find: 'p.stream = static_cast<uint64_t>(args.Integer());',
    replace: 'p.stream = static_cast<uint64_t>(0 * args.Integer());',
    tests: ['test/parity/sas_attention.test.ts > initialisation'],
  },
  {
    name: 'promise does not keep the process alive',
    file: 'native/binding/environment.cc',
    find: 'if (promises_++ == 0) napi_ref_threadsafe_function(env_, wake_);',
    replace: 'promises_++;',
    tests: ['test/gpt/resume.test.ts > train --resume goes on'],
  },
];
