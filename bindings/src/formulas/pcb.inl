// Parameter competition balancing. variant: the form of the agreement. shared: lambda. per_model: lower and upper clip
// of |tau|, weight, least and greatest score. integers: of a score: the task.

static bool has_form(const FormulaCall& call) { return call.variant[0] >= 1 && call.variant[0] <= 3; }

static bool has_form_and_task(const FormulaCall& call) {
  return has_form(call) && call.integers[0] >= 0 && call.integers[0] < call.n_models;
}

constexpr float kGreatestFloat = 3.40282347e38f;

// RN(1 / span), at most the greatest number; 0 of 0.
static float reciprocal(float span) {
  const float whole = span == 0 ? 0 : 1 / span;
  return whole > kGreatestFloat ? kGreatestFloat : whole;
}

// The size with the sign of tau; 0 where that is 0.
STA_INLINE V::F with_sign(V::F size, V::F tau) {
  const V::I turned = V::ixor(V::bits(size), V::iand(V::bits(tau), V::iset(0x80000000u)));
  return V::select(V::eq(tau, V::zero()), V::zero(), V::from_bits(turned));
}

// All tasks at one vector of positions. Forms 1 and 2 hold every task against a total.
template <int kForm, class Models>
struct Competition {
  const FormulaCall& call;
  float factors[Models::kRoom];  // that bring clipped magnitudes to [0, 1]
  V::F tau[Models::kRoom], clipped[Models::kRoom], z[Models::kRoom], total;

  explicit Competition(const FormulaCall& call) : call(call) {
    for (int j = 0; j < Models::of(call); ++j) factors[j] = reciprocal(call.of_model(j)[1] - call.of_model(j)[0]);
  }

  // The task vectors stand in tau.
  STA_INLINE_MEMBER void clip() {
    const int n_models = Models::of(call);
    total = V::zero();
    STA_UNROLL
    for (int j = 0; j < n_models; ++j) {
      const V::F low = V::set(call.of_model(j)[0]), high = V::set(call.of_model(j)[1]);
      const V::F size = least(greatest(V::abs(tau[j]), low), high);
      clipped[j] = with_sign(size, tau[j]);
      z[j] = with_sign(V::mul(V::sub(size, low), V::set(factors[j])), tau[j]);
      if (kForm != 3) total = V::add(total, kForm == 1 ? tau[j] : z[j]);
    }
  }

  // The score of one task, whose agreement is given.
  STA_INLINE_MEMBER V::F score(int task, V::F agreement) const {
    const V::F square = V::mul(z[task], z[task]), one = V::set(1);
    return V::mul(exp_exact(V::mul(V::set(static_cast<float>(Models::of(call))), V::sub(square, one))), agreement);
  }

  STA_INLINE_MEMBER V::F agreement_of(int task) const {
    if (kForm != 3) return tanh_exact(V::mul(tau[task], total));
    V::F sum = V::zero();
    const int n_models = Models::of(call);
    STA_UNROLL
    for (int j = 0; j < n_models; ++j) sum = V::add(sum, tanh_unit_exact(V::mul(z[task], z[j])));
    return sum;
  }

  // Those of all tasks; each sum is in order although a pair is computed but once.
  STA_INLINE_MEMBER void agreements(V::F* sums) const {
    const int n_models = Models::of(call);
    STA_UNROLL
    for (int j = 0; j < n_models; ++j) {
      if (kForm != 3) {
        sums[j] = agreement_of(j);
        continue;
      }
      sums[j] = V::zero();
      STA_UNROLL
      for (int earlier = 0; earlier < j; ++earlier) {
        const V::F both = tanh_unit_exact(V::mul(z[earlier], z[j]));
        sums[j] = V::add(sums[j], both);
        sums[earlier] = V::add(sums[earlier], both);
      }
      sums[j] = V::add(sums[j], tanh_unit_exact(V::mul(z[j], z[j])));
    }
  }

  STA_INLINE_MEMBER V::F balance() const {
    V::F sums[Models::kRoom], sum = V::zero(), scores = V::zero();
    agreements(sums);
    const int n_models = Models::of(call);
    STA_UNROLL
    for (int j = 0; j < n_models; ++j) {
      const float* task = call.of_model(j);
      const V::F low = V::set(task[3]), high = V::set(task[4]);
      const float span = task[4] - task[3];
      V::F balanced = V::mul(V::sub(least(greatest(score(j, sums[j]), low), high), low), V::set(reciprocal(span)));
      if (span == 0) balanced = V::zero();
      sum = V::add(sum, V::mul(V::mul(V::set(task[2]), clipped[j]), balanced));
      scores = V::add(scores, balanced);
    }
    return V::mul(V::set(call.shared[0]), V::div(sum, greatest(scores, V::set(1e-12f))));
  }
};

template <int N>
struct Form {
  static constexpr int value = N;
};

