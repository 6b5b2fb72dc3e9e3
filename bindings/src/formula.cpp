// Formulas at the ABI: what they are given is checked against the table of those that there are.
#include <atomic>
#include <cstring>

#include "calls.h"

namespace sta {

OneFormula::OneFormula(int64_t n, const sta_formula* formula, const KernelTable& kernels) : streams(n), valid(false) {
  const sta_formula& given = *formula;
  if (n < 0 || given.kind < 0 || given.kind >= kernels.n_formulas || given.n_models < 1 ||
      given.n_models > STA_MAX_TASKS || (given.n_importances && given.n_importances != given.n_models))
    return;
  const Formula& entry = kernels.formulas[given.kind];
  if (given.n_variant < entry.variant || given.n_shared < entry.shared || given.width < entry.width ||
      given.n_integers < entry.integers + entry.integers_per_model * given.n_models)
    return;
  if ((entry.variant && !given.variant) || (entry.shared && !given.shared) || (entry.width && !given.per_model) ||
      (given.n_integers && !given.integers) || given.offset < 0 || given.offset > INT64_MAX - n)
    return;
  const int64_t n_operands = (given.has_base != 0) + given.n_models + given.n_importances;
  streams.reserve(n_operands);
  if (!given.operands || !streams.add(reinterpret_cast<const sta_operand*>(given.operands), n_operands)) return;
  call.kind = static_cast<int>(given.kind);
  call.n_models = static_cast<int>(given.n_models);
  call.base = given.has_base ? streams.data() : nullptr;
  call.models = streams.data() + (given.has_base != 0);
  call.importances = given.n_importances ? call.models + given.n_models : nullptr;
  call.variant = reinterpret_cast<const int64_t*>(given.variant);
  call.shared = reinterpret_cast<const float*>(given.shared);
  call.per_model = reinterpret_cast<const float*>(given.per_model);
  call.width = given.width;
  call.integers = reinterpret_cast<const int64_t*>(given.integers);
  call.offset = given.offset;
  valid = !entry.accepts || entry.accepts(call);
}

}  // namespace sta

extern "C" {

using namespace sta;

int32_t sta_formula_kind(const char* name) {
  const KernelTable& kernels = *kernels_for(STA_ISA_BEST);
  for (int kind = 0; kind < kernels.n_formulas; ++kind)
    if (!std::strcmp(kernels.formulas[kind].name, name)) return kind;
  return STA_INVALID;
}

int32_t sta_evaluate(int64_t n, const sta_formula* formula, const sta_operand* out, const sta_options* options) {
  return guarded([&]() -> int32_t {
    if (!formula || !out) return STA_INVALID;
    Run run;
    if (const int32_t status = run.set(options)) return status;
    const OneFormula one(n, formula, *run.kernels);
    Operands result(n);
    if (!one.valid || !result.add(out, 1)) return STA_INVALID;
    const EvaluateCall call{one.call, result[0], run.streams(result[0], n)};
    Source source{};
    source.formula = &one.call;
    return parallel(run, n, operands_of(source), chunks_of(n), [&](int64_t chunk, int, float* scratch) {
      const int64_t begin = chunk * kChunk;
      run.kernels->evaluate(call, begin, std::min(n, begin + kChunk), run.tile, scratch);
    });
  });
}

int32_t sta_count_equal(int64_t n, const sta_operand* importance, const sta_operand* theta, int32_t measure,
                        const sta_formula* formula, float value, uint32_t* equal, int64_t* greater,
                        const sta_options* options) {
  return guarded([&]() -> int32_t {
    Run run;
    if (const int32_t status = run.set(options)) return status;
    const OneSource one(n, importance, theta, measure, formula, *run.kernels);
    if (!one.valid || !equal || !greater) return STA_INVALID;
    const EqualCall call{one.source, value, equal};
    std::atomic<int64_t> total{0};
    const int32_t status =
        parallel(run, n, operands_of(one.source), chunks_of(n), [&](int64_t chunk, int, float* scratch) {
          const int64_t begin = chunk * kChunk;
          total += run.kernels->count_equal(call, begin, std::min(n, begin + kChunk), run.tile, scratch);
        });
    *greater = total;
    return status;
  });
}

int32_t sta_values(int64_t n, const sta_operand* importance, const sta_operand* theta, int32_t measure,
                   const sta_formula* formula, int64_t begin, int64_t end, float* values, const sta_options* options) {
  return guarded([&]() -> int32_t {
    Run run;
    if (const int32_t status = run.set(options)) return status;
    const OneSource one(n, importance, theta, measure, formula, *run.kernels);
    if (!one.valid || begin < 0 || begin > end || end > n || !values) return STA_INVALID;
    run.threads = 1;
    return parallel(run, end - begin, operands_of(one.source), 1, [&](int64_t, int, float* scratch) {
      run.kernels->values(one.source, begin, end, run.tile, scratch, values);
    });
  });
}

}  // extern "C"
