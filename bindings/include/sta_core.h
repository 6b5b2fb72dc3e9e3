/* sta_core: the C ABI of the native kernels. It knows neither torch nor Python.
 *
 * Every function returns 0, or a negative sta_status. But for the rows of sta_rank_gate, and 8 MiB of keys at most of
 * an order statistic, no function allocates anything that grows with the number of elements; none keeps a pointer after
 * it returns, or calls back. All functions are thread-safe; work is shared among the threads of one process-wide pool,
 * which is rebuilt in a forked child. Rounding mode and flush-to-zero are set to the IEEE defaults while a kernel runs
 * and restored afterwards, in every thread.
 */
#ifndef STA_CORE_H
#define STA_CORE_H

#include <stdint.h>

#if defined(_WIN32)
#define STA_API __declspec(dllexport)
#else
#define STA_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define STA_ABI_VERSION 7
#define STA_MAX_TASKS 256
#define STA_MAX_DIMS 64
#define STA_LEAF 4096 /* elements per leaf of a tier-B sum */

enum sta_status {
  STA_OK = 0,
  STA_INVALID = -1, /* an argument outside its range */
  STA_NO_MEMORY = -2,
  STA_NO_SUCH_ISA = -3, /* an instruction set that this processor or build lacks */
};

enum sta_dtype { STA_F32 = 0, STA_BF16 = 1, STA_F16 = 2, STA_F64 = 3 };
enum sta_measure { STA_LP = 0, STA_AMP = 1, STA_LP_AMP = 2 };
enum sta_ties { STA_DROP = 0, STA_ALL = 1, STA_FIRST = 2 };
enum sta_isa { STA_ISA_BEST = -1, STA_ISA_BASELINE = 0, STA_ISA_AVX2 = 1, STA_ISA_AVX512 = 2, STA_ISA_NEON = 3 };

/* An operand: where its elements are. layout: 0 when contiguous, else the address of
 * {ndim, shape[ndim], strides in bytes [ndim]}, all int64. Any alignment. */
typedef struct {
  int64_t address;
  int64_t dtype;
  int64_t layout;
} sta_operand;

/* A formula over the operands at one position, and its parameters; what they mean is the formula's own. Addresses:
 * operands: sta_operand [has_base + n_models + n_importances], base, models, importances; variant, integers: int64;
 * shared: float; per_model: float [n_models][width]. n_importances: 0 or n_models. offset: of the first element in its
 * tensor. */
typedef struct {
  int64_t kind; /* from sta_formula_kind */
  int64_t n_models, has_base, n_importances, operands;
  int64_t variant, n_variant;
  int64_t shared, n_shared;
  int64_t per_model, width;
  int64_t integers, n_integers;
  int64_t offset;
} sta_formula;

/* How to run; NULL means all defaults. tile: elements that one kernel step handles; streaming_bytes: outputs of at
 * least that size are written past the caches. 0: chosen here. */
typedef struct {
  int64_t threads;
  int64_t isa;
  int64_t tile;
  int64_t streaming_bytes;
} sta_options;

STA_API int32_t sta_abi_version(void);
STA_API const char* sta_build_info(void);
STA_API int32_t sta_isa_available(int32_t isa);
STA_API int32_t sta_formula_kind(const char* name); /* negative where there is none of that name */

/* Eq. 13-17. importances: NULL for STA_AMP. normaliser: [n_tasks][2] (shift, divisor). k in 0..n_tasks.
 * weights: NULL means 1. counts: NULL, or [n_tasks + 1], added to. out may be base or one of the models. */
STA_API int32_t sta_merge(int64_t n, int32_t n_tasks, const sta_operand* base, const sta_operand* finetuned,
                          const sta_operand* importances, int32_t measure, const float* normaliser, int32_t k,
                          int32_t ties, const float* weights, float lambda, const sta_operand* out, int64_t* counts,
                          const sta_options* options);

/* [base +] lambda * ((sum of w_i (model_i [- base])) / divisor). base: NULL for a plain weighted sum. */
STA_API int32_t sta_weighted_sum(int64_t n, int32_t n_models, const sta_operand* base, const sta_operand* models,
                                 const float* weights, float divisor, float lambda, const sta_operand* out,
                                 const sta_options* options);

/* The formula's value, rounded to out; of a merged task vector: base + value, and the base's own value, converted,
 * where that is 0. out may be one of the operands. A formula with too few parameters, or outside their range, is
 * invalid. */
STA_API int32_t sta_evaluate(int64_t n, const sta_formula* formula, const sta_operand* out, const sta_options* options);

/* The reductions below take an importance (importance / theta: as the measure needs, else NULL), or, where formula is
 * not NULL, that field. */

