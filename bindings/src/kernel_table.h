// What one translation unit per instruction set offers to the dispatcher.
//
// Nothing but plain structs crosses this line: code shared between units compiled for different instruction sets could
// be merged by the linker into the variant that the processor lacks.
#pragma once

#include <cstdint>

#include "sta_core.h"

namespace sta {

constexpr int64_t kChunk = 1 << 16;  // elements that a thread takes at a time; a multiple of STA_LEAF
static_assert(kChunk % STA_LEAF == 0, "leaf sums must not straddle two chunks");

// A strided layout with adjacent dimensions merged; strides in bytes.
struct Layout {
  int ndim;
  int64_t shape[STA_MAX_DIMS];
  int64_t strides[STA_MAX_DIMS];
};

// One operand, ready to be read tile by tile. layout is null when contiguous.
struct Stream {
  char* data;
  const Layout* layout;
  int32_t dtype;
  int32_t itemsize;
};

// Whether two operands are the same elements, as far as their records tell.
static inline bool same_elements(const Stream& a, const Stream& b) {
  return a.data == b.data && a.dtype == b.dtype && a.layout == b.layout;
}

// A formula's operands and parameters; there are as many as it needs.
struct FormulaCall {
  int kind;
  int n_models;
  const Stream* base;  // null without one
  const Stream* models;
  const Stream* importances;  // null without any
  const int64_t* variant;
  const float* shared;
  const float* per_model;  // [n_models][width]
  int64_t width;
  const int64_t* integers;
  int64_t offset;  // index of the first element in its tensor

