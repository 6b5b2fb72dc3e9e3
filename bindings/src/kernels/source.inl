// What a statistic reduces, tile by tile: an importance, or the values of a formula.

// The dtype from which a formula can read base and models in registers: theirs, or, if they need to be converted first,
// that of the tiles.
static int32_t readable(const FormulaCall& call, int64_t n) {
  const int32_t dtype = call.models[0].dtype;
  const auto ready = [&](const Stream& stream) { return stream.dtype == dtype && !stream.layout; };
  bool all = dtype < kReadable && n % V::W == 0 && (!call.base || ready(*call.base));
  for (int j = 0; j < call.n_models; ++j) all = all && ready(call.models[j]);
  return all ? dtype : STA_F32;
}

// A formula's operands at elements [begin, begin + n), its working room and that of its result. Returns the dtype of
// base and models.
static int32_t read_formula(const FormulaCall& call, int64_t begin, int64_t n, Arena& arena, FormulaTile* t) {
  const int32_t dtype = readable(call, n);
  float* raw = arena.take(2);
  const auto read = [&](const Stream& stream, float* tile) {
    if (dtype != STA_F32) return const_cast<const char*>(stream.data + begin * stream.itemsize);
    return reinterpret_cast<const char*>(read_tile(stream, begin, n, tile, raw));
  };
  t->n = n;
  t->index = call.offset + begin;
  t->value = arena.take();
  float* base = arena.take();
  if (!call.base) memset(base, 0, static_cast<size_t>(whole_vectors(n)) * sizeof(float));
  t->base = call.base ? read(*call.base, base) : reinterpret_cast<const char*>(base);
  for (int j = 0; j < call.n_models; ++j) {
    t->model[j] = read(call.models[j], arena.take());
    if (call.importances) t->importance[j] = read_tile(call.importances[j], begin, n, arena.take(), raw);
  }
  t->pitch = arena.pitch;
  t->work = arena.take(call.n_models);
  return dtype;
}

// Elements [begin, begin + n), zeros up to whole vectors; they lie in place or in the arena, of which this is a copy.
static const float* read_source(const Source& source, int64_t begin, int64_t n, Arena arena) {
  if (source.formula) {
    FormulaTile t;
    const int32_t dtype = read_formula(*source.formula, begin, n, arena, &t);
    kFormulas[source.formula->kind].value[dtype](*source.formula, t);
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
