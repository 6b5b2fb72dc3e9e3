// Exact selection: histograms of a window of keys that closes in on the k-th smallest.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <iterator>
#include <memory>
#include <mutex>
#include <vector>

#include "calls.h"

namespace {

using namespace sta;

constexpr int kBinBits = 11;  // four interleaved tables of 2^11 counters fit the first-level cache

// Counters of one pass, for all threads.
class Tables {
 public:
  Tables(int threads, int64_t bins)
      : bins_(bins),
        threads_(threads),
        counters_(static_cast<uint32_t*>(std::calloc(static_cast<size_t>(threads * kTables * bins), 4))) {}
  ~Tables() { std::free(counters_); }
  Tables(const Tables&) = delete;
  Tables& operator=(const Tables&) = delete;
  explicit operator bool() const { return counters_ != nullptr; }
  uint32_t* operator[](int slot) const { return counters_ + slot * kTables * bins_; }

  // Adds everything to counts and starts again at zero.
  void flush(uint64_t* counts) {
    for (int64_t table = 0; table < threads_ * kTables; ++table)
      for (int64_t bin = 0; bin < bins_; ++bin) counts[bin] += counters_[table * bins_ + bin];
    std::memset(counters_, 0, static_cast<size_t>(threads_ * kTables * bins_) * 4);
  }

 private:
  int64_t bins_;
  int threads_;
  uint32_t* counters_;
};

// One pass over the elements: adds to counts and to below.
int32_t count_window(Run& run, int64_t n, const Source& source, const Window& window, int64_t bins, uint64_t* counts,
                     uint64_t* below) {
  Tables tables(static_cast<int>(std::min<int64_t>(run.threads, std::max<int64_t>(chunks_of(n), 1))), bins);
  if (!tables) return STA_NO_MEMORY;
  constexpr int64_t kRound = int64_t{1} << 31;  // within which 32-bit counters cannot overflow
  std::atomic<uint64_t> lower{0};
  int32_t status = STA_OK;
  for (int64_t from = 0; from < n && status == STA_OK; from += kRound) {
    const int64_t stop = std::min(n, from + kRound);
    status = parallel(run, stop - from, operands_of(source), chunks_of(stop - from),
                      [&](int64_t chunk, int slot, float* scratch) {
                        const int64_t begin = from + chunk * kChunk, end = std::min(stop, begin + kChunk);
                        lower += static_cast<uint64_t>(
                            run.kernels->histogram(source, begin, end, run.tile, scratch, window, bins, tables[slot]));
                      });
    tables.flush(counts);
  }
  *below += lower;
  return status;
}

uint32_t key_of_float(float value) {
  if (value != value) return ~0u;
  uint32_t u;
  std::memcpy(&u, &value, 4);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}

float float_of_key(uint32_t key) {
  const uint32_t u = key & 0x80000000u ? key ^ 0x80000000u : ~key;
  float value;
  std::memcpy(&value, &u, 4);
  return value;
}

int shift_for(uint32_t span) {
  int bits = 0;
  while (bits < 32 && span >> bits) ++bits;
  return bits > kBinBits ? bits - kBinBits : 0;
}

// The key of a rank, from 0, among keys of a window, which are moved about.
uint32_t select_among(uint32_t* keys, int64_t n, uint32_t start, uint32_t span, int64_t rank) {
  for (;;) {
    const int shift = shift_for(span);
    uint32_t counts[1 << kBinBits] = {};
    for (int64_t i = 0; i < n; ++i) ++counts[(keys[i] - start) >> shift];
    uint32_t bin = 0;
    while (rank >= counts[bin]) rank -= counts[bin++];
    start += bin << shift;
    if (shift == 0) return start;
    span = (1u << shift) - 1;
    int64_t left = 0;
    for (int64_t i = 0; i < n; ++i) {
      keys[left] = keys[i];
      left += keys[i] - start <= span;
    }
    n = left;
  }
}

constexpr int64_t kSampleTile = 64;
constexpr int64_t kSampled = int64_t{1} << 18;        // elements from which on a sample pays
constexpr int64_t kMostCollected = int64_t{1} << 21;  // keys that are set aside

// A window that very probably holds the k-th smallest, and the likeliest key, from a sample of short runs spread
// evenly.
int32_t bracket(Run& run, int64_t n, const Source& source, int64_t k, Window* window, uint32_t* likeliest) {
  const int64_t tiles = n < int64_t{1} << 22 ? 256 : 1024, drawn = kSampleTile * tiles;
  std::vector<uint32_t> sample;
  sample.reserve(static_cast<size_t>(drawn));
  std::vector<float> scratch(static_cast<size_t>(scratch_floats(operands_of(source), kSampleTile)) + 16);
  const IeeeMode mode;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t begin = n / tiles * i;
    float values[kSampleTile];
    run.kernels->values(source, begin, begin + kSampleTile, kSampleTile, scratch.data(), values);
    std::transform(values, values + kSampleTile, std::back_inserter(sample), key_of_float);
  }
  // Six standard deviations of a rank among as many independent draws, or more; neighbours may be alike, and then the
  // bracket fails.
  const int64_t margin = tiles == 256 ? 3 * 128 : 3 * 256;
  const int64_t rank =
      static_cast<int64_t>(static_cast<double>(k) / static_cast<double>(n) * static_cast<double>(drawn));
  const auto at = [&](int64_t r) {
    std::vector<uint32_t> keys = sample;
    return select_among(keys.data(), drawn, 0, ~0u, r);
  };
  const uint32_t low = rank < margin ? 0 : at(rank - margin);
  const uint32_t high = rank + margin >= drawn ? ~0u : at(rank + margin);
  window->start = low;
  window->span = high - low;
  *likeliest = at(std::min(rank, drawn - 1));
  return STA_OK;
}

