// Sums of sparsified task vectors, with or without an elected sign: TIES, DARE, Breadcrumbs, DELLA.
//
// variant: gate, elects, normalises. shared: lambda, divisor, zero sign. per_model: weight, scale, upper threshold,
// lower threshold. integers: seed, tensor; per model: upper cut, lower cut, 2^32 density, task.

enum class Gate { kAll, kBand, kRandom, kMask };
enum class Sparse { kSum, kSign, kDistance };

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

// A task's gate over one tile.
struct TaskGate {
  V::F upper, lower;
  int64_t before_upper, before_lower;
  const uint32_t* draws;
  V::I kept;
  bool keeps_every_draw;
  const float* mask;
};

template <Gate kGate>
STA_INLINE TaskGate make_gate(const FormulaCall& call, const FormulaTile& t, int j) {
  TaskGate gate{};
  const int64_t* integers = call.integers + 2 + 4 * j;
  if constexpr (kGate == Gate::kBand) {
    gate.upper = V::set(call.of_model(j)[2]);
    gate.lower = V::set(call.of_model(j)[3]);
    gate.before_upper = before_cut(integers[0], t);
    gate.before_lower = before_cut(integers[1], t);
  } else if constexpr (kGate == Gate::kRandom) {
    gate.draws =
        draws(static_cast<uint64_t>(call.integers[0]), static_cast<uint32_t>(call.integers[1]),
              static_cast<uint32_t>(integers[3]), t.index, t.n, reinterpret_cast<uint32_t*>(t.work + j * t.pitch));
    gate.kept = V::iset(static_cast<uint32_t>(integers[2]));
    gate.keeps_every_draw = integers[2] > 0xffffffff;
  } else if constexpr (kGate == Gate::kMask) {
    gate.mask = t.importance[j];
  }
  return gate;
}

template <Gate kGate>
STA_INLINE V::M passes(const TaskGate& gate, int64_t i, V::F tau) {
  if constexpr (kGate == Gate::kBand) {
    const V::F magnitude = V::abs(tau);
    return V::mandnot(above(magnitude, gate.upper, gate.before_upper - i),
                      above(magnitude, gate.lower, gate.before_lower - i));
  } else if constexpr (kGate == Gate::kRandom) {
    return gate.keeps_every_draw ? V::mtrue() : V::ult(V::iload(gate.draws + i), gate.kept);
  } else if constexpr (kGate == Gate::kMask) {
    return V::mandnot(V::eq(V::load(gate.mask + i), V::zero()), V::mtrue());
  } else {
    return V::mtrue();
  }
}

// Sign of a sum; zero_sign where that is 0 or NaN.
STA_INLINE V::F elect(V::F total, V::F zero_sign) {
  return V::select(V::gt(total, V::zero()), V::set(1), V::select(lt(total, V::zero()), V::set(-1), zero_sign));
}

template <Gate kGate, Sparse kResult, bool kElects>
static void sparse_tile(const FormulaCall& call, const FormulaTile& t) {
  const int n_models = kResult == Sparse::kDistance ? 1 : call.n_models;
  const bool normalises = call.variant[2] != 0;
  TaskGate gates[STA_MAX_TASKS];
  for (int j = 0; j < n_models; ++j) gates[j] = make_gate<kGate>(call, t, j);
  V::F terms[STA_MAX_TASKS];
  each_vector(t.n, [&](int64_t i) {
    const V::F base = V::load(t.base + i);
    if constexpr (kResult == Sparse::kDistance) {
      const V::F tau = tau_of(t, 0, i, base);
      V::store(t.value + i, only(passes<kGate>(gates[0], i, tau), V::abs(tau)));
      return;
    }
    V::F total = V::zero();
    for (int j = 0; j < n_models; ++j) {
      const float* task = call.of_model(j);
      const V::F tau = tau_of(t, j, i, base);
      const V::F term = V::mul(V::set(task[0]), V::mul(V::set(task[1]), tau));
      terms[j] = only(passes<kGate>(gates[j], i, tau), term);
      total = V::add(total, terms[j]);
    }
    if constexpr (kResult == Sparse::kSign) {
      V::store(t.value + i, elect(total, V::set(call.shared[2])));
      return;
    }
    if constexpr (kElects) {
      const V::F sign = elect(total, V::set(call.shared[2]));
      const V::M positive = V::gt(sign, V::zero()), negative = lt(sign, V::zero());
      V::F weights = V::zero();
      total = V::zero();
      for (int j = 0; j < n_models; ++j) {
        const V::M agrees =
            V::mor(V::mand(V::gt(terms[j], V::zero()), positive), V::mand(lt(terms[j], V::zero()), negative));
        total = V::masked_add(total, agrees, terms[j]);
        weights = V::masked_add(weights, agrees, V::set(call.of_model(j)[0]));
      }
      if (normalises) total = quotient(total, weights);
    } else {
      total = quotient(total, V::set(call.shared[1]));
    }
    V::store(t.value + i, V::mul(V::set(call.shared[0]), total));
  });
}

template <Gate kGate, Sparse kResult>
STA_INLINE void sparse_gated(const FormulaCall& call, const FormulaTile& t) {
  if constexpr (kResult == Sparse::kSum)
    if (call.variant[1]) return sparse_tile<kGate, kResult, true>(call, t);
  sparse_tile<kGate, kResult, false>(call, t);
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

static void sparse_distance(const FormulaCall& call, const FormulaTile& t) { sparse_sum<Sparse::kDistance>(call, t); }

static void distance(const FormulaCall&, const FormulaTile& t) {
  each_vector(t.n, [&](int64_t i) { V::store(t.value + i, V::abs(tau_of(t, 0, i, V::load(t.base + i)))); });
}
