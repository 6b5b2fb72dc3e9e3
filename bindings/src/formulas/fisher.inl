// Fisher-weighted averaging. per_model: c, epsilon. importances: the Fisher information.

template <class Format, class Models>
static void fisher_tile(const FormulaCall& call, const FormulaTile& t) {
  each_vector(t.n, [&](int64_t i) STA_INLINE_STEP {
    const int n_models = Models::of(call);
    V::F weight[Models::kRoom];
    V::M all_zero = V::mtrue();
    STA_UNROLL
    for (int j = 0; j < n_models; ++j) {
      const float* model = call.of_model(j);
      weight[j] = V::mul(V::set(model[0]), V::add(fetch(t.importance[j], i), V::set(model[1])));
      all_zero = V::mand(all_zero, V::eq(weight[j], V::zero()));
    }
    V::F sum = V::zero(), weights = V::zero();
    STA_UNROLL
    for (int j = 0; j < n_models; ++j) {
      const V::F factor = V::select(all_zero, V::set(call.of_model(j)[0]), weight[j]);
      sum = V::add(sum, V::mul(factor, fetch<Format>(t.model[j], i)));
      weights = V::add(weights, factor);
    }
    V::store(t.value + i, quotient(sum, weights));
  });
}

template <class Format>
static void fisher(const FormulaCall& call, const FormulaTile& t) {
  counted<4>(call, [&](auto models) { fisher_tile<Format, decltype(models)>(call, t); });
}