// One pass that sets the keys of a window aside. Where they hold the k-th smallest, that is *key, and *found is set;
// where there are too many of them, or it is not among them, the passes that count have to find it.
int32_t collect_window(Run& run, int64_t n, const Source& source, const Window& window, uint32_t likeliest, int64_t k,
                       uint32_t* key, bool* found) {
  const auto slots = static_cast<size_t>(std::min<int64_t>(run.threads, chunks_of(n)));
  constexpr size_t kRoom = kChunk + 64;
  const std::unique_ptr<uint32_t[]> room(new uint32_t[slots * kRoom]);
  std::vector<uint32_t> keys;
  keys.reserve(static_cast<size_t>(std::min(n / 16, kMostCollected)));
  std::mutex mutex;
  std::atomic<int64_t> lower{0}, common{0};
  const uint32_t commons[2] = {likeliest, 0};
  std::atomic<bool> overflows{false};
  const int32_t status =
      parallel(run, n, operands_of(source), chunks_of(n), [&](int64_t chunk, int slot, float* scratch) {
        if (overflows) return;
        const int64_t begin = chunk * kChunk;
        uint32_t* own = room.get() + static_cast<size_t>(slot) * kRoom;
        const WindowCounts counts =
            run.kernels->collect(source, begin, std::min(n, begin + kChunk), run.tile, scratch, window, commons, own);
        lower += counts.below;
        common += counts.common[0];
        const std::lock_guard<std::mutex> lock(mutex);
        if (static_cast<int64_t>(keys.size()) + counts.others > kMostCollected)
          overflows = true;
        else
          keys.insert(keys.end(), own, own + counts.others);
      });
  const int64_t rank = k - lower, others = static_cast<int64_t>(keys.size());
  *found = status == STA_OK && !overflows && rank >= 1 && rank <= others + common;
  if (!*found) return status;
  const int64_t less = std::count_if(keys.begin(), keys.end(), [&](uint32_t each) { return each < likeliest; });
  if (rank > less && rank <= less + common)
    *key = likeliest;
  else
    *key = select_among(keys.data(), others, window.start, window.span, rank - 1 - (rank > less ? common.load() : 0));
  return status;
}

// The key of the k-th smallest.
int32_t select_key(Run& run, int64_t n, const Source& source, int64_t k, uint32_t* key) {
  Window window{0, ~0u, 0};
  if (n >= kSampled) {
    uint32_t likeliest = 0;
    if (const int32_t status = bracket(run, n, source, k, &window, &likeliest)) return status;
    bool found = false;
    if (const int32_t status = collect_window(run, n, source, window, likeliest, k, key, &found)) return status;
    if (found) return STA_OK;
  }
  bool counts_below = true;  // later windows lie within the first: k is a rank within them
  for (;;) {
    uint64_t counts[1 << kBinBits] = {}, below = 0;
    window.shift = shift_for(window.span);
    if (const int32_t status = count_window(run, n, source, window, 1 << kBinBits, counts, &below)) return status;
    uint64_t left = static_cast<uint64_t>(k) - (counts_below ? below : 0);
    size_t bin = 0;
    if (!counts_below || static_cast<uint64_t>(k) > below)
      while (bin < (1 << kBinBits) && left > counts[bin]) left -= counts[bin++];
    else
      bin = 1 << kBinBits;
    if (bin == 1 << kBinBits) {  // the bracket missed
      window = {0, ~0u, 0};
      continue;
    }
    k = static_cast<int64_t>(left);
    counts_below = false;
    const uint32_t start = window.start + (static_cast<uint32_t>(bin) << window.shift);
    if (window.shift == 0) {
      *key = start;
      return STA_OK;
    }
    window = {start, (1u << window.shift) - 1, 0};
  }
}

uint64_t key_of_double(double value) {
  if (value != value) return ~uint64_t{0};
  uint64_t u;
  std::memcpy(&u, &value, 8);
  return u >> 63 ? ~u : u | (uint64_t{1} << 63);
}

double double_of_key(uint64_t key) {
  const uint64_t u = key >> 63 ? key ^ (uint64_t{1} << 63) : ~key;
  double value;
  std::memcpy(&value, &u, 8);
  return value;
}

