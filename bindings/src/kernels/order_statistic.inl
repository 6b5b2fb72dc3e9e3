// Histograms of the digits of order-preserving keys: the passes of an exact radix selection.

// Unsigned key: negative floats inverted, the others with the sign bit set; every NaN last.
STA_INLINE V::I unsigned_key(V::F a) {
  const V::I u = V::bits(a);
  const V::I key = V::ixor(u, V::ior(V::sra31(u), V::iset(0x80000000u)));
  return V::iselect(V::eq(a, a), key, V::iset(~0u));
}

// tables: kTables interleaved histograms of 2^digit_bits counters.
static void histogram(const Source& source, int64_t begin, int64_t end, int64_t tile, float* scratch, uint32_t prefix,
                      int prefix_bits, int digit_bits, uint32_t* tables) {
  Arena arena(scratch, tile);
  float* raw = arena.take(2);
  float *room = arena.take(), *other = arena.take();
  uint32_t* digits = reinterpret_cast<uint32_t*>(arena.take());
  const int shift = 32 - prefix_bits - digit_bits;
  const V::I mask = V::iset((1u << digit_bits) - 1), wanted = V::iset(prefix);
  const int64_t size = int64_t{1} << digit_bits;
  for (int64_t at = begin; at < end; at += tile) {
    const int64_t n = end - at < tile ? end - at : tile;
    const float* values = read_source(source, at, n, room, other, raw);
    int64_t count = 0;
    if (prefix_bits == 0) {
      for (int64_t i = 0; i < n; i += V::W) V::istore(digits + i, V::srl(unsigned_key(V::load(values + i)), shift));
      count = n;
    } else {
      for (int64_t i = 0; i < n; i += V::W) {
        const V::I key = unsigned_key(V::load(values + i));
        V::M match = V::ieq(V::srl(key, 32 - prefix_bits), wanted);
        if (i + V::W > n) match = V::mand(match, V::first(static_cast<int>(n - i)));
        count += V::compress(digits + count, match, V::iand(V::srl(key, shift), mask));
      }
    }
    int64_t i = 0;
    for (; i + kTables <= count; i += kTables)
      for (int t = 0; t < kTables; ++t) ++tables[t * size + digits[i + t]];
    for (; i < count; ++i) ++tables[digits[i]];
  }
}
