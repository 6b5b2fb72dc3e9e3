// TALL masks and Consensus. shared: lambda. per_model: lambda_t, whether its mask is asked for. integers: k.

static void agreement(const FormulaCall& call, const FormulaTile& t) {
  const int64_t k = call.integers[0], most = call.n_models + 1;
  const V::I fewer = V::iset(static_cast<uint32_t>((k < 0 ? 0 : k > most ? most : k) - 1));
  const V::F lambda = V::set(call.shared[0]);
  each_vector(t.n, [&](int64_t i) {
    const V::F base = V::load(t.base + i);
    V::F total = V::zero();
    for (int j = 0; j < call.n_models; ++j) total = V::add(total, tau_of(t, j, i, base));
    V::I agreeing = V::iset(0);
    for (int j = 0; j < call.n_models; ++j) {
      if (call.of_model(j)[1] == 0) continue;
      const V::F tau = tau_of(t, j, i, base);
      const V::F rest = V::mul(V::set(call.of_model(j)[0]), V::abs(V::sub(total, tau)));
      agreeing = V::isub(agreeing, V::mask_to_int(V::gt(V::abs(tau), rest)));
    }
    V::store(t.value + i, only(V::sgt(agreeing, fewer), V::mul(lambda, total)));
  });
}
