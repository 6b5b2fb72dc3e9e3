// Four lanes through the compiler's vector types: SSE2 on any x86-64, NEON on any AArch64, scalar code elsewhere.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define STA_INLINE static inline __attribute__((always_inline))

namespace {

typedef float F4 __attribute__((vector_size(16)));
typedef int32_t S4 __attribute__((vector_size(16)));
typedef uint32_t U4 __attribute__((vector_size(16)));
typedef uint64_t U2 __attribute__((vector_size(16)));
typedef uint16_t U8 __attribute__((vector_size(16)));

STA_INLINE float half_to_float(uint16_t h) {
#if defined(__aarch64__)
  __fp16 value;
  memcpy(&value, &h, 2);
  return static_cast<float>(value);
#else
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
  const uint32_t exponent = (h >> 10) & 31, mantissa = h & 0x3ff;
  uint32_t u;
  float f;
  if (exponent == 31) {
    u = sign | 0x7f800000 | (mantissa << 13) | (mantissa ? 0x400000 : 0);
  } else if (exponent) {
    u = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    f = static_cast<float>(mantissa) * 0x1p-24f;  // exact
    memcpy(&u, &f, 4);
    u |= sign;
  }
  memcpy(&f, &u, 4);
  return f;
#endif
}

STA_INLINE uint16_t float_to_half(float f) {
#if defined(__aarch64__)
  const __fp16 value = static_cast<__fp16>(f);
  uint16_t h;
  memcpy(&h, &value, 2);
  return h;
#else
  uint32_t u;
  memcpy(&u, &f, 4);
  const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000);
  u &= 0x7fffffff;
  if (u > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | ((u >> 13) & 0x3ff));
  if (u >= 0x47800000) return static_cast<uint16_t>(sign | 0x7c00);  // 65536 and above; what rounds up to it follows
  if (u < 0x38800000) {  // subnormal: adding 0.5 leaves the value in units of 2^-24, rounded by the addition
    float magnitude;
    memcpy(&magnitude, &u, 4);
    magnitude += 0.5f;
    memcpy(&u, &magnitude, 4);
    return static_cast<uint16_t>(sign | (u - 0x3f000000));
  }
  u += 0xfff + ((u >> 13) & 1);
  return static_cast<uint16_t>(sign | ((u - 0x38000000) >> 13));
#endif
}

struct V {
  static constexpr int W = 4;
  static constexpr bool kHasFma = false;  // not on every processor that this unit serves: divide instead
  using F = F4;
  using I = U4;
  using M = S4;

