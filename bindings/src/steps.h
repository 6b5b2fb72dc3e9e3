// What a pass does with a slice: calls of the ABI's functions, noted beforehand.
#pragma once

#include <cstring>
#include <vector>

#include "calls.h"

namespace sta {

template <typename T>
T* pointer(int64_t word) {
  return reinterpret_cast<T*>(word);
}

// Elements [at, at + n) of the range, through one step after the other; the words are the arguments of the function of
// that name.
class Steps {
 public:
  Steps(const sta_flow_job& job, sta_flow_report* report);
  int32_t run(int64_t at, int64_t n);

 private:
  int32_t one(const sta_step& step, int32_t index, int64_t at, int64_t n);
  void mark(const sta_collector& collector, int64_t part, uint64_t* marks, int64_t at) const;
  int32_t ranges(const int64_t* w, int64_t at, int64_t n);
  int32_t find_cut(const int64_t* w, int64_t at, int64_t n);

  const sta_flow_job& job_;
  sta_flow_report* report_;
  sta_options options_;
};

}  // namespace sta
