// A rank gate's values from the thresholds of its entries (reference/rank_gate.py).

// Half the draws of elements [index, index + n) of a task: where they begin in room, a tile.
static const uint16_t* draw_halves(const Philox& philox, Half half, uint32_t task, int64_t index, int64_t n,
                                   float* room) {
  uint16_t* halves = reinterpret_cast<uint16_t*>(room);
  const int64_t skipped = index % Philox::kBlock;
  draw(philox, half, &task, 1, index - skipped, n + skipped, [&](int, int64_t i, V::I front, V::I back) {
    V::istore(halves + i, front);
    V::istore(halves + i + 2 * V::W, back);
  });
  return halves + skipped;
}

STA_INLINE V::I widen(const uint16_t* p) { return V::srl(V::bits(V::load_bf16(p)), 16); }

// thresholds: of elements [begin, end), or null where all are call.threshold.
static void rank_gate(const GateCall& call, const uint32_t* thresholds, int64_t begin, int64_t end, int64_t tile,
                      float* scratch) {
  const Philox philox(call.seed, call.tensor);
  const V::M all = call.threshold > 0xffffffff ? V::mtrue() : V::gt(V::zero(), V::zero());
  const V::I constant = V::iset(static_cast<uint32_t>(call.threshold));
  for (int64_t at = begin; at < end; at += tile) {
    const int64_t n = end - at < tile ? end - at : tile;
    Arena arena(scratch, tile);
    float* raw = arena.take(2);
    float* value = arena.take();
    const uint16_t* high = draw_halves(philox, Half::kHigh, call.task, call.offset + at, n, arena.take());
    const uint16_t* low = draw_halves(philox, Half::kLow, call.task, call.offset + at, n, arena.take());
    uint32_t* below = reinterpret_cast<uint32_t*>(arena.take());  // whole vectors, where the row has none
    if (thresholds) memcpy(below, thresholds + (at - begin), static_cast<size_t>(n) * sizeof *below);
    for (int64_t i = 0; i < n; i += V::W) {
      const V::I threshold = thresholds ? V::iload(below + i) : constant;
      const V::I drawn = V::ior(V::sll16(widen(high + i)), widen(low + i));
      const V::M kept = V::mor(all, V::ult(drawn, threshold));
      V::store(value + i, V::select(kept, V::set(1), V::zero()));
    }
    if (call.scaled)
      for (int64_t i = 0; i < n; ++i)
        if (value[i] != 0) value[i] = 0x1p32f / static_cast<float>(thresholds ? below[i] : call.threshold);
    write_tile(call.out, at, n, value, raw, call.streaming);
  }
  V::fence();
}
