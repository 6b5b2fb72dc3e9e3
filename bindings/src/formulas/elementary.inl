// exp and tanh as fixed sequences of float32 operations (reference/elementary.py says how good they are).

template <int N>
STA_INLINE V::F horner(V::F x, const float (&coefficients)[N]) {
  V::F value = V::set(coefficients[0]);
  STA_UNROLL
  for (int c = 1; c < N; ++c) value = V::add(V::mul(value, x), V::set(coefficients[c]));
  return value;
}

constexpr float kExp[] = {1.98910798e-4f, 1.39337312e-3f, 8.33331048e-3f, 4.16664630e-2f, 1.66666672e-1f, 0.5f};
constexpr float kTanh[] = {-6.09464152e-3f, 2.09957547e-2f, -5.38506098e-2f, 1.33327678e-1f, -3.33333284e-1f};

constexpr float kTanhUnit[] = {-4.20695491e-4f, 2.51045940e-3f, -8.21892172e-3f, 2.16601156e-2f,
                               -5.39347902e-2f, 1.33331284e-1f, -3.33333313e-1f};

// For x up to 88; what is below -87 counts as it.
STA_INLINE V::F exp_exact(V::F x) {
  const V::F rounder = V::set(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  x = greatest(x, V::set(-87));
  const V::F rounded = V::add(V::mul(x, V::set(1.44269502f)), rounder);
  const V::F exponent = V::sub(rounded, rounder);
  const V::F high = V::sub(x, V::mul(exponent, V::set(0.693359375f)));
  const V::F rest = V::sub(high, V::mul(exponent, V::set(-2.12194440e-4f)));
  const V::F value = V::add(V::add(V::mul(horner(rest, kExp), V::mul(rest, rest)), rest), V::set(1));
  const V::I steps = V::isub(V::bits(rounded), V::bits(rounder));
  return V::mul(value, V::from_bits(V::sll23(V::iadd(steps, V::iset(127)))));
}

STA_INLINE V::F tanh_exact(V::F x) {
  const V::F size = V::abs(x), square = V::mul(size, size);
  V::F value = V::add(size, V::mul(size, V::mul(square, horner(square, kTanh))));
  const V::M small = lt(size, V::set(0.625f));
  if (V::any(V::mandnot(small, V::mtrue()))) {
    const V::F bounded = least(size, V::set(9.1f)), one = V::set(1);
    const V::F large = V::sub(one, V::div(V::set(2), V::add(exp_exact(V::add(bounded, bounded)), one)));
    value = V::select(small, value, V::select(V::ge(size, V::set(9.1f)), one, large));
  }
  return V::from_bits(V::ior(V::bits(value), V::iand(V::bits(x), V::iset(0x80000000u))));
}

// For x in [-1, 1].
STA_INLINE V::F tanh_unit_exact(V::F x) {
  const V::F square = V::mul(x, x);
  return V::add(x, V::mul(x, V::mul(square, horner(square, kTanhUnit))));
}
