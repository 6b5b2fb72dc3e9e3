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

// name, is a delta, counts of: variant, shared, per_model, integers, integers per model; further conditions; value.
static const Formula kFormulas[] = {
    {"agreement", true, 0, 1, 2, 1, 0, nullptr, agreement},
    {"arcee_fusion", true, 0, 1, 0, 0, 0, has_importances, arcee_fusion},
    {"arcee_importance", false, 0, 0, 0, 0, 0, has_importances, arcee_importance},
    {"conflict", false, 1, 0, 0, 0, 0, has_sensitivities, conflict},
    {"distance", false, 0, 0, 0, 0, 0, nullptr, distance},
    {"elected_sign", false, 3, 3, 4, 2, 4, has_gate, sparse_sum<Sparse::kSign>},
    {"fisher", false, 0, 0, 2, 0, 0, has_importances, fisher},
    {"nearswap", true, 0, 1, 0, 0, 0, nullptr, nearswap},
    {"pcb", true, 1, 1, 5, 0, 0, has_form, pcb},
    {"pcb_score", false, 1, 0, 2, 1, 0, has_form_and_task, pcb_score},
    {"product", false, 1, 0, 0, 0, 0, nullptr, product},
    {"scaled_sum", true, 1, 0, 0, 0, 0, has_importances, scaled_sum},
    {"sce", true, 0, 2, 1, 1, 0, nullptr, sce<Sce::kMerge>},
    {"sce_energy", false, 0, 2, 0, 2, 0, has_task, sce<Sce::kEnergy>},
    {"sparse_distance", false, 3, 0, 4, 2, 4, has_gate, sparse_distance},
    {"sparse_sum", true, 3, 3, 4, 2, 4, has_gate, sparse_sum<Sparse::kSum>},
    {"trust_region", true, 1, 2, 1, 0, 0, has_sensitivities, trust_region},
    {"variance", false, 0, 0, 0, 0, 0, nullptr, sce<Sce::kVariance>},
};
constexpr int kFormulaCount = sizeof kFormulas / sizeof *kFormulas;
