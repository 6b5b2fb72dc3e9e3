// A formula's value, written; and the count of the values that equal one.

// base + delta, and the base's own value where delta is 0, which the mask tells.
STA_INLINE V::F sum_of(V::F base, V::F delta, V::M* none) {
  *none = V::eq(delta, V::zero());
  return V::select(*none, base, V::add(base, delta));
}

// In place. changed: null, or set where delta is not 0.
template <class Format>
static void add_delta(const char* base, float* delta, int64_t n, uint32_t* changed) {
  for (int64_t i = 0; i < n; i += V::W) {
    V::M none;
    V::store(delta + i, sum_of(Format::load(base + i * Format::kBytes), V::load(delta + i), &none));
    if (changed) V::istore(changed + i, V::mask_to_int(V::mandnot(none, V::mtrue())));
  }
}

// Straight to an output of the base's dtype, at whole vectors; it is aligned to them where it is streamed.
template <class Format>
static void write_sum(const char* base, const float* delta, int64_t n, char* out, bool streaming) {
  const bool past = Format::kStreams && streaming;
  for (int64_t i = 0; i < n; i += V::W) {
    V::M none;
    const int64_t at = i * Format::kBytes;
    const V::F sum = sum_of(Format::load(base + at), V::load(delta + i), &none);
    past ? Format::stream(out + at, sum) : Format::store(out + at, sum);
  }
}

constexpr decltype(&add_delta<Float32>) kAddDelta[kReadable] = STA_READING(add_delta);
constexpr decltype(&write_sum<Float32>) kWriteSum[kReadable] = STA_READING(write_sum);

static void evaluate(const EvaluateCall& call, int64_t begin, int64_t end, int64_t tile, float* scratch) {
  const FormulaCall& formula = call.formula;
  const Formula& entry = kFormulas[formula.kind];
  const bool adds = entry.delta && formula.base;
  const bool keeps_double = adds && call.out.dtype == STA_F64 && formula.base->dtype == STA_F64;
  FormulaTile t;
  for (int64_t at = begin; at < end; at += tile) {
    const int64_t n = end - at < tile ? end - at : tile;
    Arena arena(scratch, tile);
    float* raw = arena.take(2);
    uint32_t* changed = keeps_double ? reinterpret_cast<uint32_t*>(arena.take()) : nullptr;
    const int32_t dtype = read_formula(formula, at, n, arena, &t);
    entry.value[dtype](formula, t);
    char* out = call.out.data + at * call.out.itemsize;
    const bool ready = !call.streaming || reinterpret_cast<intptr_t>(out) % (V::W * call.out.itemsize) == 0;
    if (adds && ready && call.out.dtype == dtype && !call.out.layout && n % V::W == 0) {
      kWriteSum[dtype](t.base, t.value, n, out, call.streaming);
      continue;
    }
    if (adds) kAddDelta[dtype](t.base, t.value, n, changed);
    if (keeps_double) {
      float* own = arena.take(2);
      read_raw(*formula.base, at, n, own);
      write_tile_keeping(call.out, at, n, t.value, raw, reinterpret_cast<const double*>(own), changed);
    } else {
      write_tile(call.out, at, n, t.value, raw, call.streaming);
    }
  }
  V::fence();
}

// How many elements exceed the value; begin is a multiple of STA_LEAF.
static int64_t count_equal(const EqualCall& call, int64_t begin, int64_t end, int64_t tile, float* scratch) {
  const Arena arena(scratch, tile);
  const V::F value = V::set(call.value);
  int64_t greater = 0;
  for (int64_t leaf = begin; leaf < end; leaf += STA_LEAF) {
    const int64_t stop = end - leaf < STA_LEAF ? end : leaf + STA_LEAF;
    int64_t equal = 0;
    for (int64_t at = leaf; at < stop; at += tile) {
      const int64_t n = stop - at < tile ? stop - at : tile;
      const float* values = read_source(call.source, at, n, arena);
      for (int64_t i = 0; i < n; i += V::W) {
        const V::M valid = i + V::W <= n ? V::mtrue() : V::first(static_cast<int>(n - i));
        const V::F x = V::load(values + i);
        greater += V::popcount(V::mand(V::gt(x, value), valid));
        equal += V::popcount(V::mand(V::eq(x, value), valid));
      }
    }
    call.equal[leaf / STA_LEAF] = static_cast<uint32_t>(equal);
  }
  return greater;
}
