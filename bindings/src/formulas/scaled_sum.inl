// Sums of the models' weights, or of their task vectors, each times its own factor. variant: 0 or 1. importances: the
// factors.

template <class Format>
static void scaled_sum(const FormulaCall& call, const FormulaTile& t) {
  each_vector(t.n, [&](int64_t i) STA_INLINE_STEP {
    const V::F base = fetch<Format>(t.base, i);
    V::F total = V::zero();
    for (int j = 0; j < call.n_models; ++j) {
      const V::F vector = call.variant[0] ? tau_of<Format>(t, j, i, base) : fetch<Format>(t.model[j], i);
      total = V::add(total, V::mul(fetch(t.importance[j], i), vector));
    }
    V::store(t.value + i, total);
  });
}
