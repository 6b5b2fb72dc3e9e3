// Rank gates: the rows of a task vector are sorted here, and gated by the kernels.
#include <algorithm>
#include <cstring>

#include "calls.h"

namespace {

using namespace sta;

constexpr uint32_t kInfinity = 0x7f800000, kGreatest = 0x7fffffff;
constexpr int kDigitBits = 8, kDigits = 4, kBins = 1 << kDigitBits;
constexpr int64_t kFew = 32;  // entries that are sorted without counting

// An entry of a row: its key, which falls as its magnitude rises, above its index.
uint64_t item_of(float magnitude, int64_t index) {
  uint32_t bits;
  std::memcpy(&bits, &magnitude, sizeof bits);
  const uint32_t key = bits > kInfinity ? 0 : kGreatest - bits;  // every NaN is as great as another
  return static_cast<uint64_t>(key) << 32 | static_cast<uint64_t>(index);
}

void insert(uint64_t* items, int64_t n) {
  for (int64_t i = 1; i < n; ++i) {
    const uint64_t item = items[i];
    int64_t j = i;
    for (; j > 0 && items[j - 1] > item; --j) items[j] = items[j - 1];
    items[j] = item;
  }
}

// Sorts items, which are in the order of their indices; returns where they are then, in items or in room.
uint64_t* sort(uint64_t* items, uint64_t* room, int64_t n) {
  if (n <= kFew) {
    insert(items, n);
    return items;
  }
  const auto digit = [](uint64_t item, int d) { return item >> (32 + d * kDigitBits) & (kBins - 1); };
  uint32_t starts[kDigits][kBins] = {};
  for (int64_t i = 0; i < n; ++i)
    for (int d = 0; d < kDigits; ++d) ++starts[d][digit(items[i], d)];
  for (int d = 0; d < kDigits; ++d) {
    if (starts[d][digit(items[0], d)] == n) continue;  // all have the same
    uint32_t start = 0;
    for (uint32_t& bin : starts[d]) {
      const uint32_t count = bin;
      bin = start;
      start += count;
    }
    for (int64_t i = 0; i < n; ++i) room[starts[d][digit(items[i], d)]++] = items[i];
    std::swap(items, room);
  }
  return items;
}

// low + span * rank / (n - 1), rounded down, of every entry; sorted: from the greatest on.
void set_thresholds(const uint64_t* sorted, int64_t n, uint64_t low, uint64_t span, uint32_t* thresholds) {
  const uint64_t most = static_cast<uint64_t>(n - 1), step = span / most, part = span % most;
  uint64_t threshold = low, parts = 0;
  for (int64_t i = n - 1; i >= 0; --i) {
    thresholds[static_cast<uint32_t>(sorted[i])] = static_cast<uint32_t>(threshold);
    threshold += step;
    parts += part;
    if (parts >= most) {
      parts -= most;
      ++threshold;
    }
  }
}

// What ranking a row takes, per thread.
class Rows {
 public:
  Rows(int threads, int64_t row) : row_(row), memory_(threads, 4 * row) {}
  explicit operator bool() const { return static_cast<bool>(memory_); }

  // Thresholds of the entries of the row that begins at an element.
  const uint32_t* rank(const Run& run, const Source& magnitudes, int64_t begin, const GateCall& call, int slot,
                       float* scratch) const {
    uint64_t* items = reinterpret_cast<uint64_t*>(memory_[slot]);
    uint64_t* room = items + row_;
    float* values = reinterpret_cast<float*>(room);
    run.kernels->values(magnitudes, begin, begin + row_, run.tile, scratch, values);
    for (int64_t i = 0; i < row_; ++i) items[i] = item_of(values[i], i);
    const uint64_t* sorted = sort(items, room, row_);
    uint32_t* thresholds = reinterpret_cast<uint32_t*>(sorted == items ? room : items);
    set_thresholds(sorted, row_, call.threshold, call.span, thresholds);
    return thresholds;
  }

 private:
  int64_t row_;
  ThreadScratch memory_;
};

}  // namespace

extern "C" {

int32_t sta_rank_gate(int64_t n, int64_t row, const sta_operand* base, const sta_operand* model, uint64_t low,
                      uint64_t high, int32_t scaled, uint64_t seed, uint32_t tensor, uint32_t task, int64_t offset,
                      const sta_operand* out, const sta_options* options) {
  return guarded([&]() -> int32_t {
    constexpr uint64_t kDraws = uint64_t{1} << 32;
    if (n < 0 || row < 1 || static_cast<uint64_t>(row) >= kDraws || n % row || offset < 0 || offset > INT64_MAX - n ||
        low > high || high > kDraws || (low < high && high == kDraws) || !base || !model || !out)
      return STA_INVALID;
    Run run;
    if (const int32_t status = run.set(options)) return status;
    Operands streams(n);
    streams.reserve(3);
    if (!streams.add(base, 1) || !streams.add(model, 1) || !streams.add(out, 1)) return STA_INVALID;
    FormulaCall distance{};
    distance.kind = sta_formula_kind("distance");
    distance.n_models = 1;
    distance.base = streams.data();
    distance.models = streams.data() + 1;
    distance.offset = offset;
    Source magnitudes{};
    magnitudes.formula = &distance;
    GateCall call{low, high - low, scaled != 0, seed, tensor, task, offset, streams[2], run.streams(streams[2], n)};
    const bool ranks = low < high && row > 1;
    if (!ranks) {
      call.threshold = (low + high) / 2;
      return parallel(run, n, operands_of(magnitudes), chunks_of(n), [&](int64_t chunk, int, float* scratch) {
        const int64_t begin = chunk * kChunk;
        run.kernels->rank_gate(call, nullptr, begin, std::min(n, begin + kChunk), run.tile, scratch);
      });
    }
    const int64_t rows = n / row, together = std::max<int64_t>(kChunk / row, 1);
    const int64_t chunks = (rows + together - 1) / together;
    const Rows ranking(static_cast<int>(std::min<int64_t>(run.threads, std::max<int64_t>(chunks, 1))), row);
    if (!ranking) return STA_NO_MEMORY;
    return parallel(run, n, operands_of(magnitudes), chunks, [&](int64_t chunk, int slot, float* scratch) {
      const int64_t last = std::min(rows, (chunk + 1) * together);
      for (int64_t begin = chunk * together * row; begin < last * row; begin += row) {
        const uint32_t* thresholds = ranking.rank(run, magnitudes, begin, call, slot, scratch);
        run.kernels->rank_gate(call, thresholds, begin, begin + row, run.tile, scratch);
      }
    });
  });
}

}  // extern "C"
