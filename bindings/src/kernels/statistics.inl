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

  LeafSum() {
    for (int g = 0; g < kGroups; ++g) lanes[g] = V::dzero();
  }

  // n elements that start at a multiple of 32 of the leaf; zeros beyond n up to a whole vector add nothing.
  void tile(const float* p, int64_t n) {
    for (int64_t i = 0; i < n; i += 32)
      for (int g = 0; g < kGroups; ++g)
        if (i + g * V::W < n) lanes[g] = V::dadd(lanes[g], V::load(p + i + g * V::W));
  }

  double result() const {
    double lane[32];
    for (int g = 0; g < kGroups; ++g) V::dstore(lane + g * V::W, lanes[g]);
    for (int width = 16; width; width /= 2)
      for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
    return lane[0];
  }
};

// leaves: null, or where the sum of the leaf at begin goes; begin is a multiple of STA_LEAF then.
static void range(const Source& source, int64_t begin, int64_t end, int64_t tile, float* scratch, float* minmax,
                  double* leaves) {
  const Arena arena(scratch, tile);
  Range seen;
  for (int64_t leaf = begin; leaf < end; leaf += STA_LEAF) {
    const int64_t stop = end - leaf < STA_LEAF ? end : leaf + STA_LEAF;
    LeafSum sum;
    for (int64_t at = leaf; at < stop; at += tile) {
      const int64_t n = stop - at < tile ? stop - at : tile;
      const float* values = read_source(source, at, n, arena);
      seen.tile(values, n);
      if (leaves) sum.tile(values, n);
    }
    if (leaves) leaves[(leaf - begin) / STA_LEAF] = sum.result();
  }
  seen.fold_into(minmax);
}

// Whether any of n words has all of its exponent's bits set.
template <typename Word>
STA_INLINE bool any_nonfinite(const char* data, int64_t n, Word exponent) {
  constexpr int64_t kLanes = 64 / sizeof(Word);
  typedef Word Words __attribute__((vector_size(64)));
  Words found = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Words words;
    memcpy(&words, data + i * static_cast<int64_t>(sizeof(Word)), sizeof words);
    found |= static_cast<Words>((words & exponent) == exponent);
  }
  Word any = 0;
  for (int lane = 0; lane < kLanes; ++lane) any |= found[lane];
  for (; i < n; ++i) {
    Word word;
    memcpy(&word, data + i * static_cast<int64_t>(sizeof(Word)), sizeof word);
    any |= (word & exponent) == exponent;
  }
  return any != 0;
}

static bool any_nonfinite(const Stream& stream, int64_t begin, int64_t n) {
  const char* data = stream.data + begin * stream.itemsize;
  switch (stream.dtype) {
    case STA_F32: return any_nonfinite<uint32_t>(data, n, 0x7f800000);
    case STA_BF16: return any_nonfinite<uint16_t>(data, n, 0x7f80);
    case STA_F16: return any_nonfinite<uint16_t>(data, n, 0x7c00);
    default: return true;  // a double overflows before its exponent is full: only its float32 tells
  }
}

static int64_t first_nonfinite(const Stream& stream, int64_t begin, int64_t end, int64_t tile, float* scratch) {
  Arena arena(scratch, tile);
  float* raw = arena.take(2);
  float* room = arena.take();
  for (int64_t at = begin; at < end; at += tile) {
    const int64_t n = end - at < tile ? end - at : tile;
    if (!stream.layout && !any_nonfinite(stream, at, n)) continue;
    const float* values = read_tile(stream, at, n, room, raw);
    for (int64_t i = 0; i < n; ++i)
      if (!(__builtin_fabsf(values[i]) <= 3.402823466e38f)) return at + i;
  }
  return -1;
}
