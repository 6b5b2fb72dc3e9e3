// All kernel families, compiled once per instruction set. The including unit defines V first and STA_TABLE,
// STA_ISA_LABEL.

#include "../kernel_table.h"

namespace sta {
namespace {

// For loops over the tasks, whose count is a constant: the values stay in registers only when the loop is gone.
#define STA_UNROLL _Pragma("GCC unroll 8")
#define STA_INLINE_MEMBER inline __attribute__((always_inline))
// After a lambda's parameters: of long ones, the compiler would make functions that are called for each vector.
#define STA_INLINE_STEP __attribute__((always_inline))

#include "select_lanes.inl"
#include "tile.inl"
// Formulas, and sources made of them.
#include "../formulas/all.inl"
#include "source.inl"
// One family a file, in the order of DESIGN's layers: statistics serve the families after them.
#include "digest.inl"
#include "evaluate.inl"
#include "order_statistic.inl"
#include "rank_gate.inl"
#include "sta_forget.inl"
#include "sta_merge.inl"
#include "statistics.inl"
#include "stream.inl"
#include "taylor.inl"
#include "weighted_sum.inl"

}  // namespace

const KernelTable STA_TABLE = {STA_ISA_LABEL,   kFormulas,  kFormulaCount, evaluate,    count_equal,
                               rank_gate,       merge,      weighted_sum,  range,       histogram,
                               collect,         values,     forget,        accumulate,  finish,
                               first_nonfinite, stream_sum, stream_read,   digest_units};

}  // namespace sta
