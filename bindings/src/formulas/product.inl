// Products of the first and the last model's weights, or of their task vectors. variant: 0 or 1.

template <class Format>
static void product(const FormulaCall& call, const FormulaTile& t) {
  const char *a = t.model[0], *b = t.model[call.n_models - 1];
  if (!call.variant[0])
    return each_vector(t.n, [&](int64_t i) STA_INLINE_STEP {
      V::store(t.value + i, V::mul(fetch<Format>(a, i), fetch<Format>(b, i)));
    });
  each_vector(t.n, [&](int64_t i) STA_INLINE_STEP {
    const V::F base = fetch<Format>(t.base, i);
    V::store(t.value + i, V::mul(V::sub(fetch<Format>(a, i), base), V::sub(fetch<Format>(b, i), base)));
  });
}
