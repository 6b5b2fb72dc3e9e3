// Eight lanes: AVX2, FMA, F16C.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define STA_INLINE static inline __attribute__((always_inline))

namespace {

struct V {
  static constexpr int W = 8;
  static constexpr bool kHasFma = true;
  using F = __m256;
  using I = __m256i;
  using M = __m256;  // all bits of a lane

  STA_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
  STA_INLINE void store(float* p, F a) { _mm256_storeu_ps(p, a); }
  STA_INLINE void stream(void* p, F a) { _mm256_stream_ps(static_cast<float*>(p), a); }
  STA_INLINE void fence() { _mm_sfence(); }
  STA_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }
  STA_INLINE F set(float a) { return _mm256_set1_ps(a); }
  STA_INLINE F zero() { return _mm256_setzero_ps(); }
  STA_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
  STA_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  STA_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  STA_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
  STA_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  STA_INLINE F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
  STA_INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }  // b where either is NaN
  STA_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
  STA_INLINE F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  STA_INLINE M gt(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
  STA_INLINE M ge(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
  STA_INLINE M eq(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
  STA_INLINE M mand(M a, M b) { return _mm256_and_ps(a, b); }
  STA_INLINE M mor(M a, M b) { return _mm256_or_ps(a, b); }
  STA_INLINE M mandnot(M a, M b) { return _mm256_andnot_ps(a, b); }
  STA_INLINE M mtrue() { return _mm256_castsi256_ps(_mm256_set1_epi32(-1)); }
  STA_INLINE M first(int n) {
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
  }
  STA_INLINE bool any(M a) { return _mm256_movemask_ps(a) != 0; }
  STA_INLINE int popcount(M a) { return __builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps(a))); }
  STA_INLINE F select(M m, F a, F b) { return _mm256_blendv_ps(b, a, m); }
  // The accumulator is never -0, so adding +0 leaves every unselected lane as it was.
  STA_INLINE F masked_add(F acc, M m, F a) { return _mm256_add_ps(acc, _mm256_and_ps(m, a)); }
  STA_INLINE I mask_to_int(M m) { return _mm256_castps_si256(m); }

  STA_INLINE I bits(F a) { return _mm256_castps_si256(a); }
  STA_INLINE F from_bits(I a) { return _mm256_castsi256_ps(a); }
  STA_INLINE I iset(uint32_t a) { return _mm256_set1_epi32(static_cast<int>(a)); }
  STA_INLINE I iload(const void* p) { return _mm256_loadu_si256(static_cast<const I*>(p)); }
  STA_INLINE void istore(void* p, I a) { _mm256_storeu_si256(static_cast<I*>(p), a); }
  STA_INLINE I iadd(I a, I b) { return _mm256_add_epi32(a, b); }
  STA_INLINE I isub(I a, I b) { return _mm256_sub_epi32(a, b); }
  STA_INLINE I iand(I a, I b) { return _mm256_and_si256(a, b); }
  STA_INLINE I ior(I a, I b) { return _mm256_or_si256(a, b); }
  STA_INLINE I ixor(I a, I b) { return _mm256_xor_si256(a, b); }
  STA_INLINE I ixor3(I a, I b, I c) { return ixor(ixor(a, b), c); }
  STA_INLINE I sra31(I a) { return _mm256_srai_epi32(a, 31); }
  STA_INLINE I sll16(I a) { return _mm256_slli_epi32(a, 16); }
  STA_INLINE I srl(I a, int n) { return _mm256_srl_epi32(a, _mm_cvtsi32_si128(n)); }
  STA_INLINE I sll23(I a) { return _mm256_slli_epi32(a, 23); }

  // Lanes of 64 bits. The lanes of quads() count such pairs of words that unpack_low, then unpack_high, put in order.
  STA_INLINE I set64(uint64_t a) { return _mm256_set1_epi64x(static_cast<int64_t>(a)); }
  STA_INLINE I quads() { return _mm256_setr_epi64x(0, 2, 1, 3); }
  STA_INLINE I upper(I a) {
    return _mm256_castps_si256(_mm256_movehdup_ps(_mm256_castsi256_ps(a)));
  }  // upper halves; what is above them is anything
  STA_INLINE I add64(I a, I b) { return _mm256_add_epi64(a, b); }
  STA_INLINE I srl32(I a) { return _mm256_srli_epi64(a, 32); }
  STA_INLINE I srl47(I a) { return _mm256_srli_epi64(a, 47); }
  STA_INLINE I sll32(I a) { return _mm256_slli_epi64(a, 32); }
  STA_INLINE I swap64(I a) { return _mm256_shuffle_epi32(a, 0x4e); }  // adjacent lanes
  STA_INLINE I mul_low(I a, I b) { return _mm256_mul_epu32(a, b); }   // low halves to 64 bits
  STA_INLINE I join_low(I a, I b) { return _mm256_blend_epi32(a, _mm256_slli_epi64(b, 32), 0xaa); }  // low halves
  STA_INLINE I unpack_low(I a, I b) { return _mm256_unpacklo_epi64(a, b); }
  STA_INLINE I unpack_high(I a, I b) { return _mm256_unpackhi_epi64(a, b); }

  // A bit for each lane of 16 bits; and the lanes of which the lowest bits are set.
  STA_INLINE uint32_t bits16(I mask) {
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(mask), _mm256_extracti128_si256(mask, 1));
    return static_cast<uint32_t>(_mm_movemask_epi8(bytes));
  }
  STA_INLINE uint32_t below16(I a, I b) {
    const I sign = iset(0x80008000u);
    return bits16(_mm256_cmpgt_epi16(ixor(b, sign), ixor(a, sign)));
  }
  STA_INLINE uint32_t equal16(I a, I b) { return bits16(_mm256_cmpeq_epi16(a, b)); }
  STA_INLINE M lanes(uint32_t bits) {
    const I each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(iset(bits), each), each));
  }

  STA_INLINE I umin(I a, I b) { return _mm256_min_epu32(a, b); }
  STA_INLINE I umax(I a, I b) { return _mm256_max_epu32(a, b); }
  STA_INLINE I smin(I a, I b) { return _mm256_min_epi32(a, b); }
  STA_INLINE I smax(I a, I b) { return _mm256_max_epi32(a, b); }
  STA_INLINE M ieq(I a, I b) { return _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)); }
  STA_INLINE M ult(I a, I b) {
    const I sign = iset(0x80000000u);
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(ixor(b, sign), ixor(a, sign)));
  }
  STA_INLINE I iselect(M m, I a, I b) { return bits(select(m, from_bits(a), from_bits(b))); }
  STA_INLINE M sgt(I a, I b) { return _mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b)); }
  STA_INLINE int compress(uint32_t* dst, M m, I a) {
    alignas(32) uint32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<I*>(lanes), a);
    unsigned left = static_cast<unsigned>(_mm256_movemask_ps(m));
    int count = 0;
    for (; left; left &= left - 1) dst[count++] = lanes[__builtin_ctz(left)];
    return count;
  }
  STA_INLINE F expand(F a, M m, const float* p) {
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, a);
    for (unsigned left = static_cast<unsigned>(_mm256_movemask_ps(m)); left; left &= left - 1)
      lanes[__builtin_ctz(left)] = *p++;
    return _mm256_load_ps(lanes);
  }

  STA_INLINE F load_bf16(const void* p) {
    const __m128i raw = _mm_loadu_si128(static_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16));
  }
  // Bits of a rounded to bfloat16, in the upper half of each lane; what is below them is anything.
  STA_INLINE I round_bf16(F a) {
    const I u = bits(a);
    const I odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), iset(1));
    const I rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, iset(0x7fff)));
    return iselect(_mm256_cmp_ps(a, a, _CMP_UNORD_Q), ior(u, iset(0x400000)), rounded);
  }
  STA_INLINE __m128i pack_bf16(F a) {
    const I word = _mm256_srli_epi32(round_bf16(a), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(word), _mm256_extracti128_si256(word, 1));
  }
  // Even and odd elements, rounded and interleaved again.
  STA_INLINE I interleave_bf16(F even, F odd) {
    return _mm256_blend_epi16(_mm256_srli_epi32(round_bf16(even), 16), round_bf16(odd), 0xaa);
  }
  STA_INLINE void istream(void* p, I a) { _mm256_stream_si256(static_cast<I*>(p), a); }
  STA_INLINE void store_bf16(void* p, F a) { _mm_storeu_si128(static_cast<__m128i*>(p), pack_bf16(a)); }
  STA_INLINE void stream_bf16(void* p, F a) { _mm_stream_si128(static_cast<__m128i*>(p), pack_bf16(a)); }
  STA_INLINE F load_f16(const void* p) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
  STA_INLINE void store_f16(void* p, F a) {
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  STA_INLINE F load_f64(const void* p) {
    const double* d = static_cast<const double*>(p);
    return _mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd(d + 4)), _mm256_cvtpd_ps(_mm256_loadu_pd(d)));
  }
  STA_INLINE void store_f64(void* p, F a) {
    double* d = static_cast<double*>(p);
    _mm256_storeu_pd(d, _mm256_cvtps_pd(_mm256_castps256_ps128(a)));
    _mm256_storeu_pd(d + 4, _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)));
  }

  struct D {
    __m256d lo, hi;
  };
  STA_INLINE D dzero() { return {_mm256_setzero_pd(), _mm256_setzero_pd()}; }
  STA_INLINE D dadd(D s, const float* p) {  // widened as they are loaded, which costs no shuffle
    return {_mm256_add_pd(s.lo, _mm256_cvtps_pd(_mm_loadu_ps(p))),
            _mm256_add_pd(s.hi, _mm256_cvtps_pd(_mm_loadu_ps(p + 4)))};
  }
  STA_INLINE void dstore(double* p, D s) {
    _mm256_storeu_pd(p, s.lo);
    _mm256_storeu_pd(p + 4, s.hi);
  }
};

}  // namespace
