// SCE: select by variance over the tasks, weigh tasks by energy, erase minorities. shared: lambda, variance threshold.
// per_model: weight. integers: tie cut; of an energy: the task.

static bool has_task(const FormulaCall& call) { return call.integers[1] >= 0 && call.integers[1] < call.n_models; }

template <class Models>
STA_INLINE V::F variance_of(const FormulaCall& call, const V::F* tau) {
  const int n_models = Models::of(call);
  const V::F count = V::set(static_cast<float>(n_models));
  V::F mean = V::zero(), total = V::zero();
  STA_UNROLL
  for (int j = 0; j < n_models; ++j) mean = V::add(mean, tau[j]);
  mean = V::div(mean, count);
  STA_UNROLL
  for (int j = 0; j < n_models; ++j) {
    const V::F away = V::sub(tau[j], mean);
    total = V::add(total, V::mul(away, away));
  }
  return V::div(total, count);
}

// The weighted mean over the tasks of the majority's sign, where selected.
template <class Models>
STA_INLINE V::F majority_mean(const FormulaCall& call, V::M selected, V::F* tau) {
  const int n_models = Models::of(call);
  V::F total = V::zero(), sum = V::zero(), weights = V::zero();
  STA_UNROLL
  for (int j = 0; j < n_models; ++j) {
    tau[j] = only(selected, tau[j]);
    total = V::add(total, tau[j]);
  }
  const V::M negative = lt(total, V::zero());
  STA_UNROLL
  for (int j = 0; j < n_models; ++j) {
    const V::M above = V::gt(tau[j], V::zero()), below = lt(tau[j], V::zero());
    const V::F weight =
        only(V::mor(V::mandnot(negative, above), V::mand(negative, below)), V::set(call.of_model(j)[0]));
    sum = V::add(sum, V::mul(weight, tau[j]));
    weights = V::add(weights, weight);
  }
  return quotient(sum, weights);
}

enum class Sce { kMerge, kEnergy, kVariance };

template <class Format, class Models, Sce kResult>
static void sce_tile(const FormulaCall& call, const FormulaTile& t) {
  const V::F lambda = kResult == Sce::kMerge ? V::set(call.shared[0]) : V::zero();
  const V::F threshold = kResult == Sce::kVariance ? V::zero() : V::set(call.shared[1]);
  const int64_t cut = kResult == Sce::kVariance ? 0 : before_cut(call.integers[0], t);
  each_vector(t.n, [&](int64_t i) STA_INLINE_STEP {
    V::F tau[Models::kRoom];
    read_tau<Format, Models>(call, t, i, tau);
    V::F value = variance_of<Models>(call, tau);
    if constexpr (kResult == Sce::kEnergy) {
      const V::F held = tau_of<Format>(t, static_cast<int>(call.integers[1]), i, fetch<Format>(t.base, i));
      value = only(above(value, threshold, cut - i), V::mul(held, held));
    } else if constexpr (kResult == Sce::kMerge) {
      value = V::mul(lambda, majority_mean<Models>(call, above(value, threshold, cut - i), tau));
    }
    V::store(t.value + i, value);
  });
}

template <class Format, Sce kResult>
static void sce(const FormulaCall& call, const FormulaTile& t) {
  counted<4>(call, [&](auto models) { sce_tile<Format, decltype(models), kResult>(call, t); });
}
