// Eq. 12's sum of absolute gradients, and the finishing pass that turns it into an importance.

static void accumulate(const Stream& total, const Stream& grad, int64_t begin, int64_t end, int64_t tile,
                       float* scratch) {
  for (int64_t at = begin; at < end; at += tile) {
    const int64_t n = end - at < tile ? end - at : tile;
    Arena arena(scratch, tile);
    float* raw = arena.take(2);
    float* result = arena.take();
    const float* sum = read_tile(total, at, n, arena.take(), raw);
    const float* g = read_tile(grad, at, n, arena.take(), raw);
    for (int64_t i = 0; i < n; i += V::W) V::store(result + i, V::add(V::load(sum + i), V::abs(V::load(g + i))));
    write_tile(total, at, n, result, raw, false);
  }
}

// leaves: where the sum of the leaf at begin goes; begin is a multiple of STA_LEAF.
static void finish(const FinishCall& call, int64_t begin, int64_t end, int64_t tile, float* scratch, float* minmax,
                   double* leaves) {
  Range seen;
  for (int64_t leaf = begin; leaf < end; leaf += STA_LEAF) {
    const int64_t stop = end - leaf < STA_LEAF ? end : leaf + STA_LEAF;
    LeafSum sum;
    sum.clear();
    for (int64_t at = leaf; at < stop; at += tile) {
      const int64_t n = stop - at < tile ? stop - at : tile;
      Arena arena(scratch, tile);
      float* raw = arena.take(2);
      float* result = arena.take();
      const float* theta = read_tile(call.param, at, n, arena.take(), raw);
      const float* total = call.measure == STA_AMP ? theta : read_tile(call.total, at, n, arena.take(), raw);
      for (int64_t i = 0; i < n; i += V::W) {
        const V::F t = V::load(theta + i);
        V::F score = V::mul(t, t);
        if (call.measure != STA_AMP) {
          const V::F lp = V::mul(V::abs(t), V::load(total + i));
          score = call.measure == STA_LP ? lp : V::mul(lp, score);
        }
        V::store(result + i, score);
      }
      const float* written = result;
      if (call.out.dtype == STA_BF16 || call.out.dtype == STA_F16) {  // the statistics are those of the stored values
        float* rounded = arena.take();
        from_float(call.out.dtype, result, reinterpret_cast<char*>(raw), n, false);
        to_float(call.out.dtype, reinterpret_cast<const char*>(raw), rounded, n);
        written = rounded;
      }
      seen.tile(written, n);
      sum.tile(written, n);
      write_tile(call.out, at, n, result, raw, false);
    }
    leaves[(leaf - begin) / STA_LEAF] = sum.result();
  }
  seen.fold_into(minmax);
}
