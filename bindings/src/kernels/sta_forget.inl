// Eq. 18-20 with the threshold known: the target without the task vector's entries above it.

static void forget(const ForgetCall& call, int64_t begin, int64_t end, int64_t tile, float* scratch, int64_t* kept) {
  const bool keeps_double = call.out.dtype == STA_F64 && call.target.dtype == STA_F64;
  const V::F threshold = V::set(call.threshold), weight = V::set(call.weight), lambda = V::set(call.lambda);
  for (int64_t at = begin; at < end; at += tile) {
    const int64_t n = end - at < tile ? end - at : tile;
    Arena arena(scratch, tile);
    float* raw = arena.take(2);
    float* own = arena.take(2);
    float* result = arena.take();
    uint32_t* changed = reinterpret_cast<uint32_t*>(arena.take());
    const float* target = read_tile(call.target, at, n, arena.take(), raw);
    const float* base = read_tile(call.base, at, n, arena.take(), raw);
    const float* model = read_tile(call.finetuned, at, n, arena.take(), raw);
    float* room = arena.take();
    const int32_t measure = call.source.measure;
    const float* stored = measure == STA_AMP ? nullptr : read_tile(call.source.importance, at, n, room, raw);
    const float* importance = measured(measure, stored, model, n, room);
    if (keeps_double) read_raw(call.target, at, n, own);
    int64_t count = 0;
    for (int64_t i = 0; i < n; i += V::W) {
      const V::M valid = i + V::W <= n ? V::mtrue() : V::first(static_cast<int>(n - i));
      const V::M mask = V::mand(V::gt(V::load(importance + i), threshold), valid);
      const V::F t = V::load(target + i);
      const V::F term = V::mul(lambda, V::mul(weight, V::sub(V::load(model + i), V::load(base + i))));
      V::store(result + i, V::select(mask, V::sub(t, term), t));
      if (keeps_double) V::istore(changed + i, V::mask_to_int(mask));
      count += V::popcount(mask);
    }
    *kept += count;
    if (keeps_double) {
      write_tile_keeping(call.out, at, n, result, raw, reinterpret_cast<const double*>(own), changed);
    } else {
      write_tile(call.out, at, n, result, raw, call.streaming);
    }
  }
  V::fence();
}
