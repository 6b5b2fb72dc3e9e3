// Task arithmetic in the trust region. variant: 1 where |tau| stands for the sensitivities that importances hold.
// shared: lambda, threshold. per_model: weight.

static bool has_sensitivities(const FormulaCall& call) { return call.variant[0] != 0 || call.importances; }

// The sum of |g_i| |tau_j| over i, then j != i.
template <class Models>
STA_INLINE V::F conflict_at(const FormulaCall& call, const FormulaTile& t, int64_t i, const V::F* tau) {
  const int n_models = Models::of(call);
  V::F total = V::zero();
  STA_UNROLL
  for (int s = 0; s < n_models; ++s) {
    const V::F sensitivity = call.variant[0] ? V::abs(tau[s]) : fetch(t.importance[s], i);
    STA_UNROLL
    for (int j = 0; j < n_models; ++j)
      if (j != s) total = V::add(total, V::mul(sensitivity, V::abs(tau[j])));
  }
  return total;
}

// kAdds: the weighted sum where the conflict is below the threshold, instead of the conflict.
template <class Format, class Models, bool kAdds>
static void conflict_tile(const FormulaCall& call, const FormulaTile& t) {
  each_vector(t.n, [&](int64_t i) STA_INLINE_STEP {
    const int n_models = Models::of(call);
    V::F tau[Models::kRoom];
    read_tau<Format, Models>(call, t, i, tau);
    V::F value = conflict_at<Models>(call, t, i, tau);
    if constexpr (kAdds) {
      V::F total = V::zero();
      STA_UNROLL
      for (int j = 0; j < n_models; ++j) total = V::add(total, V::mul(V::set(call.of_model(j)[0]), tau[j]));
      value = only(lt(value, V::set(call.shared[1])), V::mul(V::set(call.shared[0]), total));
    }
    V::store(t.value + i, value);
  });
}

template <class Format>
static void conflict(const FormulaCall& call, const FormulaTile& t) {
  counted<4>(call, [&](auto models) { conflict_tile<Format, decltype(models), false>(call, t); });
}

template <class Format>
static void trust_region(const FormulaCall& call, const FormulaTile& t) {
  counted<4>(call, [&](auto models) { conflict_tile<Format, decltype(models), true>(call, t); });
}
