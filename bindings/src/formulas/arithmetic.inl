// What several formulas share.

STA_INLINE bool has_importances(const FormulaCall& call) { return call.importances != nullptr; }

// Elements of one operand, where they are read for the first time.
template <class Format>
STA_INLINE V::F fetch(const char* operand, int64_t i) {
  const char* p = operand + i * Format::kBytes;
  V::prefetch(p + kAhead);  // most lie in place; a tile's successor is then next in memory
  return Format::load(p);
}

STA_INLINE V::F fetch(const float* importance, int64_t i) {
  return fetch<Float32>(reinterpret_cast<const char*>(importance), i);
}

template <class Format>
STA_INLINE V::F tau_of(const FormulaTile& t, int j, int64_t i, V::F base) {
  return V::sub(fetch<Format>(t.model[j], i), base);
}

// The first task vector, of formulas that are of one model.
template <class Format>
STA_INLINE V::F only_tau(const FormulaTile& t, int64_t i) {
  return tau_of<Format>(t, 0, i, fetch<Format>(t.base, i));
}

// All task vectors at one vector of positions.
template <class Format, class Models>
STA_INLINE void read_tau(const FormulaCall& call, const FormulaTile& t, int64_t i, V::F* tau) {
  const int n_models = Models::of(call);
  const V::F base = fetch<Format>(t.base, i);
  STA_UNROLL
  for (int j = 0; j < n_models; ++j) tau[j] = tau_of<Format>(t, j, i, base);
}

STA_INLINE V::M lt(V::F a, V::F b) { return V::gt(b, a); }

STA_INLINE V::F only(V::M mask, V::F a) { return V::select(mask, a, V::zero()); }

// a / b; a divisor of 0 counts as 1.
STA_INLINE V::F quotient(V::F a, V::F b) { return V::div(a, V::select(V::eq(b, V::zero()), V::set(1), b)); }

// 1, -1 or 0; NaN of NaN.
STA_INLINE V::F sign_of(V::F a) {
  const V::F zero = V::select(V::eq(a, a), V::zero(), a);
  return V::select(V::gt(a, V::zero()), V::set(1), V::select(lt(a, V::zero()), V::set(-1), zero));
}

// NaN where a is NaN; b is none.
STA_INLINE V::F least(V::F a, V::F b) { return V::min(b, a); }
STA_INLINE V::F greatest(V::F a, V::F b) { return V::max(b, a); }

// A number of models as a type: 0 where it is no constant.
template <int N>
struct Count {
  static constexpr int kRoom = N ? N : STA_MAX_TASKS;
  static constexpr int of(const FormulaCall& call) { return N ? N : call.n_models; }
};

// Calls body with the call's number of models, a constant up to kMost: then loops over them unroll, and what they carry
// stays in registers.
template <int kMost, int N = 1, typename Body>
STA_INLINE void counted(const FormulaCall& call, Body body) {
  if constexpr (N > kMost) {
    body(Count<0>{});
  } else {
    if (call.n_models == N) return body(Count<N>{});
    counted<kMost, N + 1>(call, body);
  }
}

// Runs step(i) for the first element of every vector.
template <typename Step>
STA_INLINE void each_vector(int64_t n, Step step) {
  for (int64_t i = 0; i < n; i += V::W) step(i);
}
