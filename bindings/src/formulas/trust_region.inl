// Task arithmetic in the trust region. variant: 1 where |tau| stands for the sensitivities that importances hold.
// shared: lambda, threshold. per_model: weight.

static bool has_sensitivities(const FormulaCall& call) { return call.variant[0] != 0 || call.importances; }

// The sum of |g_i| |tau_j| over i, then j != i.
STA_INLINE V::F conflict_at(const FormulaCall& call, const FormulaTile& t, int64_t i, V::F base, V::F* size) {
  for (int j = 0; j < call.n_models; ++j) size[j] = V::abs(tau_of(t, j, i, base));
  V::F total = V::zero();
  for (int s = 0; s < call.n_models; ++s) {
    const V::F sensitivity = call.variant[0] ? size[s] : V::load(t.importance[s] + i);
    for (int j = 0; j < call.n_models; ++j)
      if (j != s) total = V::add(total, V::mul(sensitivity, size[j]));
  }
  return total;
}

static void conflict(const FormulaCall& call, const FormulaTile& t) {
  V::F size[STA_MAX_TASKS];
  each_vector(t.n, [&](int64_t i) { V::store(t.value + i, conflict_at(call, t, i, V::load(t.base + i), size)); });
}

static void trust_region(const FormulaCall& call, const FormulaTile& t) {
  const V::F lambda = V::set(call.shared[0]), threshold = V::set(call.shared[1]);
  V::F size[STA_MAX_TASKS];
  each_vector(t.n, [&](int64_t i) {
    const V::F base = V::load(t.base + i);
    V::F total = V::zero();
    for (int j = 0; j < call.n_models; ++j)
      total = V::add(total, V::mul(V::set(call.of_model(j)[0]), tau_of(t, j, i, base)));
    const V::M trusted = lt(conflict_at(call, t, i, base, size), threshold);
    V::store(t.value + i, only(trusted, V::mul(lambda, total)));
  });
}
