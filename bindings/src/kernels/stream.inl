// The rooflines that the benchmarks hold every kernel against: the same streams, and nothing but additions.

static void stream_sum(int n_inputs, const Stream* inputs, const Stream& out, int64_t begin, int64_t end, int64_t tile,
                       float* scratch, bool streaming) {
  for (int64_t at = begin; at < end; at += tile) {
    const int64_t n = end - at < tile ? end - at : tile;
    Arena arena(scratch, tile);
    float* raw = arena.take(2);
    float *sum = arena.take(), *room = arena.take();
    for (int j = 0; j < n_inputs; ++j) {
      const float* values = read_tile(inputs[j], at, n, room, raw);
      for (int64_t i = 0; i < n; i += V::W)
        V::store(sum + i, j ? V::add(V::load(sum + i), V::load(values + i)) : V::load(values + i));
    }
    write_tile(out, at, n, sum, raw, streaming);
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
        for (int s = 0; s < 4; ++s) sums[s] = V::add(sums[s], V::load(values + i + s * V::W));
      for (; i < n; i += V::W) sums[0] = V::add(sums[0], V::load(values + i));
    }
  }
  float lanes[V::W];
  V::store(lanes, V::add(V::add(sums[0], sums[1]), V::add(sums[2], sums[3])));
  double total = 0;
  for (int lane = 0; lane < V::W; ++lane) total += lanes[lane];
  return total;
}
