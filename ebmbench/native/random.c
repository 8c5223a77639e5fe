/* Philox4x32-10 words and standard normals, as ebmbench/rng.py defines them. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "simd.h"

typedef uint32_t vu __attribute__((vector_size(4 * VL)));
typedef int32_t vs __attribute__((vector_size(4 * VL)));
#define LANES (2 * VL) /* counters at a time */

/* The four words of counters (block + lane, step, stream, 0). */
static inline void philox(uint32_t words[4][LANES], uint32_t block, uint32_t step, uint32_t stream, uint64_t seed)
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int l = 0; l < LANES; l++)
        words[0][l] = block + l, words[1][l] = step, words[2][l] = stream, words[3][l] = 0;
    for (int round = 0; round < 10; round++) {
        for (int l = 0; l < LANES; l++) {
            uint64_t p0 = (uint64_t)words[0][l] * 0xD2511F53u, p1 = (uint64_t)words[2][l] * 0xCD9E8D57u;
            words[0][l] = (uint32_t)(p1 >> 32) ^ words[1][l] ^ k0;
            words[2][l] = (uint32_t)(p0 >> 32) ^ words[3][l] ^ k1;
            words[1][l] = (uint32_t)p1;
            words[3][l] = (uint32_t)p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/* (word + 0.5) / 2^32, rounded as PyTorch rounds: the conversion first. */
INLINE vf unit(const uint32_t *words)
{
    vu w;
    memcpy(&w, words, sizeof w);
    return (__builtin_convertvector(w, vf) + 0.5f) * 0x1p-32f;
}

/* sqrt(-2 log u) for u in (0, 1]; the polynomial is Cephes' logf (public domain). */
INLINE vf radius(vf u)
{
    vu bits = (vu)u + (0x3f800000u - 0x3f3504f3u);
    vf e = __builtin_convertvector((vs)(bits >> 23) - 127, vf);
    vf m = (vf)((bits & 0x007fffffu) + 0x3f3504f3u) - 1.0f, z = m * m;
    vf p = m * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    p = p * m * z + e * -2.12194440e-4f - 0.5f * z;
    vf s = -2.0f * (m + p + e * 0.693359375f);
    for (int l = 0; l < VL; l++)
        ((float *)&s)[l] = sqrtf(((float *)&s)[l] > 0 ? ((float *)&s)[l] : 0);
    return s;
}

/* sin and cos of an angle in [0, 2π]: the quadrant, and Cephes' polynomials on ±π/4. */
INLINE void sincos_(vf angle, vf *sine, vf *cosine)
{
    vf k = (angle * 0.636619772f + 12582912.0f) - 12582912.0f;
    vs quadrant = __builtin_convertvector(k, vs);
    vf r = angle - k * 1.5703125f;
    r = r - k * 4.83751297e-4f;
    r = r - k * 7.54978995e-8f;
    vf z = r * r;
    vf s = ((z * -1.9515295891e-4f + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * r + r;
    vf c = ((z * 2.443315711809948e-5f - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z - 0.5f * z + 1.0f;
    vs odd = -(quadrant & 1), s_sign = (quadrant & 2) << 30, c_sign = ((quadrant + 1) & 2) << 30;
    *sine = (vf)(((odd & (vs)c) | (~odd & (vs)s)) ^ s_sign);
    *cosine = (vf)(((odd & (vs)s) | (~odd & (vs)c)) ^ c_sign);
}

#define TASK 4096 /* counters in a task */

/* Words as int64 `[seeds, size]`. */
void ebm_words(int64_t *to, const int64_t *seeds, long num_seeds, uint32_t step, uint32_t stream, long size,
               int threads)
{
    const long blocks = (size + 3) / 4, tasks = (blocks + TASK - 1) / TASK;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (num_seeds * size > 4 * TASK)
    for (long task = 0; task < num_seeds * tasks; task++) {
        const long seed = task / tasks, first = task % tasks * TASK;
        const long last = first + TASK < blocks ? first + TASK : blocks;
        int64_t *row = to + seed * size;
        for (long block = first; block < last; block += LANES) {
            uint32_t words[4][LANES];
            philox(words, (uint32_t)block, step, stream, (uint64_t)seeds[seed]);
            for (int l = 0; l < LANES; l++)
                for (int w = 0; w < 4; w++)
                    if (block + l < last && 4 * (block + l) + w < size)
                        row[4 * (block + l) + w] = words[w][l];
        }
    }
}

/* Standard normals `[seeds, size]`: Box-Muller on pairs of words. */
void ebm_normal(float *to, const int64_t *seeds, long num_seeds, uint32_t step, uint32_t stream, long size, int threads)
{
    const long blocks = (size + 3) / 4, tasks = (blocks + TASK - 1) / TASK;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (num_seeds * size > 4 * TASK)
    for (long task = 0; task < num_seeds * tasks; task++) {
        const long seed = task / tasks, first = task % tasks * TASK;
        const long last = first + TASK < blocks ? first + TASK : blocks;
        float *row = to + seed * size;
        for (long block = first; block < last; block += LANES) {
            uint32_t words[4][LANES];
            float normals[4][LANES], ordered[4 * LANES];
            philox(words, (uint32_t)block, step, stream, (uint64_t)seeds[seed]);
            for (int pair = 0; pair < 4; pair += 2)
                for (int l = 0; l < LANES; l += VL) {
                    vf s, c, r = radius(unit(words[pair] + l));
                    sincos_(unit(words[pair + 1] + l) * 6.283185307179586f, &s, &c);
                    s *= r, c *= r;
                    memcpy(normals[pair] + l, &c, sizeof c);
                    memcpy(normals[pair + 1] + l, &s, sizeof s);
                }
            for (int l = 0; l < LANES; l++)
                for (int w = 0; w < 4; w++)
                    ordered[4 * l + w] = normals[w][l];
            long count = size - 4 * block < 4 * LANES ? size - 4 * block : 4 * LANES;
            if (4 * (last - block) < count)
                count = 4 * (last - block);
            memcpy(row + 4 * block, ordered, count * sizeof(float));
        }
    }
}
