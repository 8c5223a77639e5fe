/* The most that this machine computes, for the benchmarks: multiply-adds that wait for nothing but one another. */
#include "simd.h"

#define CHAINS 12 /* more than the units of a core times their latency, and few enough for its registers */

/* Returns the number of floating-point operations done. */
double ebm_peak(long rounds, int threads)
{
    float kept = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : kept)
    for (int thread = 0; thread < threads; thread++) {
        vf chain[CHAINS], scale = splat(0.999f), shift = splat(0.001f);
        for (int k = 0; k < CHAINS; k++)
            chain[k] = splat((float)(k + thread));
        for (long round = 0; round < rounds; round++)
            for (int k = 0; k < CHAINS; k++)
                chain[k] = chain[k] * scale + shift;
        for (int k = 0; k < CHAINS; k++)
            kept += hsum(chain[k]);
    }
    return kept == 0 ? 0 : 2.0 * VL * CHAINS * rounds * threads;
}
