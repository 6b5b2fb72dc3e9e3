// A formula's value, written; and the count of the values that equal one.

// base + delta, and the base's own value where delta is 0. changed: null, or set where it is not.
static void add_delta(const float* base, const float* delta, int64_t n, float* result, uint32_t* changed) {
  for (int64_t i = 0; i < n; i += V::W) {
    const V::F own = V::load(base + i), d = V::load(delta + i);
    const V::M none = V::eq(d, V::zero());
    V::store(result + i, V::select(none, own, V::add(own, d)));
    if (changed) V::istore(changed + i, V::mask_to_int(V::mandnot(none, V::mtrue())));
  }
}

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
    read_formula(formula, at, n, arena, &t);
    entry.value(formula, t);
    if (adds) add_delta(t.base, t.value, n, t.value, changed);
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
