// Eq. 13-17: normalise, select by rank among the tasks at each position, accumulate the kept task vectors.

// x / divisor for one task. reciprocal = RN(1 / divisor), or 0 where the divisor is 0.
struct Norm {
  float shift, divisor, reciprocal;
};

// How a result leaves: float32 or bfloat16, through the caches or past them.
enum class Store { kFloat32, kFloat32Past, kBFloat16, kBFloat16Past };

// Where the elements of one step lie; which types the operands have is the kernel's business.
struct MergeTile {
  const void* importance[STA_MAX_TASKS];
  const void* model[STA_MAX_TASKS];
  const void* base;
  char* result;
  Store store;
  uint32_t* changed;  // null, or per element: was any task kept
};

STA_INLINE void put(const MergeTile& t, int64_t i, V::F value) {
  switch (t.store) {
    case Store::kFloat32: return V::store(reinterpret_cast<float*>(t.result) + i, value);
    case Store::kFloat32Past: return V::stream(t.result + i * 4, value);
    case Store::kBFloat16: return V::store_bf16(t.result + i * 2, value);
    case Store::kBFloat16Past: return V::stream_bf16(t.result + i * 2, value);
  }
}

STA_INLINE const float* floats(const void* p) { return static_cast<const float*>(p); }

struct MergeRule {
  int n_tasks, k, ties;
  Norm norm[STA_MAX_TASKS];
  const float* weights;
  float lambda;
  // Bits of the magnitudes between which (or at 0) three operations give the correctly rounded quotient for every task.
  uint32_t low, high;
  bool checks_low;  // false where no difference to the shifts can be below low
};

// The interval in which q0 = RN(x c), r = x - q0 d, q = RN(q0 + r c) is RN(x / d) (Markstein): c normal, r exact, q0
// neither subnormal nor infinite. tests/native proves the rest, that no quotient lies too near a rounding boundary,
// over all mantissas. An empty interval sends every vector through the division.
static void set_interval(MergeRule& rule) {
  float low = 0x1p-100f, high = 0x1p126f;
  for (int i = 0; i < rule.n_tasks; ++i) {
    const float d = rule.norm[i].divisor;
    if (d == 0) continue;  // the reciprocal is 0 then, and every finite quotient 0
    if (!(d >= 0x1p-100f && d <= 0x1p100f)) high = 0;
    low = d * 0x1p-124f > low ? d * 0x1p-124f : low;
    high = d * 0x1p124f < high ? d * 0x1p124f : high;
  }
  memcpy(&rule.low, &low, 4);
  memcpy(&rule.high, &high, 4);
  if (high <= low) rule.high = 0;
  // Two float32 numbers, neither below a positive shift, differ by nothing or by a unit in the shift's last place.
  rule.checks_low = false;
  for (int i = 0; i < rule.n_tasks; ++i)
    if (!(rule.norm[i].shift >= low * 0x1p24f)) rule.checks_low = true;
}

static MergeRule make_rule(const MergeCall& call) {
  MergeRule rule;
  rule.n_tasks = call.n_tasks;
  rule.k = call.k;
  rule.ties = call.ties;
  rule.weights = call.weights;
  rule.lambda = call.lambda;
  for (int i = 0; i < call.n_tasks; ++i) {
    const float divisor = call.normaliser[2 * i + 1];
    rule.norm[i] = {call.normaliser[2 * i], divisor, divisor == 0 ? 0.0f : 1.0f / divisor};
  }
  set_interval(rule);
  return rule;
}

STA_INLINE V::F nan_to_infinity(V::F a) { return V::min(a, V::set(__builtin_inff())); }

// The correctly rounded normalised importance, of x = importance - shift, for any operands.
STA_INLINE V::F normalise_exact(V::F x, const Norm& norm) {
  return norm.divisor == 0 ? V::mul(x, V::zero()) : V::div(x, V::set(norm.divisor));
}

// The same bits in three operations where the rule's interval allows.
template <class T>
STA_INLINE typename T::F normalise_fast(typename T::F x, const Norm& norm) {
  const auto c = T::set(norm.reciprocal);
  const auto q = T::mul(x, c);
  return T::fma(T::fnma(q, T::set(norm.divisor), x), c, q);
}

// How a step reads its operands: kVectors vectors of V::W elements at a time, the h-th by
// load<h>.
struct Float32Format {
  static constexpr int64_t kItem = 4;
  template <int h>
  STA_INLINE V::F load(const void* p, int64_t i) {
    return V::load(floats(p) + i);
  }
};

struct BFloat16Format {
  static constexpr int64_t kItem = 2;
  template <int h>
  STA_INLINE V::F load(const void* p, int64_t i) {
    return V::load_bf16(static_cast<const uint16_t*>(p) + i);
  }
};

