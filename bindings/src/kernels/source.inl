// What a statistic reduces, tile by tile: an importance, or the values of a formula.

// A formula's operands at elements [begin, begin + n), its working room and that of its result.
static void read_formula(const FormulaCall& call, int64_t begin, int64_t n, Arena& arena, FormulaTile* t) {
  float* raw = arena.take(2);
  t->n = n;
  t->index = call.offset + begin;
  t->value = arena.take();
  float* base = arena.take();
  if (call.base) {
    t->base = read_tile(*call.base, begin, n, base, raw);
  } else {
    memset(base, 0, static_cast<size_t>(whole_vectors(n)) * sizeof(float));
    t->base = base;
  }
  for (int j = 0; j < call.n_models; ++j) {
    t->model[j] = read_tile(call.models[j], begin, n, arena.take(), raw);
    if (call.importances) t->importance[j] = read_tile(call.importances[j], begin, n, arena.take(), raw);
  }
  t->pitch = arena.pitch;
  t->work = arena.take(call.n_models);
}

// |model - base| of bfloat16, converted in registers: what order statistics of large models are of.
static const float* distances(const FormulaCall& call, int64_t begin, int64_t n, Arena& arena) {
  float* result = arena.take();
  const char *base = call.base->data + begin * 2, *model = call.models[0].data + begin * 2;
  int64_t i = 0;
  for (; i + V::W <= n; i += V::W) {
    V::prefetch(base + i * 2 + kAhead);
    V::prefetch(model + i * 2 + kAhead);
    V::store(result + i, V::abs(V::sub(V::load_bf16(model + i * 2), V::load_bf16(base + i * 2))));
  }
  if (i < n) {
    alignas(64) char last[2][V::W * 2] = {};
    const auto left = static_cast<size_t>(n - i) * 2;
    memcpy(last[0], model + i * 2, left);
    memcpy(last[1], base + i * 2, left);
    V::store(result + i, V::abs(V::sub(V::load_bf16(last[0]), V::load_bf16(last[1]))));
  }
  return result;
}

static bool are_distances(const FormulaCall& call) {
  const auto plain = [](const Stream& stream) { return !stream.layout && stream.dtype == STA_BF16; };
  return kFormulas[call.kind].value == distance && call.base && plain(*call.base) && plain(call.models[0]);
}

// Elements [begin, begin + n), zeros up to whole vectors; they lie in place or in the arena, of which this is a copy.
static const float* read_source(const Source& source, int64_t begin, int64_t n, Arena arena) {
  if (source.formula && are_distances(*source.formula)) return distances(*source.formula, begin, n, arena);
  if (source.formula) {
    FormulaTile t;
    read_formula(*source.formula, begin, n, arena, &t);
    kFormulas[source.formula->kind].value(*source.formula, t);
    for (int64_t i = n; i < whole_vectors(n); ++i) t.value[i] = 0;
    return t.value;
  }
  float* raw = arena.take(2);
  float *room = arena.take(), *other = arena.take();
  const float* importance = source.measure == STA_AMP ? nullptr : read_tile(source.importance, begin, n, room, raw);
  if (source.measure == STA_LP) return importance;
  return measured(source.measure, importance, read_tile(source.theta, begin, n, other, raw), n, room);
}

static void values(const Source& source, int64_t begin, int64_t end, int64_t tile, float* scratch, float* out) {
  const Arena arena(scratch, tile);
  for (int64_t at = begin; at < end; at += tile) {
    const int64_t n = end - at < tile ? end - at : tile;
    memcpy(out + (at - begin), read_source(source, at, n, arena), static_cast<size_t>(n) * sizeof(float));
  }
}
