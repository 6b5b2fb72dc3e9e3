// Digests of a file's blocks, taken from its bytes as they pass in order.
#pragma once

#include "kernel_table.h"

namespace sta {

// XXH3-128 of each block of a file that passes from its beginning to its end. Lies in the caller's memory, which is
// zeroed at first, and goes on where the last pass stopped, if the next one begins there.
class BlockDigests {
 public:
  // position: in the file, of the first byte that passes. digests: room for 16 bytes of each of so many blocks.
  void begin(int64_t block, int64_t position, uint8_t* digests, int64_t capacity);
  void pass(const KernelTable& kernels, const char* data, int64_t size);

 private:
  void begin_block();
  void end_block();
  void units(const KernelTable& kernels, const char* data, int64_t count);

  // The first three are the caller's to read: sta_core.h.
  int64_t next_;   // position of the byte that is to follow
  int64_t first_;  // block of the first digest since begin()
  int64_t count_;  // digests since then
  int64_t block_;
  int64_t skip_;    // bytes before the first whole block
  int64_t left_;    // units of the current block
  int64_t filled_;  // bytes of a unit that waits for the rest of it
  uint8_t* digests_;
  int64_t capacity_;
  uint64_t lanes_[8];
  char unit_[kDigestUnit];
};

static_assert(sizeof(BlockDigests) <= 8 * STA_DIGEST_WORDS, "the caller's memory is too small");

}  // namespace sta
