// Sixteen lanes: AVX-512 F, BW, DQ, VL.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define STA_INLINE static inline __attribute__((always_inline))

namespace {

struct V {
  static constexpr int W = 16;
  static constexpr bool kHasFma = true;
  using F = __m512;
  using I = __m512i;
  using M = __mmask16;

  STA_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
  STA_INLINE void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  STA_INLINE void stream(void* p, F a) { _mm512_stream_ps(static_cast<float*>(p), a); }
  STA_INLINE void fence() { _mm_sfence(); }
  STA_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }
  STA_INLINE F set(float a) { return _mm512_set1_ps(a); }
  STA_INLINE F zero() { return _mm512_setzero_ps(); }
  STA_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
  STA_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  STA_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  STA_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
  STA_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  STA_INLINE F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
  STA_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }  // b where either is NaN
  STA_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
  STA_INLINE F abs(F a) { return _mm512_abs_ps(a); }
  STA_INLINE M gt(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
  STA_INLINE M ge(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
  STA_INLINE M eq(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  STA_INLINE M mand(M a, M b) { return _kand_mask16(a, b); }
  STA_INLINE M mor(M a, M b) { return _kor_mask16(a, b); }
  STA_INLINE M mandnot(M a, M b) { return _kandn_mask16(a, b); }  // !a & b
  STA_INLINE M mtrue() { return 0xffff; }
  STA_INLINE M first(int n) { return static_cast<M>((1u << n) - 1); }
  STA_INLINE bool any(M a) { return a != 0; }
  STA_INLINE int popcount(M a) { return __builtin_popcount(a); }
  STA_INLINE F select(M m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }
  STA_INLINE F masked_add(F acc, M m, F a) { return _mm512_mask_add_ps(acc, m, acc, a); }
  STA_INLINE I mask_to_int(M m) { return _mm512_movm_epi32(m); }

  STA_INLINE I bits(F a) { return _mm512_castps_si512(a); }
  STA_INLINE F from_bits(I a) { return _mm512_castsi512_ps(a); }
  STA_INLINE I iset(uint32_t a) { return _mm512_set1_epi32(static_cast<int>(a)); }
  STA_INLINE I iload(const void* p) { return _mm512_loadu_si512(p); }
  STA_INLINE void istore(void* p, I a) { _mm512_storeu_si512(p, a); }
  STA_INLINE I iadd(I a, I b) { return _mm512_add_epi32(a, b); }
  STA_INLINE I isub(I a, I b) { return _mm512_sub_epi32(a, b); }
  STA_INLINE I iand(I a, I b) { return _mm512_and_si512(a, b); }
  STA_INLINE I ior(I a, I b) { return _mm512_or_si512(a, b); }
  STA_INLINE I ixor(I a, I b) { return _mm512_xor_si512(a, b); }
  STA_INLINE I ixor3(I a, I b, I c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
  STA_INLINE I sra31(I a) { return _mm512_srai_epi32(a, 31); }
  STA_INLINE I sll16(I a) { return _mm512_slli_epi32(a, 16); }
  STA_INLINE I srl(I a, int n) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(n)); }
  STA_INLINE I sll23(I a) { return _mm512_slli_epi32(a, 23); }

  // Lanes of 64 bits. The lanes of quads() count such pairs of words that unpack_low, then unpack_high, put in order.
  STA_INLINE I set64(uint64_t a) { return _mm512_set1_epi64(static_cast<int64_t>(a)); }
  STA_INLINE I quads() { return _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7); }
  STA_INLINE I upper(I a) {
    return _mm512_castps_si512(_mm512_movehdup_ps(_mm512_castsi512_ps(a)));
  }  // upper halves; what is above them is anything
  STA_INLINE I add64(I a, I b) { return _mm512_add_epi64(a, b); }
  STA_INLINE I srl32(I a) { return _mm512_srli_epi64(a, 32); }
  STA_INLINE I srl47(I a) { return _mm512_srli_epi64(a, 47); }
  STA_INLINE I sll32(I a) { return _mm512_slli_epi64(a, 32); }
  STA_INLINE I swap64(I a) { return _mm512_shuffle_epi32(a, _MM_PERM_BADC); }  // adjacent lanes
  STA_INLINE I mul_low(I a, I b) { return _mm512_mul_epu32(a, b); }            // low halves to 64 bits
  STA_INLINE I join_low(I a, I b) { return _mm512_mask_shuffle_epi32(a, 0xaaaa, b, _MM_PERM_CCAA); }  // low halves
  STA_INLINE I unpack_low(I a, I b) { return _mm512_unpacklo_epi64(a, b); }
  STA_INLINE I unpack_high(I a, I b) { return _mm512_unpackhi_epi64(a, b); }

  // A bit for each lane of 16 bits; and the lanes of which the lowest bits are set.
  STA_INLINE uint32_t below16(I a, I b) { return _mm512_cmplt_epu16_mask(a, b); }
  STA_INLINE uint32_t equal16(I a, I b) { return _mm512_cmpeq_epi16_mask(a, b); }
  STA_INLINE M lanes(uint32_t bits) { return static_cast<M>(bits); }

  STA_INLINE I umin(I a, I b) { return _mm512_min_epu32(a, b); }
  STA_INLINE I umax(I a, I b) { return _mm512_max_epu32(a, b); }
  STA_INLINE I smin(I a, I b) { return _mm512_min_epi32(a, b); }
  STA_INLINE I smax(I a, I b) { return _mm512_max_epi32(a, b); }
  STA_INLINE M ieq(I a, I b) { return _mm512_cmpeq_epi32_mask(a, b); }
  STA_INLINE M ult(I a, I b) { return _mm512_cmplt_epu32_mask(a, b); }
  STA_INLINE I iselect(M m, I a, I b) { return _mm512_mask_blend_epi32(m, b, a); }
  STA_INLINE M sgt(I a, I b) { return _mm512_cmpgt_epi32_mask(a, b); }
  // Writes the selected lanes, packed, then anything; returns how many. dst has room for W.
  STA_INLINE int compress(uint32_t* dst, M m, I a) {
    _mm512_storeu_si512(dst, _mm512_maskz_compress_epi32(m, a));
    return __builtin_popcount(m);
  }
  // The other way round: the selected lanes are the next ones from p, where W can be read; the others are those of a.
  STA_INLINE F expand(F a, M m, const float* p) { return _mm512_mask_expand_ps(a, m, load(p)); }

  // Numbers of words, for shuffles: of the first sixteen, each twice; of the upper halves of the lanes, then anything.
  STA_INLINE I twice() {
    const I lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_or_si512(lanes, _mm512_slli_epi32(lanes, 16));
  }
  STA_INLINE I uppers() {
    const __m256i odd = _mm256_setr_epi16(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return _mm512_castsi256_si512(odd);
  }
  // One shuffle, where widening and shifting would be two operations.
  STA_INLINE F load_bf16(const void* p) {
    const I raw = _mm512_castsi256_si512(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, twice(), raw));
  }
  // Bits of a rounded to bfloat16, in the upper half of each lane; what is below them is anything.
  STA_INLINE I round_bf16(F a) {
    const I u = bits(a);
    const I odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), iset(1));
    const I rounded = _mm512_add_epi32(u, _mm512_add_epi32(odd, iset(0x7fff)));
    return _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), u, iset(0x400000));
  }
  STA_INLINE __m256i pack_bf16(F a) {
    return _mm512_castsi512_si256(_mm512_permutexvar_epi16(uppers(), round_bf16(a)));
  }
  // Even and odd elements, rounded and interleaved again.
  STA_INLINE I interleave_bf16(F even, F odd) {
    return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(round_bf16(even), 16), round_bf16(odd));
  }
  STA_INLINE void istream(void* p, I a) { _mm512_stream_si512(static_cast<I*>(p), a); }
  STA_INLINE void store_bf16(void* p, F a) { _mm256_storeu_si256(static_cast<__m256i*>(p), pack_bf16(a)); }
  STA_INLINE void stream_bf16(void* p, F a) { _mm256_stream_si256(static_cast<__m256i*>(p), pack_bf16(a)); }
  STA_INLINE F load_f16(const void* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
  STA_INLINE void store_f16(void* p, F a) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  STA_INLINE F load_f64(const void* p) {
    const double* d = static_cast<const double*>(p);
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(_mm512_loadu_pd(d))),
                              _mm512_cvtpd_ps(_mm512_loadu_pd(d + 8)), 1);
  }
  STA_INLINE void store_f64(void* p, F a) {
    double* d = static_cast<double*>(p);
    _mm512_storeu_pd(d, _mm512_cvtps_pd(_mm512_castps512_ps256(a)));
    _mm512_storeu_pd(d + 8, _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)));
  }

  // Sixteen float64 sums, one per lane.
  struct D {
    __m512d lo, hi;
  };
  STA_INLINE D dzero() { return {_mm512_setzero_pd(), _mm512_setzero_pd()}; }
  STA_INLINE D dadd(D s, const float* p) {  // widened as they are loaded, which costs no shuffle
    return {_mm512_add_pd(s.lo, _mm512_cvtps_pd(_mm256_loadu_ps(p))),
            _mm512_add_pd(s.hi, _mm512_cvtps_pd(_mm256_loadu_ps(p + 8)))};
  }
  STA_INLINE void dstore(double* p, D s) {
    _mm512_storeu_pd(p, s.lo);
    _mm512_storeu_pd(p + 8, s.hi);
  }
};

}  // namespace
