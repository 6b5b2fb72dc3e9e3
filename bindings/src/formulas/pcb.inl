// Parameter competition balancing. variant: the form of the agreement. shared: lambda. per_model: lower and upper clip
// of |tau|, weight, least and greatest score. integers: of a score: the task.

static bool has_form(const FormulaCall& call) { return call.variant[0] >= 1 && call.variant[0] <= 3; }

static bool has_form_and_task(const FormulaCall& call) {
  return has_form(call) && call.integers[0] >= 0 && call.integers[0] < call.n_models;
}

// All tasks at one vector of positions.
struct Competition {
  int form, n_models;
  V::F tau[STA_MAX_TASKS], sign[STA_MAX_TASKS], clipped[STA_MAX_TASKS], normal[STA_MAX_TASKS], drawn[STA_MAX_TASKS];
  V::F total;  // what forms 1 and 2 hold every task against

  explicit Competition(const FormulaCall& call) : form(static_cast<int>(call.variant[0])), n_models(call.n_models) {}

  STA_INLINE_MEMBER void read(const FormulaCall& call, const FormulaTile& t, int64_t i) {
    const V::F base = fetch(t.base + i);
    total = V::zero();
    for (int j = 0; j < n_models; ++j) {
      const float low = call.of_model(j)[0], high = call.of_model(j)[1], span = high - low;
      tau[j] = tau_of(t, j, i, base);
      sign[j] = sign_of(tau[j]);
      clipped[j] = least(greatest(V::abs(tau[j]), V::set(low)), V::set(high));
      normal[j] = span == 0 ? V::zero() : V::div(V::sub(clipped[j], V::set(low)), V::set(span));
      drawn[j] = V::mul(sign[j], normal[j]);
      total = V::add(total, form == 1 ? tau[j] : drawn[j]);
    }
  }

  // The score of one task, whose agreement is given.
  STA_INLINE_MEMBER V::F score(int task, V::F agreement) const {
    const V::F square = V::mul(normal[task], normal[task]);
    return V::mul(exp_exact(V::mul(V::set(static_cast<float>(n_models)), V::sub(square, V::set(1)))), agreement);
  }

  STA_INLINE_MEMBER V::F agreement_of(int task) const {
    if (form != 3) return tanh_exact(V::mul(tau[task], total));
    V::F sum = V::zero();
    for (int j = 0; j < n_models; ++j) sum = V::add(sum, tanh_exact(V::mul(drawn[task], drawn[j])));
    return sum;
  }

  // Those of all tasks; each sum is in order although a pair is computed but once.
  STA_INLINE_MEMBER void agreements(V::F* sums) const {
    if (form != 3) {
      for (int j = 0; j < n_models; ++j) sums[j] = agreement_of(j);
      return;
    }
    for (int j = 0; j < n_models; ++j) {
      sums[j] = V::zero();
      for (int earlier = 0; earlier < j; ++earlier) {
        const V::F both = tanh_exact(V::mul(drawn[earlier], drawn[j]));
        sums[j] = V::add(sums[j], both);
        sums[earlier] = V::add(sums[earlier], both);
      }
      sums[j] = V::add(sums[j], tanh_exact(V::mul(drawn[j], drawn[j])));
    }
  }
};

static void pcb_score(const FormulaCall& call, const FormulaTile& t) {
  Competition tasks(call);
  const int task = static_cast<int>(call.integers[0]);
  each_vector(t.n, [&](int64_t i) {
    tasks.read(call, t, i);
    V::store(t.value + i, tasks.score(task, tasks.agreement_of(task)));
  });
}

static void pcb(const FormulaCall& call, const FormulaTile& t) {
  Competition tasks(call);
  V::F agreements[STA_MAX_TASKS];
  const V::F lambda = V::set(call.shared[0]);
  each_vector(t.n, [&](int64_t i) {
    tasks.read(call, t, i);
    tasks.agreements(agreements);
    V::F sum = V::zero(), scores = V::zero();
    for (int j = 0; j < call.n_models; ++j) {
      const float* task = call.of_model(j);
      const V::F low = V::set(task[3]), high = V::set(task[4]);
      const float span = task[4] - task[3];
      V::F balanced = V::zero();
      if (span != 0) {
        const V::F score = tasks.score(j, agreements[j]);
        balanced = V::div(V::sub(least(greatest(score, low), high), low), V::set(span));
      }
      sum = V::add(sum, V::mul(V::mul(V::set(task[2]), V::mul(tasks.sign[j], tasks.clipped[j])), balanced));
      scores = V::add(scores, balanced);
    }
    V::store(t.value + i, V::mul(lambda, V::div(sum, greatest(scores, V::set(1e-12f)))));
  });
}
