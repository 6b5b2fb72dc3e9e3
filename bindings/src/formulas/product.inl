// Products of the first and the last model's weights, or of their task vectors. variant: 0 or 1.

static void product(const FormulaCall& call, const FormulaTile& t) {
  const float *a = t.model[0], *b = t.model[call.n_models - 1];
  if (!call.variant[0])
    return each_vector(t.n, [&](int64_t i) { V::store(t.value + i, V::mul(V::load(a + i), V::load(b + i))); });
  each_vector(t.n, [&](int64_t i) {
    const V::F base = V::load(t.base + i);
    V::store(t.value + i, V::mul(V::sub(V::load(a + i), base), V::sub(V::load(b + i), base)));
  });
}
