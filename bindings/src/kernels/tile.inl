// Tiles: every operand as float32, in whole vectors, whatever its dtype, layout and alignment.

STA_INLINE int64_t whole_vectors(int64_t n) { return (n + V::W - 1) / V::W * V::W; }

// Bytes ahead of a stream's position that are asked for. With a dozen streams the processor's own prefetchers lose
// track.
constexpr int64_t kAhead = 1024;
// The same for a thread that reads one stream: far enough to be past the page at which hardware prefetching stops.
constexpr int64_t kAheadAlone = 8192;

// Hands out scratch tiles of one thread.
struct Arena {
  float* next;
  int64_t pitch;
  Arena(float* scratch, int64_t tile) : next(scratch), pitch(tile_pitch(tile)) {}
  float* take(int64_t count = 1) {
    float* tile = next;
    next += count * pitch;
    return tile;
  }
};

template <typename Load>
STA_INLINE void convert_in(const char* src, int64_t itemsize, float* dst, int64_t n, Load load) {
  int64_t i = 0;
  for (; i + V::W <= n; i += V::W) {
    V::prefetch(src + i * itemsize + kAhead);
    V::store(dst + i, load(src + i * itemsize));
  }
  if (i < n) {
    alignas(64) char last[V::W * 8] = {};
    memcpy(last, src + i * itemsize, static_cast<size_t>((n - i) * itemsize));
    V::store(dst + i, load(last));
  }
}

// n elements of any dtype to float32, zeros up to whole vectors.
static void to_float(int32_t dtype, const char* src, float* dst, int64_t n) {
  switch (dtype) {
    case STA_F32:
      return convert_in(src, 4, dst, n, [](const char* p) __attribute__((always_inline)) {
        return V::load(reinterpret_cast<const float*>(p));
      });
    case STA_BF16:
      return convert_in(src, 2, dst, n, [](const char* p) __attribute__((always_inline)) { return V::load_bf16(p); });
    case STA_F16:
      return convert_in(src, 2, dst, n, [](const char* p) __attribute__((always_inline)) { return V::load_f16(p); });
    default:
      return convert_in(src, 8, dst, n, [](const char* p) __attribute__((always_inline)) { return V::load_f64(p); });
  }
}

// kAlign: bytes at which aligned() may be used instead of store().
template <int kAlign, typename Store, typename Aligned>
STA_INLINE void convert_out(const float* src, char* dst, int64_t itemsize, int64_t n, bool streaming, Store store,
                            Aligned aligned) {
  int64_t i = 0;
  const auto last = [&](int64_t from, int64_t count) {
    alignas(64) char packed[V::W * 8];
    store(packed, V::load(src + from));  // src holds whole vectors beyond its last element
    memcpy(dst + from * itemsize, packed, static_cast<size_t>(count * itemsize));
  };
  if (streaming && n >= 2 * V::W) {
    const int64_t head = (kAlign - reinterpret_cast<intptr_t>(dst) % kAlign) % kAlign;
    if (head % itemsize == 0) {
      if (head) last(0, head / itemsize);
      for (i = head / itemsize; i + V::W <= n; i += V::W) aligned(dst + i * itemsize, V::load(src + i));
    }
  }
  for (; i + V::W <= n; i += V::W) store(dst + i * itemsize, V::load(src + i));
  if (i < n) last(i, n - i);
}

// n float32 values, rounded once to any dtype. streaming: past the caches where the instruction set has such stores.
static void from_float(int32_t dtype, const float* src, char* dst, int64_t n, bool streaming) {
  switch (dtype) {
    case STA_F32:
      return convert_out<V::W * 4>(
          src, dst, 4, n, streaming,
          [](char* p, V::F a) __attribute__((always_inline)) { V::store(reinterpret_cast<float*>(p), a); },
          [](char* p, V::F a) __attribute__((always_inline)) { V::stream(p, a); });
    case STA_BF16:
      return convert_out<V::W * 2>(
          src, dst, 2, n, streaming, [](char* p, V::F a) __attribute__((always_inline)) { V::store_bf16(p, a); },
          [](char* p, V::F a) __attribute__((always_inline)) { V::stream_bf16(p, a); });
    case STA_F16:
      return convert_out<V::W * 2>(
          src, dst, 2, n, false, [](char* p, V::F a) __attribute__((always_inline)) { V::store_f16(p, a); },
          [](char* p, V::F a) __attribute__((always_inline)) { V::store_f16(p, a); });
    default:
      return convert_out<V::W * 8>(
          src, dst, 8, n, false, [](char* p, V::F a) __attribute__((always_inline)) { V::store_f64(p, a); },
          [](char* p, V::F a) __attribute__((always_inline)) { V::store_f64(p, a); });
  }
}

// Elements [begin, begin + n) as float32, in whole vectors: in place where they lie so already, else in tile.
// raw: room for n elements of 8 bytes.
static const float* read_tile(const Stream& stream, int64_t begin, int64_t n, float* tile, float* raw) {
  const char* src = stream.data + begin * stream.itemsize;
  if (stream.layout) {
    gather(stream, begin, n, reinterpret_cast<char*>(raw));
    src = reinterpret_cast<const char*>(raw);
  } else if (stream.dtype == STA_F32 && n % V::W == 0) {
    return reinterpret_cast<const float*>(src);  // unaligned at most: only V::load touches it
  }
  to_float(stream.dtype, src, tile, n);
  return tile;
}

static void write_tile(const Stream& stream, int64_t begin, int64_t n, const float* tile, float* raw, bool streaming) {
  if (stream.layout) {
    from_float(stream.dtype, tile, reinterpret_cast<char*>(raw), n, false);
    scatter(stream, begin, n, reinterpret_cast<const char*>(raw));
  } else {
    from_float(stream.dtype, tile, stream.data + begin * stream.itemsize, n, streaming);
  }
}

// A float64 output keeps the untouched float64 operand's own value where changed[i] == 0.
// own: the operand's raw values, read before the output (which may be the same memory) was written.
static void write_tile_keeping(const Stream& stream, int64_t begin, int64_t n, const float* tile, float* raw,
                               const double* own, const uint32_t* changed) {
  double* packed = reinterpret_cast<double*>(raw);
  from_float(STA_F64, tile, reinterpret_cast<char*>(raw), n, false);
  for (int64_t i = 0; i < n; ++i)
    if (!changed[i]) packed[i] = own[i];
  if (stream.layout) {
    scatter(stream, begin, n, reinterpret_cast<const char*>(raw));
  } else {
    memcpy(stream.data + begin * 8, packed, static_cast<size_t>(n) * 8);
  }
}

STA_INLINE void read_raw(const Stream& stream, int64_t begin, int64_t n, float* raw) {
  if (stream.layout) {
    gather(stream, begin, n, reinterpret_cast<char*>(raw));
  } else {
    memcpy(raw, stream.data + begin * stream.itemsize, static_cast<size_t>(n * stream.itemsize));
  }
}

// A task's importance from what is stored of it and from theta, both in whole vectors (eq. 21, 22).
STA_INLINE const float* measured(int32_t measure, const float* importance, const float* theta, int64_t n, float* tile) {
  if (measure == STA_LP) return importance;
  for (int64_t i = 0; i < n; i += V::W) {
    const V::F t = V::load(theta + i);
    const V::F square = V::mul(t, t);
    V::store(tile + i, measure == STA_AMP ? square : V::mul(V::load(importance + i), square));
  }
  return tile;
}
