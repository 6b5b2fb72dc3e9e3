#include "steps.h"

#include <algorithm>

namespace sta {

namespace {

float number(int64_t word) {
  double value;
  std::memcpy(&value, &word, sizeof value);
  return static_cast<float>(value);
}

// What a reduction takes in: importance, theta, measure, formula.
struct Field {
  const sta_operand *importance, *theta;
  int32_t measure;
  sta_formula own{};
  const sta_formula* formula;

  Field(const int64_t* w, int64_t at)
      : importance(pointer<const sta_operand>(w[0])),
        theta(pointer<const sta_operand>(w[1])),
        measure(static_cast<int32_t>(w[2])),
        formula(pointer<const sta_formula>(w[3])) {
    if (!formula) return;
    own = *formula;
    own.offset += at;
    formula = &own;
  }
};

}  // namespace

Steps::Steps(const sta_flow_job& job, sta_flow_report* report)
    : job_(job), report_(report), options_{1, job.isa, job.tile, 0} {}

int32_t Steps::run(int64_t at, int64_t n) {
  for (int32_t i = 0; i < job_.n_steps; ++i) {
    const int32_t status = one(job_.steps[i], i, at, n);
    if (status != STA_OK || report_->problem) return status;
  }
  return STA_OK;
}

int32_t Steps::one(const sta_step& step, int32_t index, int64_t at, int64_t n) {
  const int64_t* w = step.words;
  switch (step.op) {
    case STA_STEP_MERGE:
      return sta_merge(n, static_cast<int32_t>(w[1]), pointer<const sta_operand>(w[2]),
                       pointer<const sta_operand>(w[3]), pointer<const sta_operand>(w[4]), static_cast<int32_t>(w[5]),
                       pointer<const float>(w[6]), static_cast<int32_t>(w[7]), static_cast<int32_t>(w[8]),
                       pointer<const float>(w[9]), number(w[10]), pointer<const sta_operand>(w[11]),
                       pointer<int64_t>(w[12]), &options_);
    case STA_STEP_WEIGHTED_SUM:
      return sta_weighted_sum(n, static_cast<int32_t>(w[1]), pointer<const sta_operand>(w[2]),
                              pointer<const sta_operand>(w[3]), pointer<const float>(w[4]), number(w[5]), number(w[6]),
                              pointer<const sta_operand>(w[7]), &options_);
    case STA_STEP_EVALUATE: {
      sta_formula formula = *pointer<const sta_formula>(w[1]);
      formula.offset += at;
      return sta_evaluate(n, &formula, pointer<const sta_operand>(w[2]), &options_);
    }
    case STA_STEP_FORGET:
      return sta_forget(n, pointer<const sta_operand>(w[1]), pointer<const sta_operand>(w[2]),
                        pointer<const sta_operand>(w[3]), pointer<const sta_operand>(w[4]), static_cast<int32_t>(w[5]),
                        number(w[6]), number(w[7]), number(w[8]), pointer<const sta_operand>(w[9]),
                        pointer<int64_t>(w[10]), &options_);
    case STA_STEP_RANGES: return ranges(w, at, n);
    case STA_STEP_HISTOGRAM: {
      const Field field(w + 1, at);
      return sta_histogram(n, field.importance, field.theta, field.measure, field.formula, static_cast<uint32_t>(w[5]),
                           static_cast<int32_t>(w[6]), static_cast<int32_t>(w[7]), pointer<uint64_t>(w[8]), &options_);
    }
    case STA_STEP_COUNT_EQUAL: {
      const Field field(w + 1, at);
      int64_t greater = 0;
      const int32_t status =
          sta_count_equal(n, field.importance, field.theta, field.measure, field.formula, number(w[5]),
                          pointer<uint32_t>(w[6]) + at / STA_LEAF, &greater, &options_);
      *pointer<int64_t>(w[7]) += greater;
      return status;
    }
    case STA_STEP_COLLECT: {
      const Field field(w + 1, at);
      auto* collector = pointer<sta_collector>(w[5]);
      mark(*collector, w[6], pointer<uint64_t>(w[7]), at);
      return sta_collect(n, field.importance, field.theta, field.measure, field.formula, collector, &options_);
    }
    case STA_STEP_FIND_CUT: return find_cut(w, at, n);
    case STA_STEP_NONFINITE: {
      int64_t operand, where;
      const int32_t status = sta_first_nonfinite(n, static_cast<int32_t>(w[1]), pointer<const sta_operand>(w[2]),
                                                 &operand, &where, &options_);
      if (status == STA_OK && operand >= 0) {
        report_->problem = STA_FLOW_NONFINITE;
        report_->step = index;
        report_->channel = operand;
        report_->position = at + where;
        report_->detail = where;
      }
      return status;
    }
    case STA_STEP_DIFFERS: {
      int64_t* differs = pointer<int64_t>(w[3]);
      if (!*differs)
        *differs =
            std::memcmp(pointer<const char>(w[0]), pointer<const char>(w[1]), static_cast<size_t>(n * w[2])) != 0;
      return STA_OK;
    }
    default: return STA_INVALID;
  }
}

// Notes what a collector holds before the slice at an element, if that is the first of a part.
void Steps::mark(const sta_collector& collector, int64_t part, uint64_t* marks, int64_t at) const {
  if (!part || at == 0 || at / part == (at - job_.stride) / part) return;
  uint64_t* here = marks + (at / part - 1) * 4;
  here[0] = static_cast<uint64_t>(at);
  here[1] = static_cast<uint64_t>(collector.commons[0]);
  here[2] = static_cast<uint64_t>(collector.commons[1]);
  here[3] = static_cast<uint64_t>(collector.count);
}

// Ranges and leaf sums of several tensors at once.
int32_t Steps::ranges(const int64_t* w, int64_t at, int64_t n) {
  const int32_t count = static_cast<int32_t>(w[0]);
  if (count < 1) return STA_INVALID;
  const std::vector<int64_t> sizes(static_cast<size_t>(count), n);
  std::vector<sta_formula> formulas;
  if (const auto* given = pointer<const sta_formula>(w[5])) formulas.assign(given, given + count);
  for (sta_formula& formula : formulas) formula.offset += at;
  std::vector<double*> leaves;
  if (const auto* given = pointer<double* const>(w[7])) leaves.assign(given, given + count);
  for (double*& first : leaves) first += at / STA_LEAF;
  return sta_ranges(count, sizes.data(), pointer<const sta_operand>(w[2]), pointer<const sta_operand>(w[3]),
                    static_cast<int32_t>(w[4]), formulas.empty() ? nullptr : formulas.data(), pointer<float>(w[6]),
                    leaves.empty() ? nullptr : leaves.data(), &options_);
}

// The ties with a value end at the given one of those among elements [first, last) of the range: where the slice holds
// it, the cut is the index after it in the tensor, and none is sought any longer.
int32_t Steps::find_cut(const int64_t* w, int64_t at, int64_t n) {
  const Field field(w + 1, at);
  const float value = number(w[5]);
  const int64_t first = w[6], last = w[7];
  int64_t& left = *pointer<int64_t>(w[8]);
  if (left <= 0 || at + n <= first || at >= last) return STA_OK;
  std::vector<uint32_t> equal(static_cast<size_t>((n + STA_LEAF - 1) / STA_LEAF));
  int64_t greater = 0;
  if (const int32_t status = sta_count_equal(n, field.importance, field.theta, field.measure, field.formula, value,
                                             equal.data(), &greater, &options_))
    return status;
  for (size_t leaf = 0; leaf < equal.size(); ++leaf) {
    const int64_t begin = static_cast<int64_t>(leaf) * STA_LEAF, end = std::min(begin + STA_LEAF, n);
    if (at + begin < first) continue;
    if (left > equal[leaf]) {
      left -= equal[leaf];
      continue;
    }
    float values[STA_LEAF];
    if (const int32_t status =
            sta_values(n, field.importance, field.theta, field.measure, field.formula, begin, end, values, &options_))
      return status;
    for (int64_t i = 0; left && i < end - begin; ++i)
      if (values[i] == value && --left == 0) *pointer<int64_t>(w[9]) = field.own.offset + begin + i + 1;
    return STA_OK;
  }
  return STA_OK;
}

}  // namespace sta
