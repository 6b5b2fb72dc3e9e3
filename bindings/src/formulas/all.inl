// The formulas: one family a file, the same operations in the same order as its reference, and the table of them.
//
// A value function reads whole vectors of its operands and writes t.value; lanes beyond t.n may hold anything.

#include "arithmetic.inl"
#include "elementary.inl"
#include "philox.inl"
// Families; sparse_sum's comparisons and elections serve others.
#include "sparse_sum.inl"
//
#include "agreement.inl"
#include "arcee_fusion.inl"
#include "fisher.inl"
#include "nearswap.inl"
#include "pcb.inl"
#include "product.inl"
#include "scaled_sum.inl"
#include "sce.inl"
#include "trust_region.inl"

// A value function for each readable dtype.
#define STA_READING(function, ...) \
  {function<Float32, ##__VA_ARGS__>, function<BFloat16, ##__VA_ARGS__>, function<Float16, ##__VA_ARGS__>}

// name, is a delta, counts of: variant, shared, per_model, integers, integers per model; further conditions; value.
static const Formula kFormulas[] = {
    {"agreement", true, 0, 1, 2, 1, 0, nullptr, STA_READING(agreement)},
    {"arcee_fusion", true, 0, 1, 0, 0, 0, has_importances, STA_READING(arcee_fusion)},
    {"arcee_importance", false, 0, 0, 0, 0, 0, has_importances, STA_READING(arcee_importance)},
    {"conflict", false, 1, 0, 0, 0, 0, has_sensitivities, STA_READING(conflict)},
    {"distance", false, 0, 0, 0, 0, 0, nullptr, STA_READING(distance)},
    {"elected_sign", false, 3, 3, 4, 2, 4, has_gate, STA_READING(sparse_sum, Sparse::kSign)},
    {"fisher", false, 0, 0, 2, 0, 0, has_importances, STA_READING(fisher)},
    {"nearswap", true, 0, 1, 0, 0, 0, nullptr, STA_READING(nearswap)},
    {"pcb", true, 1, 1, 5, 0, 0, has_form, STA_READING(pcb)},
    {"pcb_score", false, 1, 0, 2, 1, 0, has_form_and_task, STA_READING(pcb_score)},
    {"product", false, 1, 0, 0, 0, 0, nullptr, STA_READING(product)},
    {"scaled_sum", true, 1, 0, 0, 0, 0, has_importances, STA_READING(scaled_sum)},
    {"sce", true, 0, 2, 1, 1, 0, nullptr, STA_READING(sce, Sce::kMerge)},
    {"sce_energy", false, 0, 2, 0, 2, 0, has_task, STA_READING(sce, Sce::kEnergy)},
    {"sparse_distance", false, 3, 0, 4, 2, 4, has_gate, STA_READING(sparse_distance)},
    {"sparse_sum", true, 3, 3, 4, 2, 4, has_gate, STA_READING(sparse_sum, Sparse::kSum)},
    {"trust_region", true, 1, 2, 1, 0, 0, has_sensitivities, STA_READING(trust_region)},
    {"variance", false, 0, 0, 0, 0, 0, nullptr, STA_READING(sce, Sce::kVariance)},
};
constexpr int kFormulaCount = sizeof kFormulas / sizeof *kFormulas;