/* Range and leaf sums of many tensors in one call: [n_tensors] operands or formulas. Formulas in a row that read some
 * of the same are taken in together. One of these may be NULL: minmax: [n_tensors][2], folded into; leaves:
 * [n_tensors], where the leaf sums of each tensor go. */
STA_API int32_t sta_ranges(int32_t n_tensors, const int64_t* sizes, const sta_operand* importances,
                           const sta_operand* thetas, int32_t measure, const sta_formula* formulas, float* minmax,
                           double* const* leaves, const sta_options* options);

/* Tier-B sum: adjacent pairs, level by level; an odd last one is carried up. Destroys its input. */
STA_API double sta_fold(double* leaves, int64_t n);

/* Adds to counts[2^digit_bits] the next digit of every 32-bit key that starts with prefix. */
STA_API int32_t sta_histogram(int64_t n, const sta_operand* importance, const sta_operand* theta, int32_t measure,
                              const sta_formula* formula, uint32_t prefix, int32_t prefix_bits, int32_t digit_bits,
                              uint64_t* counts, const sta_options* options);

/* Keys that lie within a window, set aside to be selected from: start <= key <= start + span, in the order of the
 * floats (sign bit set, negative ones inverted, every NaN greatest). Two keys, common, are only counted; 0 is none's.
 * keys: uint32 [capacity], the others. below, commons, count and overflow are added to: keys below the window, those
 * equal to either common one, keys in keys, keys for which there was no room. */
typedef struct {
  uint32_t start, span, common[2];
  int64_t below, commons[2], count, overflow;
  int64_t capacity, keys;
} sta_collector;

STA_API int32_t sta_collect(int64_t n, const sta_operand* importance, const sta_operand* theta, int32_t measure,
                            const sta_formula* formula, sta_collector* collector, const sta_options* options);

/* Exact k-th smallest, 1-based, of the float32 values; exact != 0: of a float64 operand without narrowing. */
STA_API int32_t sta_order_statistic(int64_t n, const sta_operand* importance, const sta_operand* theta, int32_t measure,
                                    const sta_formula* formula, int64_t k, int32_t exact, double* result,
                                    const sta_options* options);

/* greater: how many values exceed value. equal: [number of leaves], set to how many equal it in each. */
STA_API int32_t sta_count_equal(int64_t n, const sta_operand* importance, const sta_operand* theta, int32_t measure,
                                const sta_formula* formula, float value, uint32_t* equal, int64_t* greater,
                                const sta_options* options);

/* For each entry of model - base 0, or, where its Philox draw is below its threshold, 1 or, scaled, 2^32 over that.
 * Within a row of row > 1 entries, thresholds rise from low to high with the rank of an entry's magnitude; of equal
 * ones, the first is the greatest. row divides n; low <= high < 2^32, or both 2^32. offset: of the first element in its
 * tensor. out is none of the operands. A row takes 16 bytes per entry and thread. */
STA_API int32_t sta_rank_gate(int64_t n, int64_t row, const sta_operand* base, const sta_operand* model, uint64_t low,
                              uint64_t high, int32_t scaled, uint64_t seed, uint32_t tensor, uint32_t task,
                              int64_t offset, const sta_operand* out, const sta_options* options);

/* Elements [begin, end), on one thread. */
STA_API int32_t sta_values(int64_t n, const sta_operand* importance, const sta_operand* theta, int32_t measure,
                           const sta_formula* formula, int64_t begin, int64_t end, float* values,
                           const sta_options* options);

/* Eq. 18-20 with the threshold known. counts: NULL, or [1], added to. */
STA_API int32_t sta_forget(int64_t n, const sta_operand* target, const sta_operand* base, const sta_operand* finetuned,
                           const sta_operand* importance, int32_t measure, float threshold, float weight, float lambda,
                           const sta_operand* out, int64_t* counts, const sta_options* options);

/* total += |grad|, in place. */
STA_API int32_t sta_taylor_accumulate(int64_t n, const sta_operand* total, const sta_operand* grad,
                                      const sta_options* options);

/* Eq. 12, 21, 22 from the accumulated |g|; range and leaf sums of what is written. out may be total. */
STA_API int32_t sta_taylor_finish(int64_t n, const sta_operand* total, const sta_operand* param, int32_t measure,
                                  const sta_operand* out, float* minmax, double* leaves, const sta_options* options);

/* First NaN or infinity among operands of n elements each: *operand = -1 when there is none. */
STA_API int32_t sta_first_nonfinite(int64_t n, int32_t n_operands, const sta_operand* operands, int64_t* operand,
                                    int64_t* index, const sta_options* options);