template <typename Body>
STA_INLINE void each_form(const FormulaCall& call, Body body) {
  if (call.variant[0] == 1) return body(Form<1>{}, Count<0>{});
  if (call.variant[0] == 2) return body(Form<2>{}, Count<0>{});
  counted<4>(call, [&](auto models) { body(Form<3>{}, models); });
}

template <class Format, int kForm, class Models>
static void pcb_score_tile(const FormulaCall& call, const FormulaTile& t) {
  Competition<kForm, Models> tasks(call);
  const int task = static_cast<int>(call.integers[0]);
  each_vector(t.n, [&](int64_t i) STA_INLINE_STEP {
    read_tau<Format, Models>(call, t, i, tasks.tau);
    tasks.clip();
    V::store(t.value + i, tasks.score(task, tasks.agreement_of(task)));
  });
}

template <class Format>
static void pcb_score(const FormulaCall& call, const FormulaTile& t) {
  each_form(call,
            [&](auto form, auto models) { pcb_score_tile<Format, decltype(form)::value, decltype(models)>(call, t); });
}

// The magnitude up to which an entry of a task has a score of no more than the least, whatever the others are; below 0
// where none can be told.
//
// The agreement is at most z^2 + (N - 1) |z| in form 3, else 1, and with it the score rises with |z|. A bound on |z| is
// sought in ever finer steps; what is added for roundings is far more than they come to.
template <int kForm>
static float idle_magnitude(const FormulaCall& call, int task) {
  const float* given = call.of_model(task);
  const float low = given[0], high = given[1], weight = given[2], bar = given[3];
  const bool tame = low >= 0 && high > low && high <= kGreatestFloat && weight >= -kGreatestFloat &&
                    weight <= kGreatestFloat && bar >= 0 && given[4] >= bar;
  if (!tame) return -1;
  const float n_models = static_cast<float>(call.n_models);
  const V::F allowed = V::set(bar / (1 + 1e-6f * (n_models + 20)));
  float bound = 0;
  for (float step = 1.0f / V::W; step > 1.0f / 4096; step /= V::W) {
    float sizes[V::W];
    for (int lane = 0; lane < V::W; ++lane) sizes[lane] = bound + step * static_cast<float>(lane + 1);
    const V::F z = V::load(sizes), square = V::mul(z, z);
    const V::F own = exp_exact(V::mul(V::set(n_models), V::sub(square, V::set(1))));
    const V::F agreement = V::add(square, V::mul(V::set(n_models - 1), z));
    const V::F most = kForm == 3 ? V::mul(own, agreement) : own;
    bound += step * static_cast<float>(V::popcount(V::ge(allowed, most)));
    if (bound >= 1) return kGreatestFloat;
  }
  if (kForm != 3 && bound == 0) return -1;
  const float range = bound * (high - low) * (1 - 1e-6f);
  float magnitude = low + range;
  while (magnitude - low > range) magnitude = __builtin_nextafterf(magnitude, 0);
  return magnitude;
}

// Most entries score no more than the least: where all tasks do, the result is 0. The others are packed first.
template <class Format, int kForm, class Models>
static void pcb_tile(const FormulaCall& call, const FormulaTile& t) {
  constexpr int64_t kPart = 512;
  const int n_models = Models::of(call);
  Competition<kForm, Models> tasks(call);
  float idle[Models::kRoom], packed[kPart + V::W];
  uint32_t places[kPart + V::W];
  for (int j = 0; j < n_models; ++j) idle[j] = idle_magnitude<kForm>(call, j);
  const V::F nothing = V::mul(V::set(call.shared[0]), V::zero());
  for (int64_t at = 0; at < t.n; at += kPart) {
    const int64_t stop = t.n - at < kPart ? t.n : at + kPart;
    int64_t count = 0;
    for (int64_t i = at; i < stop; i += V::W) {
      read_tau<Format, Models>(call, t, i, tasks.tau);
      V::M idles = V::mtrue();
      STA_UNROLL
      for (int j = 0; j < n_models; ++j) idles = V::mand(idles, V::ge(V::set(idle[j]), V::abs(tasks.tau[j])));
      const V::M active = V::mandnot(idles, V::mtrue());
      V::store(t.value + i, nothing);
      STA_UNROLL
      for (int j = 0; j < n_models; ++j)
        V::compress(reinterpret_cast<uint32_t*>(t.work + j * t.pitch) + count, active, V::bits(tasks.tau[j]));
      count += V::compress(places + count, active, V::iadd(V::places(), V::iset(static_cast<uint32_t>(i))));
    }
    for (int64_t k = 0; k < count; k += V::W) {
      STA_UNROLL
      for (int j = 0; j < n_models; ++j) tasks.tau[j] = V::load(t.work + j * t.pitch + k);
      tasks.clip();
      V::store(packed + k, tasks.balance());
    }
    for (int64_t k = 0; k < count; ++k) t.value[places[k]] = packed[k];
  }
}

template <class Format>
static void pcb(const FormulaCall& call, const FormulaTile& t) {
  each_form(call, [&](auto form, auto models) { pcb_tile<Format, decltype(form)::value, decltype(models)>(call, t); });
}