  const float* of_model(int j) const { return per_model + j * width; }
};

// What a statistic reduces: a formula where there is one, else the importance of one task, which is stored values, or
// theta squared, or their product.
struct Source {
  Stream importance;
  Stream theta;
  int32_t measure;
  const FormulaCall* formula;
};

// Operands of one step of a formula, in whole vectors. Base and models are of one type; importances are float32.
struct FormulaTile {
  const char* base;  // zeros where there is none
  const char* model[STA_MAX_TASKS];
  const float* importance[STA_MAX_TASKS];
  int64_t n;      // elements, the last vector's perhaps fewer than whole
  int64_t index;  // of the first one in its tensor
  float* work;    // a tile for each model, pitch apart
  int64_t pitch;
  float* value;  // where the result goes
};

// The dtypes from which formulas read base and models in registers: STA_F32, STA_BF16 and STA_F16.
constexpr int kReadable = 3;
static_assert(STA_F32 == 0 && STA_BF16 == 1 && STA_F16 == 2, "their formulas are looked up by the dtype");

// One formula. A call must have at least so many parameters, and pass accepts, if there is one.
struct Formula {
  const char* name;
  bool delta;  // whether its value is a merged task vector, which a rule adds to the base
  int variant, shared, width, integers, integers_per_model;
  bool (*accepts)(const FormulaCall&);
  void (*value[kReadable])(const FormulaCall&, const FormulaTile&);  // by the dtype of base and models
};

// Most formulas that share operands whose values one pass reduces.
constexpr int kTogether = 16;

// Keys start <= key <= start + span, in bins of 2^shift.
struct Window {
  uint32_t start, span;
  int shift;
};

// Keys below a window, equal to either of two within it, and within it otherwise.
struct WindowCounts {
  int64_t below, common[2], others;
};

struct MergeCall {
  int n_tasks;
  Stream base;
  const Stream* finetuned;
  const Stream* importances;  // null for STA_AMP
  int32_t measure;
  const float* normaliser;
  int32_t k;
  int32_t ties;
  const float* weights;  // null when all are 1
  float lambda;
  Stream out;
  bool streaming;  // write past the caches
};

struct SumCall {
  int n_models;
  const Stream* base;  // null without one
  const Stream* models;
  const float* weights;
  float divisor;
  float lambda;
  Stream out;
  bool streaming;
};

struct ForgetCall {
  Stream target, base, finetuned;
  Source source;
  float threshold, weight, lambda;
  Stream out;
  bool streaming;
};

struct FinishCall {
  Stream total, param, out;
  int32_t measure;
};

struct EvaluateCall {
  FormulaCall formula;
  Stream out;
  bool streaming;
};

// Random gates; each element is kept where its draw is below its threshold, of 2^32.
struct GateCall {
  uint64_t threshold;  // of the least entry of a row, or of all
  uint64_t span;       // from there to that of the greatest
  bool scaled;         // 2^32 over the threshold in place of 1
  uint64_t seed;
  uint32_t tensor, task;
  int64_t offset;  // index of the first element in its tensor
  Stream out;
  bool streaming;
};

// How many values exceed one, and how many equal it in each leaf.
struct EqualCall {
  Source source;
  float value;
  uint32_t* equal;
};

// Elements [begin, begin + n) of a strided stream, to or from contiguous memory.
void gather(const Stream& stream, int64_t begin, int64_t n, char* packed);
void scatter(const Stream& stream, int64_t begin, int64_t n, const char* packed);

// All functions handle elements [begin, end) of the call's operands. tile: elements per step, a multiple of 64.
struct KernelTable {
  const char* name;
  const Formula* formulas;
  int n_formulas;
  void (*evaluate)(const EvaluateCall&, int64_t begin, int64_t end, int64_t tile, float* scratch);
  int64_t (*count_equal)(const EqualCall&, int64_t begin, int64_t end, int64_t tile, float* scratch);
  void (*rank_gate)(const GateCall&, const uint32_t* thresholds, int64_t begin, int64_t end, int64_t tile,
                    float* scratch);
  void (*merge)(const MergeCall&, int64_t begin, int64_t end, int64_t tile, float* scratch, int64_t* counts);
  void (*weighted_sum)(const SumCall&, int64_t begin, int64_t end, int64_t tile, float* scratch);
  void (*range)(int count, const Source* sources, int64_t begin, int64_t end, int64_t tile, float* scratch,
                float* minmax, double* const* leaves);
  int64_t (*histogram)(const Source&, int64_t begin, int64_t end, int64_t tile, float* scratch, const Window&,
                       int64_t bins, uint32_t* tables);
  WindowCounts (*collect)(const Source&, int64_t begin, int64_t end, int64_t tile, float* scratch, const Window&,
                          const uint32_t* common, uint32_t* keys);
  void (*values)(const Source&, int64_t begin, int64_t end, int64_t tile, float* scratch, float* out);
  void (*forget)(const ForgetCall&, int64_t begin, int64_t end, int64_t tile, float* scratch, int64_t* kept);
  void (*accumulate)(const Stream& total, const Stream& grad, int64_t begin, int64_t end, int64_t tile, float* scratch);
  void (*finish)(const FinishCall&, int64_t begin, int64_t end, int64_t tile, float* scratch, float* minmax,
                 double* leaves);
  int64_t (*first_nonfinite)(const Stream&, int64_t begin, int64_t end, int64_t tile, float* scratch);
  void (*stream_sum)(int n_inputs, const Stream* inputs, const Stream& out, int64_t begin, int64_t end, int64_t tile,
                     float* scratch, bool streaming);
  double (*stream_read)(int n_inputs, const Stream* inputs, int64_t begin, int64_t end, int64_t tile, float* scratch);
  void (*digest)(uint64_t* state, const char* data, int64_t units, bool ends);
};

constexpr int64_t kDigestUnit = 1024;  // bytes; blocks that are digested are a multiple of it

constexpr int kTables = 4;  // interleaved histograms, so that equal neighbours do not wait for each other's store

// Floats between the starts of two scratch tiles: not a multiple of 4 KiB, so that a store to one tile and a load from
// another never look like the same address to the processor.
static constexpr int64_t tile_pitch(int64_t tile) { return tile + 48; }

// Scratch tiles that a kernel over n operands may use: one per operand, its raw gather buffer (8 bytes per element at
// most), and six of its own.
static constexpr int64_t scratch_floats(int64_t n_operands, int64_t tile) {
  return (n_operands + 8) * tile_pitch(tile);
}

// The same of a source, in operands. A formula works in a tile for each of its models besides.
static inline int64_t operands_of(const Source& source) {
  if (!source.formula) return 2;
  return 1 + (source.formula->importances ? 3 : 2) * static_cast<int64_t>(source.formula->n_models);
}

#if defined(__x86_64__)
extern const KernelTable kBaselineKernels, kAvx2Kernels, kAvx512Kernels;
#elif defined(__aarch64__)
extern const KernelTable kNeonKernels;
#else
extern const KernelTable kBaselineKernels;
#endif

}  // namespace sta
