// Fisher-weighted averaging. per_model: c, epsilon. importances: the Fisher information.

STA_INLINE V::F fisher_weight(const FormulaCall& call, const FormulaTile& t, int j, int64_t i) {
  const float* model = call.of_model(j);
  return V::mul(V::set(model[0]), V::add(V::load(t.importance[j] + i), V::set(model[1])));
}

static void fisher(const FormulaCall& call, const FormulaTile& t) {
  each_vector(t.n, [&](int64_t i) {
    V::M all_zero = V::mtrue();
    for (int j = 0; j < call.n_models; ++j)
      all_zero = V::mand(all_zero, V::eq(fisher_weight(call, t, j, i), V::zero()));
    V::F sum = V::zero(), weights = V::zero();
    for (int j = 0; j < call.n_models; ++j) {
      const V::F weight = V::select(all_zero, V::set(call.of_model(j)[0]), fisher_weight(call, t, j, i));
      sum = V::add(sum, V::mul(weight, V::load(t.model[j] + i)));
      weights = V::add(weights, weight);
    }
    V::store(t.value + i, quotient(sum, weights));
  });
}
