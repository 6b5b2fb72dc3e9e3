// TALL masks and Consensus. shared: lambda. per_model: lambda_t, whether its mask is asked for. integers: k.

template <class Format, class Models>
static void agreement_tile(const FormulaCall& call, const FormulaTile& t) {
  const int64_t k = call.integers[0], most = call.n_models + 1;
  const V::I fewer = V::iset(static_cast<uint32_t>((k < 0 ? 0 : k > most ? most : k) - 1));
  const V::F lambda = V::set(call.shared[0]);
  each_vector(t.n, [&](int64_t i) STA_INLINE_STEP {
    const int n_models = Models::of(call);
    V::F tau[Models::kRoom], total = V::zero();
    read_tau<Format, Models>(call, t, i, tau);
    STA_UNROLL
    for (int j = 0; j < n_models; ++j) total = V::add(total, tau[j]);
    V::I agreeing = V::iset(0);
    STA_UNROLL
    for (int j = 0; j < n_models; ++j) {
      if (call.of_model(j)[1] == 0) continue;
      const V::F rest = V::mul(V::set(call.of_model(j)[0]), V::abs(V::sub(total, tau[j])));
      agreeing = V::isub(agreeing, V::mask_to_int(V::gt(V::abs(tau[j]), rest)));
    }
    V::store(t.value + i, only(V::sgt(agreeing, fewer), V::mul(lambda, total)));
  });
}

template <class Format>
static void agreement(const FormulaCall& call, const FormulaTile& t) {
  counted<4>(call, [&](auto models) { agreement_tile<Format, decltype(models)>(call, t); });
}
