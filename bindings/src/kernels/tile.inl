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

// How a vector of elements is read and written, by their dtype; rounded once. stream(): past the caches where the
// instruction set has such stores, at whole vectors' addresses; where kStreams is not set, it is an ordinary store.
struct Float32 {
  static constexpr int64_t kBytes = 4;
  static constexpr bool kStreams = true;
  STA_INLINE_MEMBER static V::F load(const char* p) { return V::load(reinterpret_cast<const float*>(p)); }
  STA_INLINE_MEMBER static void store(char* p, V::F a) { V::store(reinterpret_cast<float*>(p), a); }
  STA_INLINE_MEMBER static void stream(char* p, V::F a) { V::stream(p, a); }
};
struct BFloat16 {
  static constexpr int64_t kBytes = 2;
  static constexpr bool kStreams = true;
  STA_INLINE_MEMBER static V::F load(const char* p) { return V::load_bf16(p); }
  STA_INLINE_MEMBER static void store(char* p, V::F a) { V::store_bf16(p, a); }
  STA_INLINE_MEMBER static void stream(char* p, V::F a) { V::stream_bf16(p, a); }
};
struct Float16 {
  static constexpr int64_t kBytes = 2;
  static constexpr bool kStreams = false;
  STA_INLINE_MEMBER static V::F load(const char* p) { return V::load_f16(p); }
  STA_INLINE_MEMBER static void store(char* p, V::F a) { V::store_f16(p, a); }
  STA_INLINE_MEMBER static void stream(char* p, V::F a) { store(p, a); }
};
struct Float64 {
  static constexpr int64_t kBytes = 8;
  static constexpr bool kStreams = false;
  STA_INLINE_MEMBER static V::F load(const char* p) { return V::load_f64(p); }
  STA_INLINE_MEMBER static void store(char* p, V::F a) { V::store_f64(p, a); }
  STA_INLINE_MEMBER static void stream(char* p, V::F a) { store(p, a); }
};

// Bytes from p to where a vector may be streamed to.
template <class Format>
STA_INLINE int64_t until_aligned(const char* p) {
  constexpr int64_t kAlign = V::W * Format::kBytes;
  return (kAlign - reinterpret_cast<intptr_t>(p) % kAlign) % kAlign;
}

template <class Format>
static void convert_in(const char* src, float* dst, int64_t n) {
  int64_t i = 0;
  for (; i + V::W <= n; i += V::W) {
    V::prefetch(src + i * Format::kBytes + kAhead);
    V::store(dst + i, Format::load(src + i * Format::kBytes));
  }
  if (i < n) {
    alignas(64) char last[V::W * Format::kBytes] = {};
    memcpy(last, src + i * Format::kBytes, static_cast<size_t>((n - i) * Format::kBytes));
    V::store(dst + i, Format::load(last));
  }
}

// n elements of any dtype to float32, zeros up to whole vectors.
static void to_float(int32_t dtype, const char* src, float* dst, int64_t n) {
  switch (dtype) {
    case STA_F32: return convert_in<Float32>(src, dst, n);
    case STA_BF16: return convert_in<BFloat16>(src, dst, n);
    case STA_F16: return convert_in<Float16>(src, dst, n);
    default: return convert_in<Float64>(src, dst, n);
  }
}

template <class Format>
static void convert_out(const float* src, char* dst, int64_t n, bool streaming) {
  int64_t i = 0;
  const auto last = [&](int64_t from, int64_t count) {
    alignas(64) char packed[V::W * Format::kBytes];
    Format::store(packed, V::load(src + from));  // src holds whole vectors beyond its last element
    memcpy(dst + from * Format::kBytes, packed, static_cast<size_t>(count * Format::kBytes));
  };
  if (Format::kStreams && streaming && n >= 2 * V::W) {
    const int64_t head = until_aligned<Format>(dst);
    if (head % Format::kBytes == 0) {
      if (head) last(0, head / Format::kBytes);
      for (i = head / Format::kBytes; i + V::W <= n; i += V::W)
        Format::stream(dst + i * Format::kBytes, V::load(src + i));
    }
  }
  for (; i + V::W <= n; i += V::W) Format::store(dst + i * Format::kBytes, V::load(src + i));
  if (i < n) last(i, n - i);
}

// n float32 values, rounded once to any dtype. streaming: past the caches where the instruction set has such stores.
static void from_float(int32_t dtype, const float* src, char* dst, int64_t n, bool streaming) {
  switch (dtype) {
    case STA_F32: return convert_out<Float32>(src, dst, n, streaming);
    case STA_BF16: return convert_out<BFloat16>(src, dst, n, streaming);
    case STA_F16: return convert_out<Float16>(src, dst, n, streaming);
    default: return convert_out<Float64>(src, dst, n, streaming);
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
