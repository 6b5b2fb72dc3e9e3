// Sums of sparsified task vectors, with or without an elected sign: TIES, DARE, Breadcrumbs, DELLA.
//
// variant: gate, elects, normalises. shared: lambda, divisor, zero sign. per_model: weight, scale, upper threshold,
// lower threshold. integers: seed, tensor; per model: upper cut, lower cut, 2^32 density, task.

enum class Gate { kAll, kBand, kRandom, kMask };
enum class Sparse { kSum, kSign };

static bool has_gate(const FormulaCall& call) {
  const int64_t gate = call.variant[0];
  return gate >= 0 && gate <= 3 && (gate != static_cast<int64_t>(Gate::kMask) || call.importances);
}

// Greater than the threshold, or equal to it; equal ones only among the next `before` elements.
STA_INLINE V::M above(V::F magnitude, V::F threshold, int64_t before) {
  V::M mask = V::gt(magnitude, threshold);
  if (before > 0)
    mask =
        V::mor(mask, V::mand(V::eq(magnitude, threshold), V::first(static_cast<int>(before < V::W ? before : V::W))));
  return mask;
}

// Elements of a tile before a cut, if it is not so far away that counting them would overflow.
STA_INLINE int64_t before_cut(int64_t cut, const FormulaTile& t) { return cut <= t.index ? 0 : cut - t.index; }

// A task's parameters over one tile.
struct SparseTask {
  float weight, scale, upper, lower;
  int64_t upper_cut, lower_cut;  // elements of the tile before them
  const uint8_t* drawn;          // a bit for each element: whether its draw keeps it
};

// Where a tile's working room has a task's bits.
STA_INLINE uint8_t* bits_of(const FormulaTile& t, int j) { return reinterpret_cast<uint8_t*>(t.work + j * t.pitch); }

template <Gate kGate>
static SparseTask sparse_task(const FormulaCall& call, const FormulaTile& t, int j) {
  const float* model = call.of_model(j);
  const int64_t* integers = call.integers + 2 + 4 * j;
  return {model[0],     model[1], model[2], model[3], before_cut(integers[0], t), before_cut(integers[1], t),
          bits_of(t, j)};
}

// Whether any magnitude is above the upper threshold.
STA_INLINE bool is_bounded(const SparseTask& task) { return task.upper != __builtin_inff() || task.upper_cut > 0; }

template <Gate kGate>
STA_INLINE V::M passes(const SparseTask& task, bool bounded, int64_t i, V::F tau, V::F mask) {
  if constexpr (kGate == Gate::kBand) {
    const V::F magnitude = V::abs(tau);
    const V::M large = above(magnitude, V::set(task.lower), task.lower_cut - i);
    return bounded ? V::mandnot(above(magnitude, V::set(task.upper), task.upper_cut - i), large) : large;
  } else if constexpr (kGate == Gate::kRandom) {
    uint16_t bits;
    memcpy(&bits, task.drawn + i / 8, sizeof bits);
    return V::lanes(static_cast<uint32_t>(bits >> (i % 8)));
  } else if constexpr (kGate == Gate::kMask) {
    return V::mandnot(V::eq(mask, V::zero()), V::mtrue());
  } else {
    return V::mtrue();
  }
}

// Sign of a sum; zero_sign where that is 0 or NaN.
STA_INLINE V::F elect(V::F total, V::F zero_sign) {
  return V::select(V::gt(total, V::zero()), V::set(1), V::select(lt(total, V::zero()), V::set(-1), zero_sign));
}

