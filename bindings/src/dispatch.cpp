#include "dispatch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace sta {
namespace {

constexpr int64_t kMostElements = INT64_MAX / 16;  // whose bytes can be counted, whatever their type
constexpr int64_t kDefaultTile = 1024;
constexpr int64_t kLargestTile = kChunk;
constexpr int64_t kStreamingBytes = int64_t{32} << 20;  // outputs above this are not read again while in the caches

const int32_t kItemsize[] = {4, 2, 2, 8};

// Merges adjacent dimensions; false where a size is negative or the sizes do not multiply to n, or where positions do
// not fit 64 bits.
bool coalesce(const int64_t* record, int64_t n, Layout* layout) {
  const int64_t ndim = record[0];
  if (ndim < 0 || ndim > STA_MAX_DIMS) return false;
  const int64_t *shape = record + 1, *strides = record + 1 + ndim;
  int64_t elements = 1;
  layout->ndim = 0;
  for (int64_t d = 0; d < ndim; ++d) {
    int64_t span;
    if (shape[d] < 0 || __builtin_mul_overflow(elements, shape[d], &elements) ||
        __builtin_mul_overflow(shape[d], strides[d], &span))
      return false;
    if (shape[d] == 1) continue;
    const int last = layout->ndim - 1;
    if (last >= 0 && elements && layout->strides[last] == span) {
      layout->shape[last] *= shape[d];
      layout->strides[last] = strides[d];
    } else {
      layout->shape[layout->ndim] = shape[d];
      layout->strides[layout->ndim++] = strides[d];
    }
  }
  return elements == n;
}

#if defined(__x86_64__)
// Clang before 18 does not know this feature by its name.
bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }

bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

}  // namespace

const KernelTable* kernels_for(int64_t isa) {
  if (isa == STA_ISA_BEST) {
    for (int64_t candidate : {STA_ISA_AVX512, STA_ISA_AVX2, STA_ISA_NEON, STA_ISA_BASELINE})
      if (const KernelTable* table = kernels_for(candidate)) return table;
    return nullptr;
  }
#if defined(__x86_64__)
  if (isa == STA_ISA_AVX512) return runs_avx512() ? &kAvx512Kernels : nullptr;
  if (isa == STA_ISA_AVX2) return runs_avx2() ? &kAvx2Kernels : nullptr;
  if (isa == STA_ISA_BASELINE) return &kBaselineKernels;
#elif defined(__aarch64__)
  if (isa == STA_ISA_NEON) return &kNeonKernels;
#else
  if (isa == STA_ISA_BASELINE) return &kBaselineKernels;
#endif
  return nullptr;
}

bool Operands::add(const sta_operand* operands, int64_t count) {
  if (n_ < 0 || n_ > kMostElements) return false;
  for (int64_t i = 0; i < count; ++i) {
    const sta_operand& operand = operands[i];
    if (operand.dtype < STA_F32 || operand.dtype > STA_F64) return false;
    if (operand.address == 0 && n_ > 0) return false;
    Stream stream{reinterpret_cast<char*>(operand.address), nullptr, static_cast<int32_t>(operand.dtype),
                  kItemsize[operand.dtype]};
    if (operand.layout) {
      auto layout = std::make_unique<Layout>();
      if (!coalesce(reinterpret_cast<const int64_t*>(operand.layout), n_, layout.get())) return false;
      const bool contiguous =
          layout->ndim == 0 || (layout->ndim == 1 && layout->strides[0] == stream.itemsize) || n_ == 0;
      if (!contiguous) {
        stream.layout = layout.get();
        layouts_.push_back(std::move(layout));
      }
    }
    streams_.push_back(stream);
  }
  return true;
}

int32_t Run::set(const sta_options* options) {
  static const KernelTable* const best = kernels_for(STA_ISA_BEST);
  threads = 1;
  tile = kDefaultTile;
  streaming_bytes = kStreamingBytes;
  kernels = best;
  if (!options) return STA_OK;
  if (options->threads < 1 || options->tile < 0 || options->streaming_bytes < 0) return STA_INVALID;
  threads = options->threads > 256 ? 256 : static_cast<int>(options->threads);
  if (options->tile) tile = options->tile < kLargestTile ? (options->tile + 63) / 64 * 64 : kLargestTile;
  if (options->streaming_bytes) streaming_bytes = options->streaming_bytes;
  if (options->isa != STA_ISA_BEST) kernels = kernels_for(options->isa);
  return kernels ? STA_OK : STA_NO_SUCH_ISA;
}

}  // namespace sta
