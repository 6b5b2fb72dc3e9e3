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

STA_INLINE V::F with_sign_bit(V::F size, V::F tau) {
  return V::from_bits(V::ixor(V::bits(size), V::iand(V::bits(tau), V::iset(0x80000000u))));
}

// The size with the sign of tau; 0 where that is 0.
STA_INLINE V::F with_sign(V::F size, V::F tau) {
  return V::select(V::eq(tau, V::zero()), V::zero(), with_sign_bit(size, tau));
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

  STA_INLINE_MEMBER V::F clipped_size(int task) const {
    const float* clips = call.of_model(task);
    return least(greatest(V::abs(tau[task]), V::set(clips[0])), V::set(clips[1]));
  }

  STA_INLINE_MEMBER V::F unit_size(int task, V::F size) const {
    return V::mul(V::sub(size, V::set(call.of_model(task)[0])), V::set(factors[task]));
  }

  // The task vectors stand in tau.
  STA_INLINE_MEMBER void clip() {
    const int n_models = Models::of(call);
    total = V::zero();
    STA_UNROLL
    for (int j = 0; j < n_models; ++j) {
      const V::F size = clipped_size(j);
      clipped[j] = with_sign(size, tau[j]);
      z[j] = with_sign(unit_size(j, size), tau[j]);
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

// Whether a score of no more than a task's least makes its share of the sum +0 or -0.
static bool is_tame(const FormulaCall& call, int task) {
  const float* given = call.of_model(task);
  const float low = given[0], high = given[1], weight = given[2], bar = given[3];
  return low >= 0 && high > low && high <= kGreatestFloat && __builtin_fabsf(weight) <= kGreatestFloat &&
         __builtin_fabsf(weight) * high <= kGreatestFloat && bar >= 0 && given[4] >= bar;
}

// A task's least score, made smaller by more than the roundings on the way to any score come to.
static float least_score(const FormulaCall& call, int task) {
  return call.of_model(task)[3] * (1 - 2e-6f * (static_cast<float>(call.n_models) + 20));
}

// Tells entries of which no task has a score above its least. The others may have none either.
//
// In forms 1 and 2, the agreement is 1 at most, and what is left of the score rises with |z|: a bound on |z| is sought
// in ever finer steps.
template <int kForm, class Models>
struct Idle {
  float magnitude[Models::kRoom];  // of the task vectors; below 0 where none is idle

  explicit Idle(const FormulaCall& call) {
    for (int j = 0; j < Models::of(call); ++j) magnitude[j] = is_tame(call, j) ? idle_magnitude(call, j) : -1;
  }

  static float idle_magnitude(const FormulaCall& call, int task) {
    const float low = call.of_model(task)[0], high = call.of_model(task)[1];
    const V::F n_models = V::set(static_cast<float>(call.n_models)), allowed = V::set(least_score(call, task));
    float bound = 0;
    for (float step = 1.0f / V::W; step > 1.0f / 4096; step /= V::W) {
      float sizes[V::W];
      for (int lane = 0; lane < V::W; ++lane) sizes[lane] = bound + step * static_cast<float>(lane + 1);
      const V::F z = V::load(sizes);
      const V::F most = exp_exact(V::mul(n_models, V::sub(V::mul(z, z), V::set(1))));
      bound += step * static_cast<float>(V::popcount(V::ge(allowed, most)));
      if (bound >= 1) return kGreatestFloat;
    }
    if (bound == 0) return -1;
    const float range = bound * (high - low) * (1 - 1e-6f);
    float magnitude = low + range;
    while (magnitude - low > range) magnitude = __builtin_nextafterf(magnitude, 0);
    return magnitude;
  }

  STA_INLINE_MEMBER V::M operator()(const Competition<kForm, Models>& tasks) const {
    V::M idles = V::mtrue();
    const int n_models = Models::of(tasks.call);
    STA_UNROLL
    for (int j = 0; j < n_models; ++j) idles = V::mand(idles, V::ge(V::set(magnitude[j]), V::abs(tasks.tau[j])));
    return idles;
  }
};

// In form 3, tanh(x) <= x above 0, and <= 0.76 x on [-1, 0]. So with S the sum of all z and T that of all |z|, the
// agreement of any task is at most |z| R, R = 0.88 |S| + 0.12 T, and its score is no more than the least, b, where
// |z| R <= b exp(N (1 - z^2)). The right side is convex in z^2, hence nowhere below its tangents. That at p, near which
// such scores lie, is b exp(N (1 - p^2)) (1 + N p^2 - N z^2).
template <class Models>
struct Idle<3, Models> {
  float bend[Models::kRoom], most[Models::kRoom];  // idle where |z| (R + bend |z|) <= most

  explicit Idle(const FormulaCall& call) {
    constexpr int kPoints = 16;
    const float n_models = static_cast<float>(call.n_models);
    const bool exact = call.n_models <= 64;  // of many more, exp_exact's least result is above the true one
    float points[kPoints], growth[kPoints];
    for (int k = 0; k < kPoints; ++k) points[k] = static_cast<float>(k + 1) / kPoints;
    for (int k = 0; k < kPoints; k += V::W) {
      const V::F p = V::load(points + k);
      V::store(growth + k, exp_exact(V::mul(V::set(n_models), V::sub(V::set(1), V::mul(p, p)))));
    }
    for (int j = 0; j < Models::of(call); ++j) {
      const float least = least_score(call, j);
      int at = 0;
      while (at + 1 < kPoints && least * growth[at + 1] >= 1.5f * points[at + 1] * points[at + 1]) ++at;
      const float height = least * growth[at];
      bend[j] = height * n_models;
      most[j] = height * (1 + n_models * points[at] * points[at]);
      if (!exact || !is_tame(call, j) || !(most[j] <= kGreatestFloat)) most[j] = -1;
    }
  }

  STA_INLINE_MEMBER V::M operator()(const Competition<3, Models>& tasks) const {
    V::F size[Models::kRoom], sum = V::zero(), sizes = V::zero();
    const int n_models = Models::of(tasks.call);
    STA_UNROLL
    for (int j = 0; j < n_models; ++j) {
      size[j] = tasks.unit_size(j, tasks.clipped_size(j));
      sizes = V::add(sizes, size[j]);
      sum = V::add(sum, with_sign_bit(size[j], tasks.tau[j]));
    }
    const V::F reach = V::add(V::mul(V::set(0.88f), V::abs(sum)), V::mul(V::set(0.12f), sizes));
    V::M idles = V::mtrue();
    STA_UNROLL
    for (int j = 0; j < n_models; ++j) {
      const V::F bound = V::mul(size[j], V::add(reach, V::mul(V::set(bend[j]), size[j])));
      idles = V::mand(idles, V::ge(V::set(most[j]), bound));
    }
    return idles;
  }
};

// Most entries score no more than the least: where all tasks do, the result is 0. The others are packed first.
template <class Format, int kForm, class Models>
static void pcb_tile(const FormulaCall& call, const FormulaTile& t) {
  constexpr int64_t kPart = 512;
  const int n_models = Models::of(call);
  Competition<kForm, Models> tasks(call);
  const Idle<kForm, Models> idle(call);
  float packed[kPart + V::W];
  V::M active[kPart / V::W];
  const V::F nothing = V::mul(V::set(call.shared[0]), V::zero());
  for (int64_t at = 0; at < t.n; at += kPart) {
    const int64_t stop = t.n - at < kPart ? t.n : at + kPart;
    int64_t count = 0, next = 0;
    for (int64_t i = at; i < stop; i += V::W) {
      read_tau<Format, Models>(call, t, i, tasks.tau);
      const V::M here = V::mandnot(idle(tasks), V::mtrue());
      active[(i - at) / V::W] = here;
      STA_UNROLL
      for (int j = 0; j < n_models; ++j)
        V::compress(reinterpret_cast<uint32_t*>(t.work + j * t.pitch) + count, here, V::bits(tasks.tau[j]));
      count += V::popcount(here);
    }
    for (int64_t k = 0; k < count; k += V::W) {
      STA_UNROLL
      for (int j = 0; j < n_models; ++j) tasks.tau[j] = V::load(t.work + j * t.pitch + k);
      tasks.clip();
      V::store(packed + k, tasks.balance());
    }
    for (int64_t i = at; i < stop; i += V::W) {
      const V::M here = active[(i - at) / V::W];
      V::store(t.value + i, V::expand(nothing, here, packed + next));
      next += V::popcount(here);
    }
  }
}

template <class Format>
static void pcb(const FormulaCall& call, const FormulaTile& t) {
  each_form(call, [&](auto form, auto models) { pcb_tile<Format, decltype(form)::value, decltype(models)>(call, t); });
}
