// The kernels for AVX2 with FMA and F16C.
#if defined(__x86_64__)
#include "simd/vec_avx2.h"
#define STA_TABLE kAvx2Kernels
#define STA_ISA_LABEL "avx2"
#include "kernels/all.inl"
#endif
