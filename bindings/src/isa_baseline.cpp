// The kernels for any processor: SSE2 on x86-64, whatever the compiler makes of four lanes elsewhere.
#if !defined(__aarch64__)
#include "simd/vec_generic.h"
#define STA_TABLE kBaselineKernels
#define STA_ISA_LABEL "baseline"
#include "kernels/all.inl"
#endif