template <class Format, Gate kGate, Sparse kResult, bool kElects, class Models>
static void sparse_tile(const FormulaCall& call, const FormulaTile& t) {
  const bool normalises = call.variant[2] != 0, divides = call.shared[1] != 0 && call.shared[1] != 1;
  const bool decides = call.shared[2] < 0 || call.shared[2] > 0;  // an election whose sum is 0
  const V::F lambda = V::set(call.shared[0]), divisor = V::set(call.shared[1]), zero_sign = V::set(call.shared[2]);
  SparseTask tasks[Models::kRoom];
  bool bounded = false, scales = kGate == Gate::kRandom;
  for (int j = 0; j < Models::of(call); ++j) {
    tasks[j] = sparse_task<kGate>(call, t, j);
    bounded |= is_bounded(tasks[j]);
    scales |= tasks[j].scale != 1;
  }
  each_vector(t.n, [&](int64_t i) STA_INLINE_STEP {
    const int n_models = Models::of(call);  // a constant only within
    const V::F base = fetch<Format>(t.base, i);
    V::F terms[Models::kRoom], total = V::zero();
    STA_UNROLL
    for (int j = 0; j < n_models; ++j) {
      V::F tau = tau_of<Format>(t, j, i, base), mask = tau;
      if constexpr (kGate == Gate::kMask) {
        mask = fetch(t.importance[j], i);
        tau = V::mul(mask, tau);
      }
      const V::M kept = passes<kGate>(tasks[j], bounded, i, tau, mask);
      if (scales) tau = V::mul(V::set(tasks[j].scale), tau);
      terms[j] = only(kept, V::mul(V::set(tasks[j].weight), tau));
      total = V::add(total, terms[j]);
    }
    if constexpr (kResult == Sparse::kSign) {
      V::store(t.value + i, elect(total, zero_sign));
    } else {
      if constexpr (kElects) {
        const V::M positive = V::gt(total, V::zero()), negative = lt(total, V::zero());
        const V::M falls = call.shared[2] < 0 ? V::mandnot(positive, V::mtrue()) : negative;
        // To the elected side, which is then above 0.
        const V::I turned = V::iselect(falls, V::iset(0x80000000u), V::iset(0));
        V::F weights = V::zero();
        total = V::zero();
        STA_UNROLL
        for (int j = 0; j < n_models; ++j) {
          const V::M agrees = V::gt(V::from_bits(V::ixor(V::bits(terms[j]), turned)), V::zero());
          total = V::masked_add(total, agrees, terms[j]);
          weights = V::masked_add(weights, agrees, V::set(tasks[j].weight));
        }
        if (normalises) total = quotient(total, weights);
        if (!decides) total = only(V::mor(positive, negative), total);
      } else if (divides) {
        total = V::div(total, divisor);
      }
      V::store(t.value + i, V::mul(lambda, total));
    }
  });
}

template <class Format, Gate kGate, Sparse kResult>
STA_INLINE void sparse_gated(const FormulaCall& call, const FormulaTile& t) {
  counted<kResult == Sparse::kSum ? 4 : 0>(call, [&](auto models) {
    using Models = decltype(models);
    if constexpr (kResult == Sparse::kSum)
      if (call.variant[1]) return sparse_tile<Format, kGate, kResult, true, Models>(call, t);
    sparse_tile<Format, kGate, kResult, false, Models>(call, t);
  });
}

// What the draws of a task keep, as a bit for each element.
struct DrawnBits {
  uint32_t task, high, low, every;  // kept where the draw is below high << 16 | low, or all of them; high stands twice
  uint8_t* bits;

  DrawnBits() = default;
  DrawnBits(int64_t kept, uint32_t task, uint8_t* bits)
      : task(task),
        high((static_cast<uint32_t>(kept >> 16) & 0xffff) * 0x10001),
        low(static_cast<uint32_t>(kept) & 0xffff),
        every(kept >> 32 ? ~0u : 0),
        bits(bits) {}

  // Of the 2 W elements from `index` on, whose draws have those high halves.
  STA_INLINE_MEMBER uint32_t keeps(const Philox& philox, int64_t index, V::I halves) const {
    uint32_t kept = V::below16(halves, V::iset(high)) | every;
    if (low) {
      const uint32_t undecided = V::equal16(halves, V::iset(high));
      if (__builtin_expect(undecided != 0, 0)) kept |= decide(philox, index, undecided);
    }
    return kept;
  }

  // Of those whose high half equals the limit's: the low one decides.
  __attribute__((noinline)) uint32_t decide(const Philox& philox, int64_t index, uint32_t undecided) const {
    uint32_t kept = 0;
    for (; undecided; undecided &= undecided - 1) {
      const int lane = __builtin_ctz(undecided);
      kept |= static_cast<uint32_t>(philox.draw(Half::kLow, task, index + lane) < low) << lane;
    }
    return kept;
  }
};

// Asks for 4 W elements from i on.
template <class Format>
STA_INLINE void ask(const char* operand, int64_t i) {
  STA_UNROLL
  for (int64_t k = 0; k < 4 * V::W * Format::kBytes; k += 64) V::prefetch(operand + i * Format::kBytes + k);
}