// Even elements, then odd ones: one operation each to widen, where consecutive ones take two.
struct BFloat16Pairs {
  static constexpr int64_t kItem = 2;
  template <int h>
  STA_INLINE V::F load(const void* p, int64_t i) {
    const V::I raw = V::iload(static_cast<const uint16_t*>(p) + i);
    return V::from_bits(h ? V::iand(raw, V::iset(0xffff0000u)) : V::sll16(raw));
  }
};

// Whether element i, a multiple of V::W, begins another 64 bytes: asking twice for the same ones is work for nothing.
template <class Format>
STA_INLINE bool starts_line(int64_t i) {
  return i * Format::kItem % 64 < V::W * Format::kItem;
}

template <class Format>
STA_INLINE void ahead(const void* p, int64_t i) {
  V::prefetch(static_cast<const char*>(p) + i * Format::kItem + kAhead);
}

// base + lambda * sum, or the base's own bits where nothing was kept.
STA_INLINE V::F finish_vector(const MergeRule& rule, V::F base, V::F sum, V::M any) {
  if (rule.lambda != 1.0f) sum = V::mul(V::set(rule.lambda), sum);
  return V::select(any, V::add(base, sum), base);
}

// One vector: keeps what is strictly above the K-th smallest of N importances; N and K fixed, everything in registers.
template <int N, int K, class Weight, class Importance, int h>
STA_INLINE V::F merge_vector(const MergeRule& rule, const MergeTile& t, int64_t i, V::M valid, int64_t* counts,
                             V::M* changed) {
  V::F x[N], y[N];
  bool exact = !V::kHasFma;
  if constexpr (h == 0) {
    if (starts_line<Weight>(i)) {
      ahead<Weight>(t.base, i);
      STA_UNROLL
      for (int j = 0; j < N; ++j) ahead<Weight>(t.model[j], i);
    }
    STA_UNROLL
    for (int j = 0; j < N; ++j) ahead<Importance>(t.importance[j], i);
  }
  STA_UNROLL
  for (int j = 0; j < N; ++j)
    x[j] = V::sub(Importance::template load<h>(t.importance[j], i), V::set(rule.norm[j].shift));
  if constexpr (V::kHasFma) {
    V::I high = V::bits(x[0]);  // NaN, infinity and negative numbers are large ones
    STA_UNROLL
    for (int j = 1; j < N; ++j) high = V::umax(high, V::bits(x[j]));
    V::M outside = V::ult(V::iset(rule.high), high);
    if (rule.checks_low) {
      V::I low = V::iset(~0u);
      STA_UNROLL
      for (int j = 0; j < N; ++j) low = V::umin(low, V::iadd(V::bits(x[j]), V::iset(~0u)));  // 0 wraps: it is not small
      outside = V::mor(outside, V::ult(low, V::iset(rule.low - 1)));
    }
    exact = V::any(outside);
    if (__builtin_expect(!exact, 1)) {
      STA_UNROLL
      for (int j = 0; j < N; ++j) x[j] = y[j] = normalise_fast<V>(x[j], rule.norm[j]);
    }
  }
  if (__builtin_expect(exact, !V::kHasFma)) {
    STA_UNROLL
    for (int j = 0; j < N; ++j) {
      x[j] = normalise_exact(x[j], rule.norm[j]);
      y[j] = nan_to_infinity(x[j]);
    }
  }
  sort_lanes<N>(y);
  const V::F threshold = y[K - 1];
  const V::F base = Weight::template load<h>(t.base, i);
  V::F sum = V::zero();
  V::M any{};
  STA_UNROLL
  for (int j = 0; j < N; ++j) {
    const V::M mask = V::gt(x[j], threshold);
    V::F term = V::sub(Weight::template load<h>(t.model[j], i), base);
    if (rule.weights) term = V::mul(V::set(rule.weights[j]), term);
    sum = V::masked_add(sum, mask, term);
    any = j ? V::mor(any, mask) : mask;
    if (counts) counts[j] += V::popcount(V::mand(mask, valid));  // at once: there are too few mask registers to wait
  }
  if (counts) counts[N] += V::popcount(V::mandnot(any, valid));
  *changed = any;
  return finish_vector(rule, base, sum, any);
}

// n may end within a vector where the result goes to a tile.
template <int N, int K, class Weight, class Importance>
static void merge_fixed(const MergeRule& rule, const MergeTile& t, int64_t n, int64_t* counts) {
  for (int64_t i = 0; i < n; i += V::W) {
    const V::M valid = i + V::W <= n ? V::mtrue() : V::first(static_cast<int>(n - i));
    V::M any;
    put(t, i, merge_vector<N, K, Weight, Importance, 0>(rule, t, i, valid, counts, &any));
    if (t.changed) V::istore(t.changed + i, V::mask_to_int(any));
  }
}

