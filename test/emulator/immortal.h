// What all threads of a process share is never destroyed: where the process exits, other threads may still run.
#pragma once

#include <memory>
#include <utility>

namespace sas::emulator {

template <class Object, class... Arguments>
Object& MakeImmortal(Arguments&&... arguments) {
  return *std::make_unique<Object>(std::forward<Arguments>(arguments)...).release();
}

}  // namespace sas::emulator
