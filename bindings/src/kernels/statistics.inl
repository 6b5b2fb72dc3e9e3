// Range (with -0 < +0, NaN sticking) and tier-B sums.

// Order-preserving signed key: integers compare as the floats do.
STA_INLINE V::I signed_key(V::F a) {
  const V::I u = V::bits(a);
  return V::ixor(u, V::iand(V::sra31(u), V::iset(0x7fffffff)));
}

STA_INLINE int32_t scalar_key(float a) {
  int32_t u;
  memcpy(&u, &a, 4);
  return u ^ ((u >> 31) & 0x7fffffff);
}

STA_INLINE float scalar_from_key(int32_t key) {
  const int32_t u = key ^ ((key >> 31) & 0x7fffffff);
  float a;
  memcpy(&a, &u, 4);
  return a;
}

struct Range {
  V::I low = V::iset(0x7fffffff), high = V::iset(0x80000000u);

  STA_INLINE_MEMBER void tile(const float* p, int64_t n) {
    int64_t i = 0;
    for (; i + V::W <= n; i += V::W) {
      V::prefetch(reinterpret_cast<const char*>(p + i) + kAheadAlone);
      const V::I key = signed_key(V::load(p + i));
      low = V::smin(low, key);
      high = V::smax(high, key);
    }
    if (i < n) {
      const V::M valid = V::first(static_cast<int>(n - i));
      const V::I key = signed_key(V::load(p + i));
      low = V::smin(low, V::iselect(valid, key, low));
      high = V::smax(high, V::iselect(valid, key, high));
    }
  }

  void fold_into(float* minmax) const {
    if (minmax[0] != minmax[0]) return;
    int32_t lows[V::W], highs[V::W];
    V::istore(lows, low);
    V::istore(highs, high);
    int32_t least = scalar_key(minmax[0]), greatest = scalar_key(minmax[1]);
    for (int lane = 0; lane < V::W; ++lane) {
      least = lows[lane] < least ? lows[lane] : least;
      greatest = highs[lane] > greatest ? highs[lane] : greatest;
    }
    const bool nan = least < scalar_key(-__builtin_inff()) || greatest > scalar_key(__builtin_inff());
    minmax[0] = nan ? __builtin_nanf("") : scalar_from_key(least);
    minmax[1] = nan ? __builtin_nanf("") : scalar_from_key(greatest);
  }
};

// 32 float64 lanes: lane l takes elements l, l + 32, ... of a leaf.
struct LeafSum {
  static constexpr int kGroups = 32 / V::W;
  V::D lanes[kGroups];

  void clear() {
    for (V::D& lane : lanes) lane = V::dzero();
  }

  // n elements that start at a multiple of 32 of the leaf; zeros beyond n up to a whole vector add nothing.
  void tile(const float* p, int64_t n) {
    V::D sums[kGroups];  // in registers
    memcpy(sums, lanes, sizeof sums);
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
      STA_UNROLL
      for (int g = 0; g < kGroups; ++g) sums[g] = V::dadd(sums[g], p + i + g * V::W);
    }
    for (int g = 0; i < n; ++g, i += V::W) sums[g] = V::dadd(sums[g], p + i);
    memcpy(lanes, sums, sizeof sums);
  }

  double result() const {
    double lane[32];
    for (int g = 0; g < kGroups; ++g) V::dstore(lane + g * V::W, lanes[g]);
    for (int width = 16; width; width /= 2)
      for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
    return lane[0];
  }
};

// Words of floats as signed integers: those of two bytes need no conversion to be compared, and fill twice as many
// lanes.
template <typename Word>
struct Words {
  typedef Word Vector __attribute__((vector_size(sizeof(V::I))));
  static constexpr int64_t kLanes = sizeof(V::I) / sizeof(Word);
  static constexpr int kSign = 8 * sizeof(Word) - 1;
  static constexpr Word kMagnitude = static_cast<Word>((1ull << kSign) - 1);

  // Calls take with n > 0 words, some of which it may see twice.
  template <typename Take>
  STA_INLINE_MEMBER static void each(const char* data, int64_t n, Take take) {
    constexpr auto kBytes = static_cast<int64_t>(sizeof(Word));
    Vector words;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      V::prefetch(data + i * kBytes + kAheadAlone);
      memcpy(&words, data + i * kBytes, sizeof words);
      take(words);
    }
    if (i == n) return;
    Word first;
    memcpy(&first, data, sizeof first);
    words = Vector{} + first;
    memcpy(&words, data + i * kBytes, static_cast<size_t>((n - i) * kBytes));
    take(words);
  }

  // Words, or vectors of them, to integers in the order of the floats, and back; magnitudes are in that order.
  template <bool kMagnitudes, typename T>
  STA_INLINE_MEMBER static void turn(T& words) {
    if constexpr (kMagnitudes) {
      words &= kMagnitude;
    } else {
      words ^= (words >> kSign) & kMagnitude;
    }
  }

  // The words of the least and the greatest of n > 0 floats, or of their magnitudes; one of them is NaN if any is.
  template <bool kMagnitudes>
  static void ends(const char* data, int64_t n, char* least_and_greatest) {
    Vector low = Vector{} + kMagnitude, high = ~low;
    each(data, n, [&](Vector words) __attribute__((always_inline)) {
      turn<kMagnitudes>(words);
      low = words < low ? words : low;
      high = words > high ? words : high;
    });
    Word found[2] = {low[0], high[0]};
    for (int64_t lane = 1; lane < kLanes; ++lane) {
      found[0] = low[lane] < found[0] ? low[lane] : found[0];
      found[1] = high[lane] > found[1] ? high[lane] : found[1];
    }
    for (Word& word : found) turn<kMagnitudes>(word);
    memcpy(least_and_greatest, found, sizeof found);
  }

  // Whether any of n > 0 floats has all bits of its exponent set.
  static bool any_nonfinite(const char* data, int64_t n, Word exponent) {
    Vector most = {};
    each(data, n, [&](Vector words) __attribute__((always_inline)) {
      words &= exponent;
      most = words > most ? words : most;
    });
    bool any = false;
    for (int64_t lane = 0; lane < kLanes; ++lane) any |= most[lane] == exponent;
    return any;
  }
};

