// The rooflines that the benchmarks hold every kernel against: the same streams, and nothing but additions.

// Contiguous float32 and bfloat16 only: what a plain loop over the same bytes can do.
static void stream_sum(int n_inputs, const Stream* inputs, const Stream& out, int64_t begin, int64_t end, int64_t,
                       float* scratch, bool streaming) {
  const char *wide[STA_MAX_TASKS], *narrow[STA_MAX_TASKS];
  int n_wide = 0, n_narrow = 0;
  for (int j = 0; j < n_inputs; ++j) {
    const char* start = inputs[j].data + begin * inputs[j].itemsize;
    inputs[j].dtype == STA_F32 ? wide[n_wide++] = start : narrow[n_narrow++] = start;
  }
  char* result = out.data + begin * out.itemsize;
  const bool past_caches = streaming && reinterpret_cast<intptr_t>(result) % (V::W * out.itemsize) == 0;
  int64_t i = 0;
  for (; i + V::W <= end - begin; i += V::W) {
    V::F sum = V::zero();
    for (int j = 0; j < n_wide; ++j) {
      V::prefetch(wide[j] + i * 4 + kAhead);
      sum = V::add(sum, V::load(reinterpret_cast<const float*>(wide[j] + i * 4)));
    }
    for (int j = 0; j < n_narrow; ++j) {
      V::prefetch(narrow[j] + i * 2 + kAhead);
      sum = V::add(sum, V::load_bf16(narrow[j] + i * 2));
    }
    if (out.dtype == STA_BF16) {
      past_caches ? V::stream_bf16(result + i * 2, sum) : V::store_bf16(result + i * 2, sum);
    } else {
      float* to = reinterpret_cast<float*>(result + i * 4);
      past_caches ? V::stream(to, sum) : V::store(to, sum);
    }
  }
  if (const int64_t left = end - begin - i) {
    Arena arena(scratch, 64);
    float *raw = arena.take(2), *sum = arena.take(), *room = arena.take();
    for (int64_t lane = 0; lane < V::W; ++lane) sum[lane] = 0;
    for (int j = 0; j < n_inputs; ++j)
      V::store(sum, V::add(V::load(sum), V::load(read_tile(inputs[j], begin + i, left, room, raw))));
    write_tile(out, begin + i, left, sum, raw, false);
  }
  V::fence();
}

static double stream_read(int n_inputs, const Stream* inputs, int64_t begin, int64_t end, int64_t tile,
                          float* scratch) {
  V::F sums[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  for (int64_t at = begin; at < end; at += tile) {
    const int64_t n = end - at < tile ? end - at : tile;
    Arena arena(scratch, tile);
    float* raw = arena.take(2);
    float* room = arena.take();
    for (int j = 0; j < n_inputs; ++j) {
      const float* values = read_tile(inputs[j], at, n, room, raw);
      int64_t i = 0;
      for (; i + 4 * V::W <= n; i += 4 * V::W)
        for (int s = 0; s < 4; ++s) {
          V::prefetch(reinterpret_cast<const char*>(values + i + s * V::W) + kAheadAlone);
          sums[s] = V::add(sums[s], V::load(values + i + s * V::W));
        }
      for (; i < n; i += V::W) sums[0] = V::add(sums[0], V::load(values + i));
    }
  }
  float lanes[V::W];
  V::store(lanes, V::add(V::add(sums[0], sums[1]), V::add(sums[2], sums[3])));
  double total = 0;
  for (int lane = 0; lane < V::W; ++lane) total += lanes[lane];
  return total;
}
