/* Vectors of floats as wide as the machine's, in GCC's and Clang's own vector types. */
#ifndef EBMBENCH_SIMD_H
#define EBMBENCH_SIMD_H

#if defined(__AVX__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))

#if defined(__AVX512F__)
#define VL 16
typedef __m512 vf;
#define splat(x) _mm512_set1_ps(x)
/* The second operand is returned where one is NaN: a NaN must not be clamped away. */
#define vmin(bound, x) _mm512_min_ps(bound, x)
#define vmax(bound, x) _mm512_max_ps(bound, x)
#elif defined(__AVX__)
#define VL 8
typedef __m256 vf;
#define splat(x) _mm256_set1_ps(x)
#define vmin(bound, x) _mm256_min_ps(bound, x)
#define vmax(bound, x) _mm256_max_ps(bound, x)
#else
#define VL 4
typedef float vf __attribute__((vector_size(16)));
typedef int vi __attribute__((vector_size(16)));
INLINE vf splat(float x) { return (vf){x, x, x, x}; }
INLINE vf select_(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
INLINE vf vmin(vf bound, vf x) { return select_(bound < x, bound, x); }
INLINE vf vmax(vf bound, vf x) { return select_(bound > x, bound, x); }
#endif

/* Loads v once, where compilers would rather load it for each of its uses. */
#if defined(__AVX__)
#define IN_REGISTER(v) __asm__("" : "+x"(v))
#else
#define IN_REGISTER(v) (void)(v)
#endif

INLINE float hsum(vf v)
{
    float s[VL];
    __builtin_memcpy(s, &v, sizeof v);
    for (int width = VL / 2; width; width /= 2)
        for (int k = 0; k < width; k++)
            s[k] += s[k + width];
    return s[0];
}

/* tanh by a rational function, fitted to tanh on [-8.1, 8.1] with equal ripples of 1.4e-7; error below 5e-7 in float32. */
INLINE vf vtanh(vf x)
{
    x = vmax(splat(-8.1f), vmin(splat(8.1f), x));
    vf z = x * x;
    vf p = splat(1.12062344e-05f) * z + splat(2.92910632e-03f);
    p = p * z + splat(1.29045334e-01f);
    p = p * z + splat(9.99999293e-01f);
    vf q = splat(2.39079155e-07f) * z + splat(2.35661022e-04f);
    q = q * z + splat(2.37239026e-02f);
    q = q * z + splat(4.62376086e-01f);
    q = q * z + splat(1.0f);
    return x * p / q;
}

#endif