/* The roofline of the access pattern: reads the inputs, writes one output, only adds. Contiguous float32 and bfloat16.
 */
STA_API int32_t sta_stream_sum(int64_t n, int32_t n_inputs, const sta_operand* inputs, const sta_operand* out,
                               const sta_options* options);

/* Read-only counterpart: the sum of all inputs' elements, for measuring only. */
STA_API int32_t sta_stream_read(int64_t n, int32_t n_inputs, const sta_operand* inputs, double* result,
                                const sta_options* options);

/* A pass over a range of tensors in files, slice by slice: each slice is read, its steps are taken, and its result is
 * written, while it is in the caches. */

/* Where the elements of one tensor are: from byte offset of an open file on, unit bytes each. address: room for a slice
 * of them, which the steps' operands point at. digest: NULL, or the state of the file's digest, STA_DIGEST_WORDS words,
 * zeros at first, of no other channel of the pass; digests: where the XXH3-128 of each block that ends within the range
 * goes, 16 bytes each, if the block also begins there, or in the range before it, which the state has seen to end where
 * this one begins; capacity: for how many there is room. After a pass, the state's first words are the position of the
 * byte that would follow, the number of the first such block, counted from the start of the file, and how many there
 * were. */
#define STA_DIGEST_WORDS 160
typedef struct {
  int64_t fd, offset, unit;
  int64_t address;
  int64_t digest, digests, capacity;
} sta_channel;

/* One of the functions above, by its arguments in order, each in a word: addresses, integers, and floats as the bits of
 * a double; n is the slice's, whatever stands there. What is added to or folded into goes on from slice to slice; leaf
 * sums, counts per leaf and a formula's offset advance.
 * STA_STEP_NONFINITE: n, n_operands, operands: ends the pass at the first NaN or infinity.
 * STA_STEP_DIFFERS: two addresses, bytes per element, and that of an int64, set to 1 where the slices differ.
 * STA_STEP_COUNT_EQUAL adds to greater.
 * STA_STEP_COLLECT has two words more: a number of elements, 0 for none, and the address of marks, zeros at first, of 4
 * words each, one for every so many elements but the last: before the first slice that begins there, the element that
 * it begins with, the collector's commons and its count.
 * STA_STEP_FIND_CUT: n, a field as in a reduction, a value, elements [first, last) of the range, first a multiple of
 * STA_LEAF, the address of a number, and that of a cut: in the slice in which that many of those elements have been
 * equal to the value, the cut becomes the index in the tensor after the last of them. */
enum sta_step_op {
  STA_STEP_MERGE = 0,
  STA_STEP_WEIGHTED_SUM = 1,
  STA_STEP_EVALUATE = 2,
  STA_STEP_FORGET = 3,
  STA_STEP_RANGES = 4,
  STA_STEP_HISTOGRAM = 5,
  STA_STEP_COUNT_EQUAL = 6,
  STA_STEP_NONFINITE = 7,
  STA_STEP_DIFFERS = 8,
  STA_STEP_COLLECT = 9,
  STA_STEP_FIND_CUT = 10,
};
typedef struct {
  int64_t op;
  int64_t words[15];
} sta_step;

/* slice: elements. stride: from the start of one slice to that of the next, a multiple of STA_LEAF; more than a slice
 * takes a sample. out: NULL where nothing is written. block: bytes per digest, a multiple of 1024. */
typedef struct {
  int64_t n, slice, stride;
  int64_t n_reads, n_steps;
  const sta_channel* reads;
  const sta_channel* out;
  const sta_step* steps;
  int64_t block;
  int64_t isa, tile;
} sta_flow_job;

enum sta_flow_problem {
  STA_FLOW_FAILED = 1,    /* channel, position: byte in its file, detail: errno */
  STA_FLOW_ENDED = 2,     /* channel, position, detail: bytes that are missing */
  STA_FLOW_NONFINITE = 3, /* step, channel: its operand, position: element of the range, detail: of the slice */
};
enum sta_stage { STA_STAGE_READ = 0, STA_STAGE_DIGEST = 1, STA_STAGE_COMPUTE = 2, STA_STAGE_WRITE = 3 };

/* problem: 0 where there was none. nanoseconds: added to, by stage. */
typedef struct {
  int64_t problem, channel, step, position, detail;
  int64_t nanoseconds[4];
} sta_flow_report;

STA_API int32_t sta_can_flow(void); /* 0 where the system has no positioned reads */
STA_API int32_t sta_flow(const sta_flow_job* job, sta_flow_report* report);

#ifdef __cplusplus
}
#endif
#endif
