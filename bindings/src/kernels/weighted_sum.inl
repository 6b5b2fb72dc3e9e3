// Averaging and task arithmetic: [base +] lambda * ((sum of w_i (model_i [- base])) / divisor).

// n: whole vectors.
template <typename Format, bool kBase>
static void sum_tile(const SumCall& call, const char* const* model, const char* base, int64_t n, float* result) {
  const V::F divisor = V::set(call.divisor), lambda = V::set(call.lambda);
  const bool divides = call.divisor != 1.0f;
  for (int64_t i = 0; i < n; i += V::W) {
    const int64_t at = i * Format::kBytes;
    const V::F b = kBase ? Format::load(base + at) : V::zero();
    V::F sum = V::zero();
    for (int j = 0; j < call.n_models; ++j) {
      V::prefetch(model[j] + at + kAhead);
      const V::F a = Format::load(model[j] + at);
      sum = V::add(sum, V::mul(V::set(call.weights[j]), kBase ? V::sub(a, b) : a));
    }
    if (divides) sum = V::div(sum, divisor);
    sum = V::mul(lambda, sum);
    V::store(result + i, kBase ? V::add(b, sum) : sum);
  }
}

template <typename Format>
STA_INLINE void sum_tile(const SumCall& call, const char* const* model, const char* base, int64_t n, float* result) {
  base ? sum_tile<Format, true>(call, model, base, n, result) : sum_tile<Format, false>(call, model, base, n, result);
}

// Whether all operands are contiguous bfloat16, which is converted in registers.
static bool all_bf16(const SumCall& call) {
  for (int j = 0; j < call.n_models; ++j)
    if (call.models[j].layout || call.models[j].dtype != STA_BF16) return false;
  return !call.base || (!call.base->layout && call.base->dtype == STA_BF16);
}

static void weighted_sum(const SumCall& call, int64_t begin, int64_t end, int64_t tile, float* scratch) {
  const char* model[STA_MAX_TASKS];
  const bool halves = all_bf16(call);
  for (int64_t at = begin; at < end; at += tile) {
    const int64_t n = end - at < tile ? end - at : tile;
    Arena arena(scratch, tile);
    float* raw = arena.take(2);
    float* result = arena.take();
    if (halves && n % V::W == 0) {
      for (int j = 0; j < call.n_models; ++j) model[j] = call.models[j].data + at * 2;
      sum_tile<BFloat16>(call, model, call.base ? call.base->data + at * 2 : nullptr, n, result);
    } else {
      const float* base = call.base ? read_tile(*call.base, at, n, arena.take(), raw) : nullptr;
      for (int j = 0; j < call.n_models; ++j)
        model[j] = reinterpret_cast<const char*>(read_tile(call.models[j], at, n, arena.take(), raw));
      sum_tile<Float32>(call, model, reinterpret_cast<const char*>(base), n, result);
    }
    write_tile(call.out, at, n, result, raw, call.streaming);
  }
  V::fence();
}