// The stored values whose order tells that of an importance, or null where none tells, or not by their words.
static const Stream* ordered_by_words(const Source& source) {
  if (source.formula || source.measure == STA_LP_AMP) return nullptr;
  const Stream& stream = source.measure == STA_AMP ? source.theta : source.importance;
  return stream.layout || stream.dtype == STA_F64 ? nullptr : &stream;
}

// The ends of an importance over n elements, from those of what is stored: rounding a square keeps the order.
static const float* ends_by_words(const Source& source, const Stream& stream, int64_t begin, int64_t n, Arena arena) {
  const char* data = stream.data + begin * stream.itemsize;
  char words[2 * sizeof(float)];
  const bool squared = source.measure == STA_AMP;
  if (stream.dtype == STA_F32)
    squared ? Words<int32_t>::ends<true>(data, n, words) : Words<int32_t>::ends<false>(data, n, words);
  else
    squared ? Words<int16_t>::ends<true>(data, n, words) : Words<int16_t>::ends<false>(data, n, words);
  float *values = arena.take(), *room = arena.take();
  to_float(stream.dtype, words, values, 2);
  return measured(source.measure, values, values, 2, room);
}

// minmax, leaves: null, or one of each source; leaves where the sum of the leaf at begin goes, and begin is a multiple
// of STA_LEAF then.
static void range(int count, const Source* sources, int64_t begin, int64_t end, int64_t tile, float* scratch,
                  float* minmax, double* const* leaves) {
  const Arena arena(scratch, tile);
  Range seen[kTogether];
  if (const Stream* stream = leaves || count > 1 ? nullptr : ordered_by_words(*sources)) {
    seen->tile(ends_by_words(*sources, *stream, begin, end - begin, arena), 2);
    return seen->fold_into(minmax);
  }
  LeafSum sums[kTogether];
  for (int64_t leaf = begin; leaf < end; leaf += STA_LEAF) {
    const int64_t stop = end - leaf < STA_LEAF ? end : leaf + STA_LEAF;
    for (int i = 0; i < count; ++i) sums[i].clear();
    for (int64_t at = leaf; at < stop; at += tile) {
      const int64_t n = stop - at < tile ? stop - at : tile;
      for (int i = 0; i < count; ++i) {  // what the first has read, the others find in the nearest cache
        const float* values = read_source(sources[i], at, n, arena);
        if (minmax) seen[i].tile(values, n);
        if (leaves) sums[i].tile(values, n);
      }
    }
    for (int i = 0; leaves && i < count; ++i) leaves[i][(leaf - begin) / STA_LEAF] = sums[i].result();
  }
  for (int i = 0; minmax && i < count; ++i) seen[i].fold_into(minmax + 2 * i);
}

static bool any_nonfinite(const Stream& stream, int64_t begin, int64_t n) {
  const char* data = stream.data + begin * stream.itemsize;
  switch (stream.dtype) {
    case STA_F32: return Words<int32_t>::any_nonfinite(data, n, 0x7f800000);
    case STA_BF16: return Words<int16_t>::any_nonfinite(data, n, 0x7f80);
    case STA_F16: return Words<int16_t>::any_nonfinite(data, n, 0x7c00);
    default: return true;  // a double overflows before its exponent is full: only its float32 tells
  }
}

static int64_t first_nonfinite(const Stream& stream, int64_t begin, int64_t end, int64_t tile, float* scratch) {
  Arena arena(scratch, tile);
  float* raw = arena.take(2);
  float* room = arena.take();
  if (!stream.layout && !any_nonfinite(stream, begin, end - begin)) return -1;
  for (int64_t at = begin; at < end; at += tile) {
    const int64_t n = end - at < tile ? end - at : tile;
    const float* values = read_tile(stream, at, n, room, raw);
    for (int64_t i = 0; i < n; ++i)
      if (!(__builtin_fabsf(values[i]) <= 3.402823466e38f)) return at + i;
  }
  return -1;
}
