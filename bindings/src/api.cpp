// The C ABI: checks arguments, cuts the work into chunks, runs the chosen kernels.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "calls.h"

namespace {

using namespace sta;

// Folds one range into another: -0 below +0, NaN sticking.
void fold_range(const float* seen, float* folded) {
  if (seen[0] != seen[0] || folded[0] != folded[0]) {
    folded[0] = folded[1] = __builtin_nanf("");
    return;
  }
  if (seen[0] < folded[0] || (seen[0] == folded[0] && std::signbit(seen[0]))) folded[0] = seen[0];
  if (seen[1] > folded[1] || (seen[1] == folded[1] && !std::signbit(seen[1]))) folded[1] = seen[1];
}

// Whether two formulas read some of the same.
bool share_operands(const FormulaCall& one, const FormulaCall& other) {
  const auto reads = [](const FormulaCall& call, const Stream& stream) {
    const auto is_it = [&](const Stream& own) { return same_elements(own, stream); };
    return (call.base && is_it(*call.base)) || std::any_of(call.models, call.models + call.n_models, is_it) ||
           (call.importances && std::any_of(call.importances, call.importances + call.n_models, is_it));
  };
  for (int j = 0; j < other.n_models; ++j)
    if (reads(one, other.models[j]) || (other.importances && reads(one, other.importances[j]))) return true;
  return other.base && reads(one, *other.base);
}

// Sources that one pass over their elements reduces: formulas of which each shares operands with the first.
struct Together {
  int first, count;
  int64_t n, first_chunk;

