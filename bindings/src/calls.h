// What the ABI's functions share: scratch memory, chunks on threads, checked importance sources.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <new>

#include "dispatch.h"
#include "pool.h"

namespace sta {

// Every entry of the ABI runs within: no exception crosses it.
template <typename Function>
int32_t guarded(Function function) noexcept {
  try {
    return function();
  } catch (const std::bad_alloc&) {
    return STA_NO_MEMORY;
  }
}

// Memory of all threads of one call.
class ThreadScratch {
 public:
  ThreadScratch(int threads, int64_t floats)
      : pitch_((floats + 15) / 16 * 16),
        memory_(static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(threads * pitch_) * sizeof(float)))) {}
  ~ThreadScratch() { std::free(memory_); }
  ThreadScratch(const ThreadScratch&) = delete;
  ThreadScratch& operator=(const ThreadScratch&) = delete;
  explicit operator bool() const { return memory_ != nullptr; }
  float* operator[](int slot) const { return memory_ + slot * pitch_; }

 private:
  int64_t pitch_;
  float* memory_;
};

inline int64_t chunks_of(int64_t n) { return (n + kChunk - 1) / kChunk; }

// Runs function(chunk, slot, scratch) for every chunk. n: elements of the largest operand.
template <typename Function>
int32_t parallel(Run& run, int64_t n, int64_t n_operands, int64_t chunks, Function function) {
  if (n <= 0) return STA_OK;
  run.tile = std::min(run.tile, (n + 63) / 64 * 64);
  const int threads = static_cast<int>(std::min<int64_t>(run.threads, chunks));
  const ThreadScratch scratch(threads, scratch_floats(n_operands, run.tile));
  if (!scratch) return STA_NO_MEMORY;
  struct Context {
    Function& function;
    const ThreadScratch& scratch;
  } context{function, scratch};
  run_chunks(
      chunks, threads,
      [](void* p, int64_t chunk, int slot) {
        const Context& c = *static_cast<Context*>(p);
        c.function(chunk, slot, c.scratch[slot]);
      },
      &context);
  return STA_OK;
}

// The importance operands that a measure needs are there.
inline bool has_sources(int32_t measure, const sta_operand* importance, const sta_operand* theta) {
  return measure >= STA_LP && measure <= STA_LP_AMP && (measure == STA_AMP || importance) &&
         (measure == STA_LP || theta);
}

// A formula's operands and parameters, as kernels take them.
struct OneFormula {
  Operands streams;
  FormulaCall call{};
  bool valid;
  OneFormula(int64_t n, const sta_formula* formula, const KernelTable& kernels);
};

// What a statistic reduces. The source points into it.
struct OneSource {
  Operands streams;
  std::unique_ptr<OneFormula> formula;
  Source source{};
  bool valid;
  OneSource(int64_t n, const sta_operand* importance, const sta_operand* theta, int32_t measure,
            const sta_formula* given, const KernelTable& kernels)
      : streams(n) {
    if (given) {
      formula = std::make_unique<OneFormula>(n, given, kernels);
      source.formula = &formula->call;
      valid = formula->valid;
      return;
    }
    streams.reserve(2);
    valid = n >= 0 && has_sources(measure, importance, theta);
    source.measure = measure;
    if (valid && measure != STA_AMP) valid = streams.add(importance, 1) && (source.importance = streams[0], true);
    if (valid && measure != STA_LP)
      valid = streams.add(theta, 1) && (source.theta = streams[static_cast<size_t>(streams.count() - 1)], true);
  }
};

}  // namespace sta
