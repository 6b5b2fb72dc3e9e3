// What several formulas share.

STA_INLINE bool has_importances(const FormulaCall& call) { return call.importances != nullptr; }

STA_INLINE V::F tau_of(const FormulaTile& t, int j, int64_t i, V::F base) {
  return V::sub(V::load(t.model[j] + i), base);
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

// Runs step(i) for the first element of every vector.
template <typename Step>
STA_INLINE void each_vector(int64_t n, Step step) {
  for (int64_t i = 0; i < n; i += V::W) step(i);
}
