// SCE: select by variance over the tasks, weigh tasks by energy, erase minorities. shared: lambda, variance threshold.
// per_model: weight. integers: tie cut; of an energy: the task.

static bool has_task(const FormulaCall& call) { return call.integers[1] >= 0 && call.integers[1] < call.n_models; }

STA_INLINE V::F variance_at(const FormulaCall& call, const FormulaTile& t, int64_t i, V::F base) {
  const V::F count = V::set(static_cast<float>(call.n_models));
  V::F mean = V::zero(), total = V::zero();
  for (int j = 0; j < call.n_models; ++j) mean = V::add(mean, tau_of(t, j, i, base));
  mean = V::div(mean, count);
  for (int j = 0; j < call.n_models; ++j) {
    const V::F away = V::sub(tau_of(t, j, i, base), mean);
    total = V::add(total, V::mul(away, away));
  }
  return V::div(total, count);
}

STA_INLINE V::M selected_at(const FormulaCall& call, const FormulaTile& t, int64_t i, V::F base) {
  return above(variance_at(call, t, i, base), V::set(call.shared[1]), before_cut(call.integers[0], t) - i);
}

static void variance(const FormulaCall& call, const FormulaTile& t) {
  each_vector(t.n, [&](int64_t i) { V::store(t.value + i, variance_at(call, t, i, V::load(t.base + i))); });
}

static void sce_energy(const FormulaCall& call, const FormulaTile& t) {
  const int task = static_cast<int>(call.integers[1]);
  each_vector(t.n, [&](int64_t i) {
    const V::F base = V::load(t.base + i), tau = tau_of(t, task, i, base);
    V::store(t.value + i, only(selected_at(call, t, i, base), V::mul(tau, tau)));
  });
}

static void sce(const FormulaCall& call, const FormulaTile& t) {
  const V::F lambda = V::set(call.shared[0]);
  each_vector(t.n, [&](int64_t i) {
    const V::F base = V::load(t.base + i);
    const V::M selected = selected_at(call, t, i, base);
    V::F total = V::zero();
    for (int j = 0; j < call.n_models; ++j) total = V::masked_add(total, selected, tau_of(t, j, i, base));
    const V::M negative = lt(total, V::zero());
    V::F sum = V::zero(), weights = V::zero();
    for (int j = 0; j < call.n_models; ++j) {
      const V::F tau = only(selected, tau_of(t, j, i, base));
      const V::M agrees = V::mor(V::mandnot(negative, V::gt(tau, V::zero())), V::mand(negative, lt(tau, V::zero())));
      const V::F weight = only(agrees, V::set(call.of_model(j)[0]));
      sum = V::add(sum, V::mul(weight, tau));
      weights = V::add(weights, weight);
    }
    V::store(t.value + i, V::mul(lambda, quotient(sum, weights)));
  });
}
