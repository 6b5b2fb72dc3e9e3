// One pool of threads for the process: grows on demand, shared by all callers, rebuilt in a forked child.
#pragma once

#include <cstdint>

namespace sta {

// Runs body(context, chunk) for every chunk in [0, chunks), on the caller and up to threads - 1 others, and waits.
// Chunks are taken one at a time, so that a thread that is held up holds up nothing else. slot: below threads, and no
// two running bodies of one job have the same.
using Body = void (*)(void* context, int64_t chunk, int slot);
void run_chunks(int64_t chunks, int threads, Body body, void* context);

// Rounding to nearest, subnormals kept, for as long as it lives; then what the thread had before.
class IeeeMode {
 public:
  IeeeMode();
  ~IeeeMode();
  IeeeMode(const IeeeMode&) = delete;
  IeeeMode& operator=(const IeeeMode&) = delete;

 private:
  uint64_t saved_;
};

}  // namespace sta