  STA_INLINE F load(const float* p) {
    F a;
    memcpy(&a, p, sizeof a);
    return a;
  }
  STA_INLINE void store(float* p, F a) { memcpy(p, &a, sizeof a); }
  STA_INLINE void stream(void* p, F a) { memcpy(p, &a, sizeof a); }
  STA_INLINE void fence() {}
  STA_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }
  STA_INLINE F set(float a) { return F{a, a, a, a}; }
  STA_INLINE F zero() { return F{}; }
  STA_INLINE F add(F a, F b) { return a + b; }
  STA_INLINE F sub(F a, F b) { return a - b; }
  STA_INLINE F mul(F a, F b) { return a * b; }
  STA_INLINE F div(F a, F b) { return a / b; }
  STA_INLINE F min(F a, F b) { return a < b ? a : b; }
  STA_INLINE F max(F a, F b) { return a > b ? a : b; }
  STA_INLINE F abs(F a) { return from_bits(bits(a) & iset(0x7fffffff)); }
  STA_INLINE M gt(F a, F b) { return a > b; }
  STA_INLINE M ge(F a, F b) { return a >= b; }
  STA_INLINE M eq(F a, F b) { return a == b; }
  STA_INLINE M mand(M a, M b) { return a & b; }
  STA_INLINE M mor(M a, M b) { return a | b; }
  STA_INLINE M mandnot(M a, M b) { return ~a & b; }
  STA_INLINE M mtrue() { return M{-1, -1, -1, -1}; }
  STA_INLINE M first(int n) { return M{0, 1, 2, 3} < M{n, n, n, n}; }
  STA_INLINE bool any(M a) { return (a[0] | a[1] | a[2] | a[3]) != 0; }
  STA_INLINE int popcount(M a) { return -(a[0] + a[1] + a[2] + a[3]); }
  STA_INLINE F select(M m, F a, F b) { return m ? a : b; }
  STA_INLINE F masked_add(F acc, M m, F a) { return acc + from_bits((I)m & bits(a)); }
  STA_INLINE I mask_to_int(M m) { return (I)m; }

  STA_INLINE I bits(F a) { return (I)a; }
  STA_INLINE F from_bits(I a) { return (F)a; }
  STA_INLINE I iset(uint32_t a) { return I{a, a, a, a}; }
  STA_INLINE I iload(const void* p) {
    I a;
    memcpy(&a, p, sizeof a);
    return a;
  }
  STA_INLINE void istore(void* p, I a) { memcpy(p, &a, sizeof a); }
  STA_INLINE I iadd(I a, I b) { return a + b; }
  STA_INLINE I isub(I a, I b) { return a - b; }
  STA_INLINE I iand(I a, I b) { return a & b; }
  STA_INLINE I ior(I a, I b) { return a | b; }
  STA_INLINE I ixor(I a, I b) { return a ^ b; }
  STA_INLINE I ixor3(I a, I b, I c) { return a ^ b ^ c; }
  STA_INLINE I sra31(I a) { return (I)((S4)a >> 31); }
  STA_INLINE I sll16(I a) { return a << 16; }
  STA_INLINE I srl(I a, int n) { return a >> static_cast<uint32_t>(n); }
  STA_INLINE I sll23(I a) { return a << 23; }

  // Lanes of 64 bits. The lanes of quads() count such pairs of words that unpack_low, then unpack_high, put in order.
  STA_INLINE I set64(uint64_t a) { return (I)U2{a, a}; }
  STA_INLINE I quads() { return (I)U2{0, 1}; }
  STA_INLINE I upper(I a) { return srl32(a); }  // upper halves; what is above them is anything
  STA_INLINE I add64(I a, I b) { return (I)((U2)a + (U2)b); }
  STA_INLINE I srl32(I a) { return (I)((U2)a >> 32); }
  STA_INLINE I srl47(I a) { return (I)((U2)a >> 47); }
  STA_INLINE I sll32(I a) { return (I)((U2)a << 32); }
  STA_INLINE I swap64(I a) { return (I)U2{((U2)a)[1], ((U2)a)[0]}; }  // adjacent lanes
  // Low halves to 64 bits.
  STA_INLINE I mul_low(I a, I b) {
#if defined(__SSE2__)
    return (I)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
    return (I)(((U2)a & 0xffffffff) * ((U2)b & 0xffffffff));
#endif
  }
  STA_INLINE I join_low(I a, I b) { return (I)(((U2)a & 0xffffffff) | ((U2)b << 32)); }  // low halves
  STA_INLINE I unpack_low(I a, I b) { return (I)U2{((U2)a)[0], ((U2)b)[0]}; }
  STA_INLINE I unpack_high(I a, I b) { return (I)U2{((U2)a)[1], ((U2)b)[1]}; }

  // A bit for each lane of 16 bits; and the lanes of which the lowest bits are set.
  STA_INLINE uint32_t bits16(U8 mask) {
#if defined(__SSE2__)
    return static_cast<uint32_t>(_mm_movemask_epi8(_mm_packs_epi16((__m128i)mask, _mm_setzero_si128())));
#else
    mask &= U8{1, 2, 4, 8, 16, 32, 64, 128};
    return static_cast<uint32_t>(mask[0] | mask[1] | mask[2] | mask[3] | mask[4] | mask[5] | mask[6] | mask[7]);
#endif
  }
  STA_INLINE uint32_t below16(I a, I b) { return bits16((U8)((U8)a < (U8)b)); }
  STA_INLINE uint32_t equal16(I a, I b) { return bits16((U8)((U8)a == (U8)b)); }
  STA_INLINE M lanes(uint32_t bits) { return (M)((iset(bits) & I{1, 2, 4, 8}) != 0); }

  STA_INLINE I umin(I a, I b) { return a < b ? a : b; }
  STA_INLINE I umax(I a, I b) { return a > b ? a : b; }
  STA_INLINE I smin(I a, I b) { return (S4)a < (S4)b ? a : b; }
  STA_INLINE I smax(I a, I b) { return (S4)a > (S4)b ? a : b; }
  STA_INLINE M ieq(I a, I b) { return a == b; }
  STA_INLINE M ult(I a, I b) { return a < b; }
  STA_INLINE I iselect(M m, I a, I b) { return m ? a : b; }
  STA_INLINE M sgt(I a, I b) { return (S4)a > (S4)b; }
  STA_INLINE int compress(uint32_t* dst, M m, I a) {
    int count = 0;
    for (int lane = 0; lane < W; ++lane)
      if (m[lane]) dst[count++] = a[lane];
    return count;
  }
  STA_INLINE F expand(F a, M m, const float* p) {
    for (int lane = 0; lane < W; ++lane)
      if (m[lane]) a[lane] = *p++;
    return a;
  }

  STA_INLINE F load_bf16(const void* p) {
    uint16_t raw[4];
    memcpy(raw, p, sizeof raw);
    return from_bits(I{raw[0], raw[1], raw[2], raw[3]} << 16);
  }
  // Bits of a rounded to bfloat16, in the upper half of each lane; what is below them is anything.
  STA_INLINE I round_bf16(F a) {
    const I u = bits(a);
    return a != a ? (u | 0x400000) : u + ((u >> 16) & 1) + 0x7fff;
  }
  STA_INLINE void store_bf16(void* p, F a) {
    const I word = round_bf16(a) >> 16;
    const uint16_t raw[4] = {static_cast<uint16_t>(word[0]), static_cast<uint16_t>(word[1]),
                             static_cast<uint16_t>(word[2]), static_cast<uint16_t>(word[3])};
    memcpy(p, raw, sizeof raw);
  }
  // Even and odd elements, rounded and interleaved again (little endian).
  STA_INLINE I interleave_bf16(F even, F odd) {
    return (round_bf16(even) >> 16) | (round_bf16(odd) & iset(0xffff0000u));
  }
  STA_INLINE void istream(void* p, I a) { istore(p, a); }
  STA_INLINE void stream_bf16(void* p, F a) { store_bf16(p, a); }
  STA_INLINE F load_f16(const void* p) {
    uint16_t raw[4];
    memcpy(raw, p, sizeof raw);
    return F{half_to_float(raw[0]), half_to_float(raw[1]), half_to_float(raw[2]), half_to_float(raw[3])};
  }
  STA_INLINE void store_f16(void* p, F a) {
    const uint16_t raw[4] = {float_to_half(a[0]), float_to_half(a[1]), float_to_half(a[2]), float_to_half(a[3])};
    memcpy(p, raw, sizeof raw);
  }
  STA_INLINE F load_f64(const void* p) {
    double raw[4];
    memcpy(raw, p, sizeof raw);
    return F{static_cast<float>(raw[0]), static_cast<float>(raw[1]), static_cast<float>(raw[2]),
             static_cast<float>(raw[3])};
  }
  STA_INLINE void store_f64(void* p, F a) {
    const double raw[4] = {a[0], a[1], a[2], a[3]};
    memcpy(p, raw, sizeof raw);
  }

  struct D {
    double lane[4];
  };
  STA_INLINE D dzero() { return {{0, 0, 0, 0}}; }
  STA_INLINE D dadd(D s, const float* p) {
    for (int lane = 0; lane < W; ++lane) s.lane[lane] += static_cast<double>(p[lane]);
    return s;
  }
  STA_INLINE void dstore(double* p, D s) { memcpy(p, &s, sizeof s); }
};

}  // namespace
