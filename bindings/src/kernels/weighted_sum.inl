// Averaging and task arithmetic: [base +] lambda * ((sum of w_i (model_i [- base])) / divisor).

template <bool kBase>
static void sum_tile(const SumCall& call, const float* const* model, const float* base, int64_t n, float* result) {
  const V::F divisor = V::set(call.divisor), lambda = V::set(call.lambda);
  const bool divides = call.divisor != 1.0f;
  for (int64_t i = 0; i < n; i += V::W) {
    const V::F b = kBase ? V::load(base + i) : V::zero();
    V::F sum = V::zero();
    for (int j = 0; j < call.n_models; ++j) {
      const V::F a = V::load(model[j] + i);
      sum = V::add(sum, V::mul(V::set(call.weights[j]), kBase ? V::sub(a, b) : a));
    }
    if (divides) sum = V::div(sum, divisor);
    sum = V::mul(lambda, sum);
    V::store(result + i, kBase ? V::add(b, sum) : sum);
  }
}

static void weighted_sum(const SumCall& call, int64_t begin, int64_t end, int64_t tile, float* scratch) {
  const float* model[STA_MAX_TASKS];
  for (int64_t at = begin; at < end; at += tile) {
    const int64_t n = end - at < tile ? end - at : tile;
    Arena arena(scratch, tile);
    float* raw = arena.take(2);
    float* result = arena.take();
    const float* base = call.base ? read_tile(*call.base, at, n, arena.take(), raw) : nullptr;
    for (int j = 0; j < call.n_models; ++j) model[j] = read_tile(call.models[j], at, n, arena.take(), raw);
    base ? sum_tile<true>(call, model, base, n, result) : sum_tile<false>(call, model, base, n, result);
    write_tile(call.out, at, n, result, raw, call.streaming);
  }
  V::fence();
}