// Bfloat16 from end to end, without a step through memory; n is a multiple of 2 W.
template <int N, int K>
static void merge_pairs(const MergeRule& rule, const MergeTile& t, int64_t n, int64_t* counts) {
  using Pairs = BFloat16Pairs;
  for (int64_t i = 0; i < n; i += 2 * V::W) {
    V::M any;
    const V::F even = merge_vector<N, K, Pairs, Pairs, 0>(rule, t, i, V::mtrue(), counts, &any);
    const V::F odd = merge_vector<N, K, Pairs, Pairs, 1>(rule, t, i, V::mtrue(), counts, &any);
    const V::I packed = V::interleave_bf16(even, odd);
    t.store == Store::kBFloat16Past ? V::istream(t.result + i * 2, packed) : V::istore(t.result + i * 2, packed);
  }
}

// Any number of tasks, any k, any treatment of ties.
static void merge_general(const MergeRule& rule, const MergeTile& t, int64_t n, int64_t* counts) {
  const int n_tasks = rule.n_tasks, k = rule.k, ties = rule.ties;
  V::F x[STA_MAX_TASKS], y[STA_MAX_TASKS];
  for (int64_t i = 0; i < n; i += V::W) {
    for (int j = 0; j < n_tasks; ++j) {
      x[j] = normalise_exact(V::sub(V::load(floats(t.importance[j]) + i), V::set(rule.norm[j].shift)), rule.norm[j]);
      y[j] = nan_to_infinity(x[j]);
    }
    // drop: above the k-th smallest. all, first: not below the (k+1)-th.
    const int rank = ties == STA_DROP ? k : k + 1;
    const bool selects = rank >= 1 && rank <= n_tasks;
    const V::F threshold = selects ? select_lanes(y, n_tasks, rank) : V::zero();
    V::I room = V::iset(static_cast<uint32_t>(n_tasks - k));
    if (ties == STA_FIRST && selects)
      for (int j = 0; j < n_tasks; ++j) room = V::iadd(room, V::mask_to_int(V::gt(nan_to_infinity(x[j]), threshold)));
    const V::F base = V::load(floats(t.base) + i);
    const V::M valid = i + V::W <= n ? V::mtrue() : V::first(static_cast<int>(n - i));
    const V::M none = V::first(0);
    V::F sum = V::zero();
    V::M any = none;
    for (int j = 0; j < n_tasks; ++j) {
      V::M mask = none;
      if (ties == STA_DROP) {
        mask = k == 0 ? V::eq(x[j], x[j]) : V::gt(x[j], threshold);
      } else if (selects && ties == STA_ALL) {
        mask = V::ge(x[j], threshold);
      } else if (selects) {
        const V::F value = nan_to_infinity(x[j]);
        const V::M fits = V::mand(V::eq(value, threshold), V::sgt(room, V::iset(0)));
        room = V::iadd(room, V::mask_to_int(fits));
        mask = V::mand(V::mor(V::gt(value, threshold), fits), V::eq(x[j], x[j]));
      }
      mask = V::mand(mask, valid);
      V::F term = V::sub(V::load(floats(t.model[j]) + i), base);
      if (rule.weights) term = V::mul(V::set(rule.weights[j]), term);
      sum = V::masked_add(sum, mask, term);
      any = V::mor(any, mask);
      if (counts) counts[j] += V::popcount(mask);
    }
    if (counts) counts[n_tasks] += V::popcount(V::mandnot(any, valid));
    put(t, i, finish_vector(rule, base, sum, any));
    if (t.changed) V::istore(t.changed + i, V::mask_to_int(any));
  }
}

using MergeTileFunction = void (*)(const MergeRule&, const MergeTile&, int64_t n, int64_t* counts);

// What kernels read and write themselves; every other mixture is converted to float32 tile by tile.
enum class Formats { kConverted, kFloat32, kBFloat16Weights, kBFloat16 };

template <int N, int K>
static MergeTileFunction pick_formats(Formats formats) {
  switch (formats) {
    case Formats::kBFloat16: return merge_pairs<N, K>;
    case Formats::kBFloat16Weights: return merge_fixed<N, K, BFloat16Format, Float32Format>;
    default: return merge_fixed<N, K, Float32Format, Float32Format>;
  }
}

template <int N, int K>
static MergeTileFunction pick_rank(int k, Formats formats) {
  if constexpr (K > N) {
    return merge_general;
  } else {
    return k == K ? pick_formats<N, K>(formats) : pick_rank<N, K + 1>(k, formats);
  }
}

template <int N>
static MergeTileFunction pick_tasks(int n_tasks, int k, Formats formats) {
  if constexpr (N > 8) {
    return merge_general;
  } else {
    return n_tasks == N ? pick_rank<N, 1>(k, formats) : pick_tasks<N + 1>(n_tasks, k, formats);
  }
}

