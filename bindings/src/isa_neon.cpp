// The kernels for AArch64, whose baseline includes NEON.
#if defined(__aarch64__)
#include "simd/vec_generic.h"
#define STA_TABLE kNeonKernels
#define STA_ISA_LABEL "neon"
#include "kernels/all.inl"
#endif
