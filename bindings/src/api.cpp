// The C ABI: checks arguments, cuts the work into chunks, runs the chosen kernels.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#include "dispatch.h"
#include "pool.h"

namespace {

using namespace sta;

constexpr int64_t kStreamingBytes = int64_t{32} << 20;  // outputs above this are not read again while in the caches

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

int64_t chunks_of(int64_t n) { return (n + kChunk - 1) / kChunk; }

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

bool streams_out(const Stream& out, int64_t n) { return n * out.itemsize >= kStreamingBytes; }

// The importance operands that a measure needs are there.
bool has_sources(int32_t measure, const sta_operand* importance, const sta_operand* theta) {
  return measure >= STA_LP && measure <= STA_LP_AMP && (measure == STA_AMP || importance) &&
         (measure == STA_LP || theta);
}

// Folds one range into another: -0 below +0, NaN sticking.
void fold_range(const float* seen, float* folded) {
  if (seen[0] != seen[0] || folded[0] != folded[0]) {
    folded[0] = folded[1] = __builtin_nanf("");
    return;
  }
  if (seen[0] < folded[0] || (seen[0] == folded[0] && std::signbit(seen[0]))) folded[0] = seen[0];
  if (seen[1] > folded[1] || (seen[1] == folded[1] && !std::signbit(seen[1]))) folded[1] = seen[1];
}

struct OneSource {
  Operands streams;
  Source source{};
  bool valid;
  OneSource(int64_t n, const sta_operand* importance, const sta_operand* theta, int32_t measure) : streams(n) {
    streams.reserve(2);
    valid = n >= 0 && has_sources(measure, importance, theta);
    source.measure = measure;
    if (valid && measure != STA_AMP) valid = streams.add(importance, 1) && (source.importance = streams[0], true);
    if (valid && measure != STA_LP)
      valid = streams.add(theta, 1) && (source.theta = streams[static_cast<size_t>(streams.count() - 1)], true);
  }
};

int32_t count_digits(Run& run, int64_t n, const Source& source, uint32_t prefix, int prefix_bits, int digit_bits,
                     uint64_t* counts) {
  const size_t entries = size_t{kTables} << digit_bits;
  const int threads = static_cast<int>(std::min<int64_t>(run.threads, std::max<int64_t>(chunks_of(n), 1)));
  uint32_t* tables = static_cast<uint32_t*>(std::calloc(entries * static_cast<size_t>(threads), sizeof(uint32_t)));
  if (!tables) return STA_NO_MEMORY;
  const auto flush = [&](uint32_t* table) {
    for (size_t i = 0; i < entries; ++i) counts[i & ((size_t{1} << digit_bits) - 1)] += table[i];
  };
  // 32-bit counters cannot overflow within one round.
  constexpr int64_t kRound = int64_t{1} << 31;
  int32_t status = STA_OK;
  for (int64_t from = 0; from < n && status == STA_OK; from += kRound) {
    const int64_t stop = std::min(n, from + kRound);
    status = parallel(run, stop - from, 2, chunks_of(stop - from), [&](int64_t chunk, int slot, float* scratch) {
      const int64_t begin = from + chunk * kChunk, end = std::min(stop, begin + kChunk);
      run.kernels->histogram(source, begin, end, run.tile, scratch, prefix, prefix_bits, digit_bits,
                             tables + entries * static_cast<size_t>(slot));
    });
    for (int slot = 0; slot < threads; ++slot) flush(tables + entries * static_cast<size_t>(slot));
    std::memset(tables, 0, entries * static_cast<size_t>(threads) * sizeof(uint32_t));
  }
  std::free(tables);
  return status;
}

float float_of_key(uint32_t key) {
  const uint32_t u = key & 0x80000000u ? key ^ 0x80000000u : ~key;
  float value;
  std::memcpy(&value, &u, 4);
  return value;
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

int32_t sta_abi_version(void) { return STA_ABI_VERSION; }

const char* sta_build_info(void) {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "gcc " __VERSION__;
#endif
}

int32_t sta_isa_available(int32_t isa) { return isa >= 0 && kernels_for(isa) != nullptr; }

int32_t sta_isa_best(void) {
  for (int32_t isa : {STA_ISA_AVX512, STA_ISA_AVX2, STA_ISA_NEON, STA_ISA_BASELINE})
    if (kernels_for(isa)) return isa;
  return STA_NO_SUCH_ISA;
}

const char* sta_isa_name(int32_t isa) {
  const KernelTable* table = isa >= 0 ? kernels_for(isa) : nullptr;
  return table ? table->name : "";
}

int32_t sta_merge(int64_t n, int32_t n_tasks, const sta_operand* base, const sta_operand* finetuned,
                  const sta_operand* importances, int32_t measure, const float* normaliser, int32_t k, int32_t ties,
                  const float* weights, float lambda, const sta_operand* out, int64_t* counts,
                  const sta_options* options) {
  if (n < 0 || n_tasks < 1 || n_tasks > STA_MAX_TASKS || k < 0 || k > n_tasks || ties < STA_DROP || ties > STA_FIRST ||
      !base || !finetuned || !normaliser || !out || !has_sources(measure, importances, finetuned))
    return STA_INVALID;
  Run run;
  if (const int32_t status = run.set(options)) return status;
  Operands streams(n);
  const bool reads_importance = measure != STA_AMP;
  streams.reserve(2 * n_tasks + 2);
  if (!streams.add(base, 1) || !streams.add(out, 1) || !streams.add(finetuned, n_tasks) ||
      (reads_importance && !streams.add(importances, n_tasks)))
    return STA_INVALID;
  if (weights && std::all_of(weights, weights + n_tasks, [](float w) { return w == 1.0f; })) weights = nullptr;
  MergeCall call{};
  call.n_tasks = n_tasks;
  call.base = streams[0];
  call.out = streams[1];
  call.finetuned = streams.data() + 2;
  call.importances = reads_importance ? call.finetuned + n_tasks : nullptr;
  call.measure = measure;
  call.normaliser = normaliser;
  call.k = k;
  call.ties = ties;
  call.weights = weights;
  call.lambda = lambda;
  call.streaming = streams_out(call.out, n);
  std::mutex mutex;
  return parallel(run, n, streams.count() + n_tasks, chunks_of(n), [&](int64_t chunk, int, float* scratch) {
    int64_t local[STA_MAX_TASKS + 1] = {};
    const int64_t begin = chunk * kChunk;
    run.kernels->merge(call, begin, std::min(n, begin + kChunk), run.tile, scratch, counts ? local : nullptr);
    if (!counts) return;
    const std::lock_guard<std::mutex> lock(mutex);
    for (int i = 0; i <= n_tasks; ++i) counts[i] += local[i];
  });
}

int32_t sta_weighted_sum(int64_t n, int32_t n_models, const sta_operand* base, const sta_operand* models,
                         const float* weights, float divisor, float lambda, const sta_operand* out,
                         const sta_options* options) {
  if (n < 0 || n_models < 1 || n_models > STA_MAX_TASKS || !models || !weights || !out) return STA_INVALID;
  Run run;
  if (const int32_t status = run.set(options)) return status;
  Operands streams(n);
  streams.reserve(n_models + 2);
  if (!streams.add(out, 1) || !streams.add(models, n_models) || (base && !streams.add(base, 1))) return STA_INVALID;
  SumCall call{};
  call.n_models = n_models;
  call.out = streams[0];
  call.models = streams.data() + 1;
  call.base = base ? call.models + n_models : nullptr;
  call.weights = weights;
  call.divisor = divisor;
  call.lambda = lambda;
  call.streaming = streams_out(call.out, n);
  return parallel(run, n, streams.count(), chunks_of(n), [&](int64_t chunk, int, float* scratch) {
    const int64_t begin = chunk * kChunk;
    run.kernels->weighted_sum(call, begin, std::min(n, begin + kChunk), run.tile, scratch);
  });
}

int32_t sta_ranges(int32_t n_tensors, const int64_t* sizes, const sta_operand* importances, const sta_operand* thetas,
                   int32_t measure, float* minmax, double* leaves, const sta_options* options) {
  if (n_tensors < 0 || (n_tensors > 0 && (!sizes || !minmax || !has_sources(measure, importances, thetas))))
    return STA_INVALID;
  Run run;
  if (const int32_t status = run.set(options)) return status;
  // Chunks of all tensors form one list, so that many small tensors share the threads as one large tensor does.
  struct Item {
    std::unique_ptr<OneSource> source;
    int64_t n, first_chunk;
    double* leaves;
  };
  std::vector<Item> items;
  int64_t chunks = 0, largest = 0;
  for (int32_t i = 0; i < n_tensors; ++i) {
    auto source = std::make_unique<OneSource>(sizes[i], importances ? importances + i : nullptr,
                                              thetas ? thetas + i : nullptr, measure);
    if (!source->valid) return STA_INVALID;
    items.push_back({std::move(source), sizes[i], chunks, leaves});
    chunks += chunks_of(sizes[i]);
    largest = std::max(largest, sizes[i]);
    if (leaves) leaves += (sizes[i] + STA_LEAF - 1) / STA_LEAF;
  }
  std::mutex mutex;
  return parallel(run, largest, 2, chunks, [&](int64_t chunk, int, float* scratch) {
    const auto after = std::upper_bound(items.begin(), items.end(), chunk,
                                        [](int64_t c, const Item& item) { return c < item.first_chunk; });
    const Item& item = *(after - 1);
    const int64_t begin = (chunk - item.first_chunk) * kChunk;
    float seen[2] = {__builtin_inff(), -__builtin_inff()};
    run.kernels->range(item.source->source, begin, std::min(item.n, begin + kChunk), run.tile, scratch, seen,
                       item.leaves ? item.leaves + begin / STA_LEAF : nullptr);
    float* folded = minmax + 2 * (&item - items.data());
    const std::lock_guard<std::mutex> lock(mutex);
    fold_range(seen, folded);
  });
}

double sta_fold(double* leaves, int64_t n) {
  if (n <= 0) return 0.0;
  for (int64_t width = n; width > 1; width = (width + 1) / 2) {
    for (int64_t i = 0; i < width / 2; ++i) leaves[i] = leaves[2 * i] + leaves[2 * i + 1];
    if (width % 2) leaves[width / 2] = leaves[width - 1];
  }
  return leaves[0];
}

int32_t sta_histogram(int64_t n, const sta_operand* importance, const sta_operand* theta, int32_t measure,
                      uint32_t prefix, int32_t prefix_bits, int32_t digit_bits, uint64_t* counts,
                      const sta_options* options) {
  const OneSource one(n, importance, theta, measure);
  if (!one.valid || !counts || digit_bits < 1 || digit_bits > 16 || prefix_bits < 0 || prefix_bits + digit_bits > 32)
    return STA_INVALID;
  Run run;
  if (const int32_t status = run.set(options)) return status;
  return count_digits(run, n, one.source, prefix, prefix_bits, digit_bits, counts);
}

int32_t sta_order_statistic(int64_t n, const sta_operand* importance, const sta_operand* theta, int32_t measure,
                            int64_t k, int32_t exact, double* result, const sta_options* options) {
  const OneSource one(n, importance, theta, measure);
  if (!one.valid || !result || k < 1 || k > n) return STA_INVALID;
  Run run;
  if (const int32_t status = run.set(options)) return status;
  if (exact && measure == STA_LP && one.source.importance.dtype == STA_F64)
    return select_double(one.source.importance, n, k, result);
  constexpr int kDigits[] = {11, 11, 10};
  uint32_t prefix = 0;
  int bits = 0;
  for (const int digit_bits : kDigits) {
    uint64_t counts[1 << 11] = {};
    const int32_t status = count_digits(run, n, one.source, prefix, bits, digit_bits, counts);
    if (status) return status;
    prefix = prefix << digit_bits | static_cast<uint32_t>(bucket_of(counts, k));
    bits += digit_bits;
  }
  *result = prefix == ~0u ? __builtin_nan("") : static_cast<double>(float_of_key(prefix));
  return STA_OK;
}

int32_t sta_forget(int64_t n, const sta_operand* target, const sta_operand* base, const sta_operand* finetuned,
                   const sta_operand* importance, int32_t measure, float threshold, float weight, float lambda,
                   const sta_operand* out, int64_t* counts, const sta_options* options) {
  if (n < 0 || !target || !base || !finetuned || !out || !has_sources(measure, importance, finetuned))
    return STA_INVALID;
  Run run;
  if (const int32_t status = run.set(options)) return status;
  Operands streams(n);
  streams.reserve(5);
  if (!streams.add(target, 1) || !streams.add(base, 1) || !streams.add(finetuned, 1) || !streams.add(out, 1) ||
      (measure != STA_AMP && !streams.add(importance, 1)))
    return STA_INVALID;
  ForgetCall call{};
  call.target = streams[0];
  call.base = streams[1];
  call.finetuned = streams[2];
  call.out = streams[3];
  call.source.measure = measure;
  if (measure != STA_AMP) call.source.importance = streams[4];
  call.threshold = threshold;
  call.weight = weight;
  call.lambda = lambda;
  call.streaming = streams_out(call.out, n);
  std::atomic<int64_t> total{0};
  const int32_t status = parallel(run, n, streams.count() + 1, chunks_of(n), [&](int64_t chunk, int, float* scratch) {
    int64_t kept = 0;
    const int64_t begin = chunk * kChunk;
    run.kernels->forget(call, begin, std::min(n, begin + kChunk), run.tile, scratch, &kept);
    total += kept;
  });
  if (counts) *counts += total;
  return status;
}

int32_t sta_taylor_accumulate(int64_t n, const sta_operand* total, const sta_operand* grad,
                              const sta_options* options) {
  if (n < 0 || !total || !grad) return STA_INVALID;
  Run run;
  if (const int32_t status = run.set(options)) return status;
  Operands streams(n);
  streams.reserve(2);
  if (!streams.add(total, 1) || !streams.add(grad, 1)) return STA_INVALID;
  return parallel(run, n, 2, chunks_of(n), [&](int64_t chunk, int, float* scratch) {
    const int64_t begin = chunk * kChunk;
    run.kernels->accumulate(streams[0], streams[1], begin, std::min(n, begin + kChunk), run.tile, scratch);
  });
}

int32_t sta_taylor_finish(int64_t n, const sta_operand* total, const sta_operand* param, int32_t measure,
                          const sta_operand* out, float* minmax, double* leaves, const sta_options* options) {
  if (n < 0 || !total || !param || !out || !minmax || !leaves || measure < STA_LP || measure > STA_LP_AMP)
    return STA_INVALID;
  Run run;
  if (const int32_t status = run.set(options)) return status;
  Operands streams(n);
  streams.reserve(3);
  if (!streams.add(total, 1) || !streams.add(param, 1) || !streams.add(out, 1)) return STA_INVALID;
  const FinishCall call{streams[0], streams[1], streams[2], measure};
  std::mutex mutex;
  return parallel(run, n, 3, chunks_of(n), [&](int64_t chunk, int, float* scratch) {
    const int64_t begin = chunk * kChunk;
    float seen[2] = {__builtin_inff(), -__builtin_inff()};
    run.kernels->finish(call, begin, std::min(n, begin + kChunk), run.tile, scratch, seen, leaves + begin / STA_LEAF);
    const std::lock_guard<std::mutex> lock(mutex);
    fold_range(seen, minmax);
  });
}

int32_t sta_first_nonfinite(int64_t n, int32_t n_operands, const sta_operand* operands, int64_t* operand,
                            int64_t* index, const sta_options* options) {
  if (n < 0 || n_operands < 0 || !operands || !operand || !index) return STA_INVALID;
  Run run;
  if (const int32_t status = run.set(options)) return status;
  Operands streams(n);
  streams.reserve(n_operands);
  if (!streams.add(operands, n_operands)) return STA_INVALID;
  *operand = *index = -1;
  const int64_t chunks = chunks_of(n);
  std::mutex mutex;
  int64_t found = chunks * n_operands;  // position of the earliest chunk with a hit
  return parallel(run, n, 1, chunks * n_operands, [&](int64_t position, int, float* scratch) {
    const int64_t begin = position % chunks * kChunk;
    const int64_t hit = run.kernels->first_nonfinite(streams[static_cast<size_t>(position / chunks)], begin,
                                                     std::min(n, begin + kChunk), run.tile, scratch);
    if (hit < 0) return;
    const std::lock_guard<std::mutex> lock(mutex);
    if (position < found) {
      found = position;
      *operand = position / chunks;
      *index = hit;
    }
  });
}

int32_t sta_stream_sum(int64_t n, int32_t n_inputs, const sta_operand* inputs, const sta_operand* out,
                       const sta_options* options) {
  if (n < 0 || n_inputs < 1 || n_inputs > STA_MAX_TASKS || !inputs || !out) return STA_INVALID;
  Run run;
  if (const int32_t status = run.set(options)) return status;
  Operands streams(n);
  streams.reserve(n_inputs + 1);
  if (!streams.add(out, 1) || !streams.add(inputs, n_inputs)) return STA_INVALID;
  for (int64_t i = 0; i < streams.count(); ++i) {
    const Stream& stream = streams[static_cast<size_t>(i)];
    if (stream.layout || (stream.dtype != STA_F32 && stream.dtype != STA_BF16)) return STA_INVALID;
  }
  const bool streaming = streams_out(streams[0], n);
  return parallel(run, n, 4, chunks_of(n), [&](int64_t chunk, int, float* scratch) {
    const int64_t begin = chunk * kChunk;
    run.kernels->stream_sum(n_inputs, streams.data() + 1, streams[0], begin, std::min(n, begin + kChunk), run.tile,
                            scratch, streaming);
  });
}

int32_t sta_stream_read(int64_t n, int32_t n_inputs, const sta_operand* inputs, double* result,
                        const sta_options* options) {
  if (n < 0 || n_inputs < 1 || !inputs || !result) return STA_INVALID;
  Run run;
  if (const int32_t status = run.set(options)) return status;
  Operands streams(n);
  streams.reserve(n_inputs);
  if (!streams.add(inputs, n_inputs)) return STA_INVALID;
  std::mutex mutex;
  *result = 0;
  return parallel(run, n, 2, chunks_of(n), [&](int64_t chunk, int, float* scratch) {
    const int64_t begin = chunk * kChunk;
    const double sum =
        run.kernels->stream_read(n_inputs, streams.data(), begin, std::min(n, begin + kChunk), run.tile, scratch);
    const std::lock_guard<std::mutex> lock(mutex);
    *result += sum;
  });
}

}  // extern "C"
