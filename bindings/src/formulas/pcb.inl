// Parameter competition balancing. variant: the form of the agreement. shared: lambda. per_model: lower and upper clip
// of |tau|, weight, least and greatest score. integers: of a score: the task.

static bool has_form(const FormulaCall& call) { return call.variant[0] >= 1 && call.variant[0] <= 3; }

static bool has_form_and_task(const FormulaCall& call) {
  return has_form(call) && call.integers[0] >= 0 && call.integers[0] < call.n_models;
}

// All tasks at one vector of positions.
struct Competition {
  int n_models;
  V::F tau[STA_MAX_TASKS], sign[STA_MAX_TASKS], clipped[STA_MAX_TASKS], normal[STA_MAX_TASKS], drawn[STA_MAX_TASKS];
  V::F total;  // what forms 1 and 2 hold every task against

  STA_INLINE_MEMBER void read(const FormulaCall& call, const FormulaTile& t, int64_t i) {
    const V::F base = V::load(t.base + i);
    n_models = call.n_models;
    total = V::zero();
    for (int j = 0; j < n_models; ++j) {
      const float low = call.of_model(j)[0], high = call.of_model(j)[1], span = high - low;
      tau[j] = tau_of(t, j, i, base);
      sign[j] = sign_of(tau[j]);
      clipped[j] = least(greatest(V::abs(tau[j]), V::set(low)), V::set(high));
      normal[j] = span == 0 ? V::zero() : V::div(V::sub(clipped[j], V::set(low)), V::set(span));
      drawn[j] = V::mul(sign[j], normal[j]);
      total = V::add(total, call.variant[0] == 1 ? tau[j] : drawn[j]);
    }
  }

  STA_INLINE_MEMBER V::F score(int64_t form, int task) const {
    const V::F count = V::set(static_cast<float>(n_models));
    const V::F own = exp_exact(V::mul(count, V::sub(V::mul(normal[task], normal[task]), V::set(1))));
    V::F agreement = V::zero();
    if (form == 3) {
      for (int j = 0; j < n_models; ++j) agreement = V::add(agreement, tanh_exact(V::mul(drawn[task], drawn[j])));
    } else {
      agreement = tanh_exact(V::mul(tau[task], total));
    }
    return V::mul(own, agreement);
  }
};

static void pcb_score(const FormulaCall& call, const FormulaTile& t) {
  Competition tasks;
  each_vector(t.n, [&](int64_t i) {
    tasks.read(call, t, i);
    V::store(t.value + i, tasks.score(call.variant[0], static_cast<int>(call.integers[0])));
  });
}

static void pcb(const FormulaCall& call, const FormulaTile& t) {
  Competition tasks;
  const V::F lambda = V::set(call.shared[0]);
  each_vector(t.n, [&](int64_t i) {
    tasks.read(call, t, i);
    V::F sum = V::zero(), scores = V::zero();
    for (int j = 0; j < call.n_models; ++j) {
      const float* task = call.of_model(j);
      const V::F low = V::set(task[3]), high = V::set(task[4]);
      const float span = task[4] - task[3];
      V::F balanced = V::zero();
      if (span != 0) {
        const V::F score = tasks.score(call.variant[0], j);
        balanced = V::div(V::sub(least(greatest(score, low), high), low), V::set(span));
      }
      sum = V::add(sum, V::mul(V::mul(V::set(task[2]), V::mul(tasks.sign[j], tasks.clipped[j])), balanced));
      scores = V::add(scores, balanced);
    }
    V::store(t.value + i, V::mul(lambda, V::div(sum, greatest(scores, V::set(1e-12f)))));
  });
}