// What the draws of all tasks keep, into the tile's working room.
template <class Format>
static void draw_bits(const FormulaCall& call, const FormulaTile& t) {
  const Philox philox(static_cast<uint64_t>(call.integers[0]), static_cast<uint32_t>(call.integers[1]));
  DrawnBits tasks[STA_MAX_TASKS];
  uint32_t numbers[STA_MAX_TASKS];
  for (int j = 0; j < call.n_models; ++j) {
    numbers[j] = static_cast<uint32_t>(call.integers[5 + 4 * j]);
    tasks[j] = DrawnBits(call.integers[4 + 4 * j], numbers[j], bits_of(t, j));
  }
  const int64_t skipped = t.index % Philox::kBlock, index = t.index - skipped, n = t.n + skipped;
  draw(philox, Half::kHigh, numbers, call.n_models, index, n, [&](int j, int64_t i, V::I front, V::I back) {
    // Drawing takes longer than reading: what is read next is asked for meanwhile.
    ask<Format>(t.model[j], i);
    if (j == 0) ask<Format>(t.base, i);
    const uint64_t bits = tasks[j].keeps(philox, index + i, front) |
                          static_cast<uint64_t>(tasks[j].keeps(philox, index + i + 2 * V::W, back)) << (2 * V::W);
    memcpy(tasks[j].bits + i / 8, &bits, V::W / 2);
  });
  if (skipped)
    for (int j = 0; j < call.n_models; ++j)
      for (int64_t byte = 0; byte * 8 < t.n; ++byte) {
        uint16_t bits;
        memcpy(&bits, tasks[j].bits + byte, sizeof bits);
        tasks[j].bits[byte] = static_cast<uint8_t>(bits >> skipped);
      }
}

// Calls body with one part of a tile after the other, whose draws are then in its working room.
template <class Format, typename Body>
STA_INLINE void each_drawn(const FormulaCall& call, const FormulaTile& t, Body body) {
  constexpr int64_t kPart = 512;
  FormulaTile part = t;
  for (int64_t at = 0; at < t.n; at += kPart) {
    part.n = t.n - at < kPart ? t.n - at : kPart;
    draw_bits<Format>(call, part);
    body(part);
    part.index += kPart;
    part.base += kPart * Format::kBytes;
    part.value += kPart;
    for (int j = 0; j < call.n_models; ++j) part.model[j] += kPart * Format::kBytes;
  }
}

template <class Format, Sparse kResult>
static void sparse_sum(const FormulaCall& call, const FormulaTile& t) {
  switch (static_cast<Gate>(call.variant[0])) {
    case Gate::kAll: return sparse_gated<Format, Gate::kAll, kResult>(call, t);
    case Gate::kBand: return sparse_gated<Format, Gate::kBand, kResult>(call, t);
    case Gate::kRandom:
      return each_drawn<Format>(
          call, t, [&](const FormulaTile& part) { sparse_gated<Format, Gate::kRandom, kResult>(call, part); });
    case Gate::kMask: return sparse_gated<Format, Gate::kMask, kResult>(call, t);
  }
}

template <class Format, Gate kGate>
static void sparse_distance_tile(const FormulaCall& call, const FormulaTile& t) {
  const SparseTask task = sparse_task<kGate>(call, t, 0);
  const bool bounded = is_bounded(task);
  each_vector(t.n, [&](int64_t i) STA_INLINE_STEP {
    const V::F tau = only_tau<Format>(t, i);
    const V::F mask = kGate == Gate::kMask ? fetch(t.importance[0], i) : tau;
    V::store(t.value + i, only(passes<kGate>(task, bounded, i, tau, mask), V::abs(tau)));
  });
}

template <class Format>
static void sparse_distance(const FormulaCall& call, const FormulaTile& t) {
  switch (static_cast<Gate>(call.variant[0])) {
    case Gate::kAll: return sparse_distance_tile<Format, Gate::kAll>(call, t);
    case Gate::kBand: return sparse_distance_tile<Format, Gate::kBand>(call, t);
    case Gate::kRandom:
      return each_drawn<Format>(
          call, t, [&](const FormulaTile& part) { sparse_distance_tile<Format, Gate::kRandom>(call, part); });
    case Gate::kMask: return sparse_distance_tile<Format, Gate::kMask>(call, t);
  }
}

template <class Format>
static void distance(const FormulaCall&, const FormulaTile& t) {
  each_vector(t.n, [&](int64_t i) STA_INLINE_STEP { V::store(t.value + i, V::abs(only_tau<Format>(t, i))); });
}
