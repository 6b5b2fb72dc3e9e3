// What a statistic reduces, tile by tile: an importance, or the values of a formula.

// Operands at elements [begin, begin + n), each in a tile of its own.
struct Reader {
  int64_t begin, n;
  Arena* arena;
  float* raw = arena->take(2);

  // Null reads as zeros.
  const float* operator()(const Stream* stream) {
    float* tile = arena->take();
    if (stream) return read_tile(*stream, begin, n, tile, raw);
    memset(tile, 0, static_cast<size_t>(whole_vectors(n)) * sizeof(float));
    return tile;
  }
};

// The same for formulas that share some: these are read once.
struct SharedReader {
  Reader read;
  int count = 0;
  const Stream* streams[kOperandsTogether];
  const float* tiles[kOperandsTogether];

  const float* operator()(const Stream* stream) {
    for (int i = 0; i < count; ++i)
      if (streams[i] == stream || (stream && streams[i] && same_elements(*streams[i], *stream))) return tiles[i];
    streams[count] = stream;
    return tiles[count++] = read(stream);
  }
};

// A formula's operands at elements [begin, begin + n).
template <typename Read>
STA_INLINE void read_operands(const FormulaCall& call, int64_t begin, int64_t n, Read& read, FormulaTile* t) {
  t->n = n;
  t->index = call.offset + begin;
  t->base = read(call.base);
  for (int j = 0; j < call.n_models; ++j) {
    t->model[j] = read(call.models + j);
    if (call.importances) t->importance[j] = read(call.importances + j);
  }
}

// Working room of so many models, and that of a result.
static void take_room(Arena& arena, int n_models, FormulaTile* t) {
  t->value = arena.take();
  t->pitch = arena.pitch;
  t->work = arena.take(n_models);
}

static void read_formula(const FormulaCall& call, int64_t begin, int64_t n, Arena& arena, FormulaTile* t) {
  take_room(arena, call.n_models, t);
  Reader read{begin, n, &arena};
  read_operands(call, begin, n, read, t);
}

// A formula's values, zeros up to whole vectors.
static const float* evaluated(const FormulaCall& call, const FormulaTile& t) {
  kFormulas[call.kind].value(call, t);
  for (int64_t i = t.n; i < whole_vectors(t.n); ++i) t.value[i] = 0;
  return t.value;
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
    return evaluated(*source.formula, t);
  }
  float* raw = arena.take(2);
  float *room = arena.take(), *other = arena.take();
  const float* importance = source.measure == STA_AMP ? nullptr : read_tile(source.importance, begin, n, room, raw);
  if (source.measure == STA_LP) return importance;
  return measured(source.measure, importance, read_tile(source.theta, begin, n, other, raw), n, room);
}

// Calls take(i, values) for each of some sources: one, or formulas that share operands.
template <typename Take>
STA_INLINE void read_sources(int count, const Source* sources, int64_t begin, int64_t n, Arena arena, Take take) {
  if (count == 1) return take(0, read_source(*sources, begin, n, arena));
  int most = 0;
  for (int i = 0; i < count; ++i) most = sources[i].formula->n_models > most ? sources[i].formula->n_models : most;
  FormulaTile t;
  take_room(arena, most, &t);
  SharedReader read{{begin, n, &arena}};
  for (int i = 0; i < count; ++i) {
    read_operands(*sources[i].formula, begin, n, read, &t);
    take(i, evaluated(*sources[i].formula, t));
  }
}

static void values(const Source& source, int64_t begin, int64_t end, int64_t tile, float* scratch, float* out) {
  const Arena arena(scratch, tile);
  for (int64_t at = begin; at < end; at += tile) {
    const int64_t n = end - at < tile ? end - at : tile;
    memcpy(out + (at - begin), read_source(source, at, n, arena), static_cast<size_t>(n) * sizeof(float));
  }
}