// Finds the bucket of the k-th smallest and leaves in k its rank within.
size_t bucket_of(const uint64_t* counts, int64_t& k) {
  size_t digit = 0;
  while (static_cast<uint64_t>(k) > counts[digit]) k -= static_cast<int64_t>(counts[digit++]);
  return digit;
}

// float64 without narrowing: the same selection on 64-bit keys, on one thread.
int32_t select_double(const Stream& stream, int64_t n, int64_t k, double* result) {
  constexpr int kDigits[] = {11, 11, 11, 11, 11, 9};
  uint64_t prefix = 0;
  int bits = 0;
  double tile[1024];
  for (const int digit_bits : kDigits) {
    uint64_t counts[1 << 11] = {};
    const int shift = 64 - bits - digit_bits;
    for (int64_t at = 0; at < n; at += 1024) {
      const int64_t count = std::min<int64_t>(1024, n - at);
      if (stream.layout)
        gather(stream, at, count, reinterpret_cast<char*>(tile));
      else
        std::memcpy(tile, stream.data + at * 8, static_cast<size_t>(count) * 8);
      for (int64_t i = 0; i < count; ++i) {
        const uint64_t key = key_of_double(tile[i]);
        if (bits == 0 || key >> (64 - bits) == prefix) ++counts[(key >> shift) & ((1u << digit_bits) - 1)];
      }
    }
    prefix = prefix << digit_bits | bucket_of(counts, k);
    bits += digit_bits;
  }
  *result = prefix == ~uint64_t{0} ? __builtin_nan("") : double_of_key(prefix);
  return STA_OK;
}

}  // namespace

extern "C" {

int32_t sta_histogram(int64_t n, const sta_operand* importance, const sta_operand* theta, int32_t measure,
                      const sta_formula* formula, uint32_t prefix, int32_t prefix_bits, int32_t digit_bits,
                      uint64_t* counts, const sta_options* options) {
  return guarded([&]() -> int32_t {
    Run run;
    if (const int32_t status = run.set(options)) return status;
    const OneSource one(n, importance, theta, measure, formula, *run.kernels);
    if (!one.valid || !counts || digit_bits < 1 || digit_bits > 16 || prefix_bits < 0 || prefix_bits > 32 - digit_bits)
      return STA_INVALID;
    const int free_bits = 32 - prefix_bits;
    const Window window{prefix_bits ? prefix << free_bits : 0, prefix_bits ? (1u << free_bits) - 1 : ~0u,
                        free_bits - digit_bits};
    uint64_t below = 0;
    return count_window(run, n, one.source, window, int64_t{1} << digit_bits, counts, &below);
  });
}

int32_t sta_collect(int64_t n, const sta_operand* importance, const sta_operand* theta, int32_t measure,
                    const sta_formula* formula, sta_collector* collector, const sta_options* options) {
  return guarded([&]() -> int32_t {
    Run run;
    if (const int32_t status = run.set(options)) return status;
    const OneSource one(n, importance, theta, measure, formula, *run.kernels);
    if (!one.valid || !collector || collector->count < 0 || collector->count > collector->capacity ||
        (collector->capacity && !collector->keys))
      return STA_INVALID;
    run.threads = 1;
    const Window window{collector->start, collector->span, 0};
    const std::unique_ptr<uint32_t[]> room(new uint32_t[static_cast<size_t>(std::min(n, kChunk)) + 64]);
    return parallel(run, n, operands_of(one.source), chunks_of(n), [&](int64_t chunk, int, float* scratch) {
      const int64_t begin = chunk * kChunk;
      const WindowCounts counts = run.kernels->collect(one.source, begin, std::min(n, begin + kChunk), run.tile,
                                                       scratch, window, collector->common, room.get());
      collector->below += counts.below;
      collector->commons[0] += counts.common[0];
      collector->commons[1] += counts.common[1];
      const int64_t fit = std::min(counts.others, collector->capacity - collector->count);
      std::copy_n(room.get(), fit, reinterpret_cast<uint32_t*>(collector->keys) + collector->count);
      collector->count += fit;
      collector->overflow += counts.others - fit;
    });
  });
}

int32_t sta_order_statistic(int64_t n, const sta_operand* importance, const sta_operand* theta, int32_t measure,
                            const sta_formula* formula, int64_t k, int32_t exact, double* result,
                            const sta_options* options) {
  return guarded([&]() -> int32_t {
    Run run;
    if (const int32_t status = run.set(options)) return status;
    const OneSource one(n, importance, theta, measure, formula, *run.kernels);
    if (!one.valid || !result || k < 1 || k > n) return STA_INVALID;
    if (exact && !formula && measure == STA_LP && one.source.importance.dtype == STA_F64)
      return select_double(one.source.importance, n, k, result);
    uint32_t key = 0;
    if (const int32_t status = select_key(run, n, one.source, k, &key)) return status;
    *result = key == ~0u ? __builtin_nan("") : static_cast<double>(float_of_key(key));
    return STA_OK;
  });
}

}  // extern "C"
