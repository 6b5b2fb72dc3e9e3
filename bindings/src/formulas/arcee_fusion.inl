// Arcee Fusion: entries whose change, times the divergence of their row, reaches a threshold. shared: the threshold, of
// arcee_fusion only. importances: the divergence.

STA_INLINE V::F arcee_importance_of(const FormulaTile& t, int64_t i, V::F tau) {
  return V::mul(V::abs(tau), fetch(t.importance[0], i));
}

template <class Format>
static void arcee_importance(const FormulaCall&, const FormulaTile& t) {
  each_vector(t.n, [&](int64_t i) STA_INLINE_STEP {
    const V::F tau = only_tau<Format>(t, i);
    V::store(t.value + i, arcee_importance_of(t, i, tau));
  });
}

template <class Format>
static void arcee_fusion(const FormulaCall& call, const FormulaTile& t) {
  const V::F threshold = V::set(call.shared[0]);
  each_vector(t.n, [&](int64_t i) STA_INLINE_STEP {
    const V::F tau = only_tau<Format>(t, i);
    V::store(t.value + i, only(V::ge(arcee_importance_of(t, i, tau), threshold), tau));
  });
}
