// The kernels for AVX-512 F, BW, DQ and VL.
#if defined(__x86_64__)
#include "simd/vec_avx512.h"
#define STA_TABLE kAvx512Kernels
#define STA_ISA_LABEL "avx512"
#include "kernels/all.inl"
#endif
