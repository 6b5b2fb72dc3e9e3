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
  uint32_t kept;
  bool keeps_every_draw;
  const uint32_t* draws;
};

template <Gate kGate>
static SparseTask sparse_task(const FormulaCall& call, const FormulaTile& t, int j) {
  const float* model = call.of_model(j);
  const int64_t* integers = call.integers + 2 + 4 * j;
  SparseTask task{model[0],
                  model[1],
                  model[2],
                  model[3],
                  before_cut(integers[0], t),
                  before_cut(integers[1], t),
                  static_cast<uint32_t>(integers[2]),
                  integers[2] > 0xffffffff,
                  nullptr};
  if (kGate == Gate::kRandom)
    task.draws =
        draws(static_cast<uint64_t>(call.integers[0]), static_cast<uint32_t>(call.integers[1]),
              static_cast<uint32_t>(integers[3]), t.index, t.n, reinterpret_cast<uint32_t*>(t.work + j * t.pitch));
  return task;
}

template <Gate kGate>
STA_INLINE V::M passes(const SparseTask& task, int64_t i, V::F tau, V::F mask) {
  if constexpr (kGate == Gate::kBand) {
    const V::F magnitude = V::abs(tau);
    return V::mandnot(above(magnitude, V::set(task.upper), task.upper_cut - i),
                      above(magnitude, V::set(task.lower), task.lower_cut - i));
  } else if constexpr (kGate == Gate::kRandom) {
    const V::M drawn = V::ult(V::iload(task.draws + i), V::iset(task.kept));
    return task.keeps_every_draw ? V::mtrue() : drawn;
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

template <Gate kGate, Sparse kResult, bool kElects, class Models>
static void sparse_tile(const FormulaCall& call, const FormulaTile& t) {
  const bool normalises = call.variant[2] != 0, divides = call.shared[1] != 0 && call.shared[1] != 1;
  const V::F lambda = V::set(call.shared[0]), divisor = V::set(call.shared[1]), zero_sign = V::set(call.shared[2]);
  SparseTask tasks[Models::kRoom];
  for (int j = 0; j < Models::of(call); ++j) tasks[j] = sparse_task<kGate>(call, t, j);
  each_vector(t.n, [&](int64_t i) {
    const int n_models = Models::of(call);  // a constant only within
    const V::F base = fetch(t.base + i);
    V::F terms[Models::kRoom], total = V::zero();
    STA_UNROLL
    for (int j = 0; j < n_models; ++j) {
      V::F tau = tau_of(t, j, i, base), mask = tau;
      if constexpr (kGate == Gate::kMask) {
        mask = fetch(t.importance[j] + i);
        tau = V::mul(mask, tau);
      }
      const V::F term = V::mul(V::set(tasks[j].weight), V::mul(V::set(tasks[j].scale), tau));
      terms[j] = only(passes<kGate>(tasks[j], i, tau, mask), term);
      total = V::add(total, terms[j]);
    }
    if constexpr (kResult == Sparse::kSign) {
      V::store(t.value + i, elect(total, zero_sign));
    } else {
      if constexpr (kElects) {
        const V::F sign = elect(total, zero_sign);
        const V::M positive = V::gt(sign, V::zero()), negative = lt(sign, V::zero());
        V::F weights = V::zero();
        total = V::zero();
        STA_UNROLL
        for (int j = 0; j < n_models; ++j) {
          const V::M agrees =
              V::mor(V::mand(V::gt(terms[j], V::zero()), positive), V::mand(lt(terms[j], V::zero()), negative));
          total = V::masked_add(total, agrees, terms[j]);
          weights = V::masked_add(weights, agrees, V::set(tasks[j].weight));
        }
        if (normalises) total = quotient(total, weights);
      } else if (divides) {
        total = V::div(total, divisor);
      }
      V::store(t.value + i, V::mul(lambda, total));
    }
  });
}

template <Gate kGate, Sparse kResult>
STA_INLINE void sparse_gated(const FormulaCall& call, const FormulaTile& t) {
  counted<kResult == Sparse::kSum ? 4 : 0>(call, [&](auto models) {
    using Models = decltype(models);
    if constexpr (kResult == Sparse::kSum)
      if (call.variant[1]) return sparse_tile<kGate, kResult, true, Models>(call, t);
    sparse_tile<kGate, kResult, false, Models>(call, t);
  });
}

template <Sparse kResult>
static void sparse_sum(const FormulaCall& call, const FormulaTile& t) {
  switch (static_cast<Gate>(call.variant[0])) {
    case Gate::kAll: return sparse_gated<Gate::kAll, kResult>(call, t);
    case Gate::kBand: return sparse_gated<Gate::kBand, kResult>(call, t);
    case Gate::kRandom: return sparse_gated<Gate::kRandom, kResult>(call, t);
    case Gate::kMask: return sparse_gated<Gate::kMask, kResult>(call, t);
  }
}

template <Gate kGate>
static void sparse_distance_tile(const FormulaCall& call, const FormulaTile& t) {
  const SparseTask task = sparse_task<kGate>(call, t, 0);
  each_vector(t.n, [&](int64_t i) {
    const V::F tau = tau_of(t, 0, i, fetch(t.base + i));
    const V::F mask = kGate == Gate::kMask ? fetch(t.importance[0] + i) : tau;
    V::store(t.value + i, only(passes<kGate>(task, i, tau, mask), V::abs(tau)));
  });
}

static void sparse_distance(const FormulaCall& call, const FormulaTile& t) {
  switch (static_cast<Gate>(call.variant[0])) {
    case Gate::kAll: return sparse_distance_tile<Gate::kAll>(call, t);
    case Gate::kBand: return sparse_distance_tile<Gate::kBand>(call, t);
    case Gate::kRandom: return sparse_distance_tile<Gate::kRandom>(call, t);
    case Gate::kMask: return sparse_distance_tile<Gate::kMask>(call, t);
  }
}

static void distance(const FormulaCall&, const FormulaTile& t) {
  each_vector(t.n, [&](int64_t i) { V::store(t.value + i, V::abs(tau_of(t, 0, i, fetch(t.base + i)))); });
}
