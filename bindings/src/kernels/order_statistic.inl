// Histograms of the digits of order-preserving keys: the passes of an exact radix selection.

// Unsigned key: negative floats inverted, the others with the sign bit set; every NaN last.
STA_INLINE V::I unsigned_key(V::F a) {
  const V::I u = V::bits(a);
  const V::I key = V::ixor(u, V::ior(V::sra31(u), V::iset(0x80000000u)));
  return V::iselect(V::eq(a, a), key, V::iset(~0u));
}

// Counts the keys below a window, and within it those of every bin of 2^shift keys.
// tables: kTables interleaved histograms of `bins` counters each.
static int64_t histogram(const Source& source, int64_t begin, int64_t end, int64_t tile, float* scratch,
                         const Window& window, int64_t bins, uint32_t* tables) {
  Arena arena(scratch, tile);
  uint32_t* digits = reinterpret_cast<uint32_t*>(arena.take());
  const V::I start = V::iset(window.start), span = V::iset(window.span);
  const bool everything = window.span == ~0u;
  int64_t below = 0;
  for (int64_t at = begin; at < end; at += tile) {
    const int64_t n = end - at < tile ? end - at : tile;
    const float* values = read_source(source, at, n, arena);
    int64_t count = 0;
    if (everything) {
      for (int64_t i = 0; i < n; i += V::W) {
        V::prefetch(reinterpret_cast<const char*>(values + i) + kAheadAlone);
        V::istore(digits + i, V::srl(unsigned_key(V::load(values + i)), window.shift));
      }
      count = n;
    } else {
      for (int64_t i = 0; i < n; i += V::W) {
        V::prefetch(reinterpret_cast<const char*>(values + i) + kAheadAlone);
        const V::M valid = i + V::W <= n ? V::mtrue() : V::first(static_cast<int>(n - i));
        const V::I key = unsigned_key(V::load(values + i)), offset = V::isub(key, start);
        const V::M lower = V::mand(V::ult(key, start), valid);
        const V::M inside = V::mandnot(V::ult(span, offset), valid);
        below += V::popcount(lower);
        count += V::compress(digits + count, inside, V::srl(offset, window.shift));
      }
    }
    int64_t i = 0;
    for (; i + kTables <= count; i += kTables)
      for (int t = 0; t < kTables; ++t) ++tables[t * bins + digits[i + t]];
    for (; i < count; ++i) ++tables[digits[i]];
  }
  return below;
}

// Counts the keys below a window and those equal to either of two within it, and appends the others within it to keys,
// which has room for end - begin and a vector more.
static WindowCounts collect(const Source& source, int64_t begin, int64_t end, int64_t tile, float* scratch,
                            const Window& window, const uint32_t* common, uint32_t* keys) {
  const Arena arena(scratch, tile);
  const V::I start = V::iset(window.start), span = V::iset(window.span);
  const V::I one = V::iset(common[0]), other = V::iset(common[1]);
  WindowCounts counts{0, {0, 0}, 0};
  for (int64_t at = begin; at < end; at += tile) {
    const int64_t n = end - at < tile ? end - at : tile;
    const float* values = read_source(source, at, n, arena);
    for (int64_t i = 0; i < n; i += V::W) {
      V::prefetch(reinterpret_cast<const char*>(values + i) + kAheadAlone);
      const V::M valid = i + V::W <= n ? V::mtrue() : V::first(static_cast<int>(n - i));
      const V::I key = unsigned_key(V::load(values + i));
      const V::M inside = V::mandnot(V::ult(span, V::isub(key, start)), valid);
      const V::M first = V::mand(V::ieq(key, one), inside), second = V::mand(V::ieq(key, other), inside);
      counts.below += V::popcount(V::mand(V::ult(key, start), valid));
      counts.common[0] += V::popcount(first);
      counts.common[1] += V::popcount(second);
      counts.others += V::compress(keys + counts.others, V::mandnot(first, V::mandnot(second, inside)), key);
    }
  }
  return counts;
}
