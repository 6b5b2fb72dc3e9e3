// Nearswap: the other model within a distance of the base, ever less of it beyond. shared: the distance.

template <class Format>
static void nearswap(const FormulaCall& call, const FormulaTile& t) {
  const V::F distance = V::set(call.shared[0]), floor = V::set(1e-6f);
  each_vector(t.n, [&](int64_t i) STA_INLINE_STEP {
    const V::F tau = only_tau<Format>(t, i);
    const V::F share = V::div(distance, greatest(V::abs(tau), floor));
    V::store(t.value + i, V::mul(least(greatest(share, V::zero()), V::set(1)), tau));
  });
}