STA_INLINE bool is_plain(const Stream& stream, int32_t dtype) { return stream.dtype == dtype && !stream.layout; }

static Formats formats_of(const MergeCall& call, bool fixed) {
  const auto all = [&](const Stream* streams, int32_t dtype) {
    for (int j = 0; j < call.n_tasks; ++j)
      if (!is_plain(streams[j], dtype)) return false;
    return true;
  };
  if (call.measure != STA_LP || !(is_plain(call.out, STA_F32) || is_plain(call.out, STA_BF16)))
    return Formats::kConverted;
  const bool wide = all(call.importances, STA_F32);
  if (wide && is_plain(call.base, STA_F32) && all(call.finetuned, STA_F32)) return Formats::kFloat32;
  if (!fixed || !is_plain(call.base, STA_BF16) || !all(call.finetuned, STA_BF16)) return Formats::kConverted;
  if (wide) return Formats::kBFloat16Weights;
  const bool narrow = all(call.importances, STA_BF16) && call.out.dtype == STA_BF16;
  return narrow ? Formats::kBFloat16 : Formats::kConverted;
}

// Elements [at, at + n), whole vectors, with nothing between the operands and the kernel.
static void merge_straight(const MergeCall& call, const MergeRule& rule, MergeTileFunction run, int64_t at, int64_t n,
                           int64_t* counts) {
  MergeTile t;
  t.changed = nullptr;
  t.base = call.base.data + at * call.base.itemsize;
  for (int j = 0; j < call.n_tasks; ++j) {
    t.model[j] = call.finetuned[j].data + at * call.finetuned[j].itemsize;
    t.importance[j] = call.importances[j].data + at * call.importances[j].itemsize;
  }
  t.result = call.out.data + at * call.out.itemsize;
  const bool past = call.streaming && reinterpret_cast<intptr_t>(t.result) % (V::W * 4) == 0;
  if (call.out.dtype == STA_F32)
    t.store = past ? Store::kFloat32Past : Store::kFloat32;
  else
    t.store = past ? Store::kBFloat16Past : Store::kBFloat16;
  run(rule, t, n, counts);
}

// Elements [at, at + n) through float32 tiles.
static void merge_converted(const MergeCall& call, const MergeRule& rule, MergeTileFunction run, int64_t at, int64_t n,
                            int64_t tile, float* scratch, int64_t* counts) {
  const bool keeps_double = call.out.dtype == STA_F64 && call.base.dtype == STA_F64;
  Arena arena(scratch, tile);
  float* raw = arena.take(2);
  float* own = arena.take(2);
  float* result = arena.take();
  MergeTile t;
  t.result = reinterpret_cast<char*>(result);
  t.store = Store::kFloat32;
  t.changed = keeps_double ? reinterpret_cast<uint32_t*>(arena.take()) : nullptr;
  t.base = read_tile(call.base, at, n, arena.take(), raw);
  for (int j = 0; j < call.n_tasks; ++j) {
    const float* model = read_tile(call.finetuned[j], at, n, arena.take(), raw);
    float* room = arena.take();
    const float* stored = call.measure == STA_AMP ? nullptr : read_tile(call.importances[j], at, n, room, raw);
    t.model[j] = model;
    t.importance[j] = measured(call.measure, stored, model, n, room);
  }
  if (keeps_double) read_raw(call.base, at, n, own);
  run(rule, t, n, counts);
  if (keeps_double) {
    write_tile_keeping(call.out, at, n, result, raw, reinterpret_cast<const double*>(own), t.changed);
  } else {
    write_tile(call.out, at, n, result, raw, call.streaming);
  }
}

static void merge(const MergeCall& call, int64_t begin, int64_t end, int64_t tile, float* scratch, int64_t* counts) {
  const MergeRule rule = make_rule(call);
  const bool fixed = call.ties == STA_DROP && call.k >= 1 && call.n_tasks <= 8;
  const auto pick = [&](Formats formats) {
    return fixed ? pick_tasks<1>(call.n_tasks, call.k, formats) : merge_general;
  };
  const Formats formats = formats_of(call, fixed);
  int64_t at = begin;
  if (formats != Formats::kConverted) {
    const int64_t step = formats == Formats::kBFloat16 ? 2 * V::W : V::W;
    const int64_t whole = (end - begin) / step * step;  // what is left would be read beyond the operands' end
    merge_straight(call, rule, pick(formats), at, whole, counts);
    at += whole;
  }
  for (; at < end; at += tile) {
    const int64_t n = end - at < tile ? end - at : tile;
    merge_converted(call, rule, pick(Formats::kConverted), at, n, tile, scratch, counts);
  }
  V::fence();
}
