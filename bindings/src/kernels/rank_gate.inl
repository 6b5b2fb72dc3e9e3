// A rank gate's values from the thresholds of its entries (reference/rank_gate.py).

// thresholds: of elements [begin, end), or null where all are call.threshold.
static void rank_gate(const GateCall& call, const uint32_t* thresholds, int64_t begin, int64_t end, int64_t tile,
                      float* scratch) {
  const V::M all = call.threshold > 0xffffffff ? V::mtrue() : V::gt(V::zero(), V::zero());
  const V::I constant = V::iset(static_cast<uint32_t>(call.threshold));
  for (int64_t at = begin; at < end; at += tile) {
    const int64_t n = end - at < tile ? end - at : tile;
    Arena arena(scratch, tile);
    float* raw = arena.take(2);
    float* value = arena.take();
    const uint32_t* drawn =
        draws(call.seed, call.tensor, call.task, call.offset + at, n, reinterpret_cast<uint32_t*>(arena.take()));
    uint32_t* below = reinterpret_cast<uint32_t*>(arena.take());  // whole vectors, where the row has none
    if (thresholds) memcpy(below, thresholds + (at - begin), static_cast<size_t>(n) * sizeof *below);
    for (int64_t i = 0; i < n; i += V::W) {
      const V::I threshold = thresholds ? V::iload(below + i) : constant;
      const V::M kept = V::mor(all, V::ult(V::iload(drawn + i), threshold));
      V::store(value + i, V::select(kept, V::set(1), V::zero()));
    }
    if (call.scaled)
      for (int64_t i = 0; i < n; ++i)
        if (value[i] != 0) value[i] = 0x1p32f / static_cast<float>(thresholds ? below[i] : call.threshold);
    write_tile(call.out, at, n, value, raw, call.streaming);
  }
  V::fence();
}
