// From the ABI's arguments to kernel calls: checked operands, the instruction set, and how the work is cut.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernel_table.h"

namespace sta {

const KernelTable* kernels_for(int64_t isa);  // null where this processor or build has none

// Streams of one call and the layouts they point at.
class Operands {
 public:
  explicit Operands(int64_t n) : n_(n) {}

  // Appends the streams of count operands; false where one is no valid operand of n elements.
  bool add(const sta_operand* operands, int64_t count);
  const Stream* data() const { return streams_.data(); }
  const Stream& operator[](size_t i) const { return streams_[i]; }
  int64_t count() const { return static_cast<int64_t>(streams_.size()); }
  void reserve(int64_t count) { streams_.reserve(static_cast<size_t>(count)); }

 private:
  int64_t n_;
  std::vector<Stream> streams_;
  std::vector<std::unique_ptr<Layout>> layouts_;
};

// How one call runs.
struct Run {
  const KernelTable* kernels = nullptr;
  int threads = 1;
  int64_t tile = 0;
  int64_t streaming_bytes = 0;

  bool streams(const Stream& out, int64_t n) const { return n * out.itemsize >= streaming_bytes; }
  int32_t set(const sta_options* options);  // a status
};

}  // namespace sta