  // Takes in the last one, if it belongs here.
  bool join(const std::vector<Source>& sources, int64_t size) {
    const FormulaCall *one = sources[static_cast<size_t>(first)].formula, *other = sources.back().formula;
    if (!one || !other || size != n || count == kTogether || !share_operands(*one, *other)) return false;
    ++count;
    return true;
  }
};

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

int32_t sta_merge(int64_t n, int32_t n_tasks, const sta_operand* base, const sta_operand* finetuned,
                  const sta_operand* importances, int32_t measure, const float* normaliser, int32_t k, int32_t ties,
                  const float* weights, float lambda, const sta_operand* out, int64_t* counts,
                  const sta_options* options) {
  return guarded([&]() -> int32_t {
    if (n < 0 || n_tasks < 1 || n_tasks > STA_MAX_TASKS || k < 0 || k > n_tasks || ties < STA_DROP ||
        ties > STA_FIRST || !base || !finetuned || !normaliser || !out || !has_sources(measure, importances, finetuned))
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
    call.streaming = run.streams(call.out, n);
    std::mutex mutex;
    return parallel(run, n, streams.count() + n_tasks, chunks_of(n), [&](int64_t chunk, int, float* scratch) {
      int64_t local[STA_MAX_TASKS + 1] = {};
      const int64_t begin = chunk * kChunk;
      run.kernels->merge(call, begin, std::min(n, begin + kChunk), run.tile, scratch, counts ? local : nullptr);
      if (!counts) return;
      const std::lock_guard<std::mutex> lock(mutex);
      for (int i = 0; i <= n_tasks; ++i) counts[i] += local[i];
    });
  });
}

int32_t sta_weighted_sum(int64_t n, int32_t n_models, const sta_operand* base, const sta_operand* models,
                         const float* weights, float divisor, float lambda, const sta_operand* out,
                         const sta_options* options) {
  return guarded([&]() -> int32_t {
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
    call.streaming = run.streams(call.out, n);
    return parallel(run, n, streams.count(), chunks_of(n), [&](int64_t chunk, int, float* scratch) {
      const int64_t begin = chunk * kChunk;
      run.kernels->weighted_sum(call, begin, std::min(n, begin + kChunk), run.tile, scratch);
    });
  });
}

int32_t sta_ranges(int32_t n_tensors, const int64_t* sizes, const sta_operand* importances, const sta_operand* thetas,
                   int32_t measure, const sta_formula* formulas, float* minmax, double* const* leaves,
                   const sta_options* options) {
  return guarded([&]() -> int32_t {
    if (n_tensors < 0 || (n_tensors > 0 && (!sizes || !(minmax || leaves)))) return STA_INVALID;
    Run run;
    if (const int32_t status = run.set(options)) return status;
    // Chunks of all tensors form one list, so that many small tensors share the threads as one large tensor does.
    std::vector<std::unique_ptr<OneSource>> kept;
    std::vector<Source> sources;
    std::vector<Together> items;
    int64_t chunks = 0, largest = 0, operands = 0;
    for (int32_t i = 0; i < n_tensors; ++i) {
      kept.push_back(std::make_unique<OneSource>(sizes[i], importances ? importances + i : nullptr,
                                                 thetas ? thetas + i : nullptr, measure,
                                                 formulas ? formulas + i : nullptr, *run.kernels));
      if (!kept.back()->valid) return STA_INVALID;
      sources.push_back(kept.back()->source);
      if (items.empty() || !items.back().join(sources, sizes[i])) {
        items.push_back({i, 1, sizes[i], chunks});
        chunks += chunks_of(sizes[i]);
      }
      operands = std::max(operands, operands_of(sources.back()));
      largest = std::max(largest, sizes[i]);
    }
    std::mutex mutex;
    return parallel(run, largest, operands, chunks, [&](int64_t chunk, int, float* scratch) {
      const auto after = std::upper_bound(items.begin(), items.end(), chunk,
                                          [](int64_t c, const Together& item) { return c < item.first_chunk; });
      const Together& item = *(after - 1);
      const int64_t begin = (chunk - item.first_chunk) * kChunk;
      float seen[2 * kTogether];
      double* sums[kTogether];
      for (int i = 0; i < item.count; ++i) {
        seen[2 * i] = __builtin_inff();
        seen[2 * i + 1] = -__builtin_inff();
        sums[i] = leaves ? leaves[item.first + i] + begin / STA_LEAF : nullptr;
      }
      run.kernels->range(item.count, sources.data() + item.first, begin, std::min(item.n, begin + kChunk), run.tile,
                         scratch, minmax ? seen : nullptr, leaves ? sums : nullptr);
      if (!minmax) return;
      const std::lock_guard<std::mutex> lock(mutex);
      for (int i = 0; i < item.count; ++i) fold_range(seen + 2 * i, minmax + 2 * (item.first + i));
    });
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

int32_t sta_forget(int64_t n, const sta_operand* target, const sta_operand* base, const sta_operand* finetuned,
                   const sta_operand* importance, int32_t measure, float threshold, float weight, float lambda,
                   const sta_operand* out, int64_t* counts, const sta_options* options) {
  return guarded([&]() -> int32_t {
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
    call.streaming = run.streams(call.out, n);
    std::atomic<int64_t> total{0};
    const int32_t status = parallel(run, n, streams.count() + 1, chunks_of(n), [&](int64_t chunk, int, float* scratch) {
      int64_t kept = 0;
      const int64_t begin = chunk * kChunk;
      run.kernels->forget(call, begin, std::min(n, begin + kChunk), run.tile, scratch, &kept);
      total += kept;
    });
    if (counts) *counts += total;
    return status;
  });
}

int32_t sta_taylor_accumulate(int64_t n, const sta_operand* total, const sta_operand* grad,
                              const sta_options* options) {
  return guarded([&]() -> int32_t {
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
  });
}

int32_t sta_taylor_finish(int64_t n, const sta_operand* total, const sta_operand* param, int32_t measure,
                          const sta_operand* out, float* minmax, double* leaves, const sta_options* options) {
  return guarded([&]() -> int32_t {
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
  });
}

int32_t sta_first_nonfinite(int64_t n, int32_t n_operands, const sta_operand* operands, int64_t* operand,
                            int64_t* index, const sta_options* options) {
  return guarded([&]() -> int32_t {
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
  });
}

int32_t sta_stream_sum(int64_t n, int32_t n_inputs, const sta_operand* inputs, const sta_operand* out,
                       const sta_options* options) {
  return guarded([&]() -> int32_t {
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
    const bool streaming = run.streams(streams[0], n);
    return parallel(run, n, 4, chunks_of(n), [&](int64_t chunk, int, float* scratch) {
      const int64_t begin = chunk * kChunk;
      run.kernels->stream_sum(n_inputs, streams.data() + 1, streams[0], begin, std::min(n, begin + kChunk), run.tile,
                              scratch, streaming);
    });
  });
}

int32_t sta_stream_read(int64_t n, int32_t n_inputs, const sta_operand* inputs, double* result,
                        const sta_options* options) {
  return guarded([&]() -> int32_t {
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
  });
}

}  // extern "C"
