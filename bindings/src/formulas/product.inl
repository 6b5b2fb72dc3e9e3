// Products of the first and the last model's weights, or of their task vectors. variant: 0 or 1.

static void product(const FormulaCall& call, const FormulaTile& t) {
  const float *a = t.model[0], *b = t.model[call.n_models - 1];
  if (!call.variant[0])
    return each_vector(t.n, [&](int64_t i) { V::store(t.value + i, V::mul(fetch(a + i), fetch(b + i))); });
  each_vector(t.n, [&](int64_t i) {
    const V::F base = fetch(t.base + i);
    V::store(t.value + i, V::mul(V::sub(fetch(a + i), base), V::sub(fetch(b + i), base)));
  });
}
