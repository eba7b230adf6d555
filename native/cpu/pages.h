// Memory for tensors and scratch.
#pragma once

#include <cstddef>

namespace sas::cpu {

// 64-byte aligned; null if there is none. Large blocks ask for huge pages: the rows of one head lie kilobytes apart,
// and with small pages nearly every one would need a translation of its own.
void* AllocatePages(size_t bytes);
void FreePages(void* data, size_t bytes);  // as allocated
// Freed memory that the C library keeps goes back to the system.
void TrimPages();

}  // namespace sas::cpu
