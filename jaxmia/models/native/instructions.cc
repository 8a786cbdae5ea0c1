// Compiler of the kernels, and which instructions they are compiled with.

#include "tiles.h"

extern "C" const char* jaxmia_compiler() {
#if defined(__clang__)
  return __VERSION__;
#else
  return "GCC " __VERSION__;
#endif
}

// Names as in Linux's /proc/cpuinfo, separated by spaces.
extern "C" const char* jaxmia_instructions() {
  return ""
#if defined(__AVX2__)
         "avx2 "
#endif
#if defined(__FMA__)
         "fma "
#endif
#if defined(__AVX512F__)
         "avx512f "
#endif
#if defined(__AVX512VL__)
         "avx512vl "
#endif
#if defined(__AVX512BF16__)
         "avx512_bf16 "
#endif
#if defined(JAXMIA_TILES)
         "amx_bf16 "
#endif
      ;
}
