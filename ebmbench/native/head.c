/* The head of the energy networks for tables and images, and its derivatives, fused: networks/fused_head.py is its
 * Python side.
 *
 *     t = tanh(A y + a),  u = tanh(V t + v),  f = w · (t + u) + c
 *
 * a is what the features of x add, one row for each example. As in energy.c, samples are walked in blocks whose
 * activations stay in a cache, and the backward pass computes them again. tasks.h says how the work is cut.
 */
#include <stdlib.h>
#include <string.h>

#include "simd.h"
#include "tasks.h"

#define WIDTH 64 /* units, at most; computed are multiples of TILE, the last of them with weights of zero */
#define DIM 16   /* targets, at most */
#define TILE 4
#define NV 8
#define BLOCK (NV * VL) /* samples in a block */

typedef vf Rows[WIDTH][NV];   /* a value of each unit for each sample of a block */
typedef vf Targets[DIM][NV]; /* a value of each target for each sample of a block */

/* One seed's parameters. `units` is the width, `padded` the number of units that are computed. */
typedef struct {
    int units, padded, dim;
    float a[WIDTH * DIM], v[WIDTH * WIDTH], vb[WIDTH], w[WIDTH], c;
} Head;

enum { A, V, VB, W, C, PARAMETERS }; /* the order of parameters, and of a gradient */

static long total(int units, int dim) { return (long)units * dim + (long)units * units + 2 * units + 1; }

static void load_head(Head *n, const float *const *parameters, const long *strides, long seed, int units, int dim)
{
    memset(n, 0, sizeof *n);
    n->units = units, n->padded = (units + TILE - 1) / TILE * TILE, n->dim = dim;
    memcpy(n->a, parameters[A] + seed * strides[A], units * dim * sizeof(float));
    for (int o = 0; o < units; o++)
        memcpy(n->v + o * n->padded, parameters[V] + seed * strides[V] + o * units, units * sizeof(float));
    memcpy(n->vb, parameters[VB] + seed * strides[VB], units * sizeof(float));
    memcpy(n->w, parameters[W] + seed * strides[W], units * sizeof(float));
    n->c = parameters[C][seed * strides[C]];
}

/* Sums over the samples of a task, a vector each: `v` is padded × padded, `a` padded × DIM. */
typedef struct {
    vf *v, *a, vb[WIDTH], w[WIDTH], c;
} Sums;

static void sums_into(const Head *n, const Sums *s, float *to)
{
    for (int o = 0; o < n->units; o++)
        for (int d = 0; d < n->dim; d++)
            *to++ = hsum(s->a[o * DIM + d]);
    for (int o = 0; o < n->units; o++)
        for (int i = 0; i < n->units; i++)
            *to++ = hsum(s->v[o * n->padded + i]);
    for (int o = 0; o < n->units; o++)
        *to++ = hsum(s->vb[o]);
    for (int o = 0; o < n->units; o++)
        *to++ = hsum(s->w[o]);
    *to = hsum(s->c);
}

/* The samples at hand: `at .. at + count - 1` of a task, whose example e holds samples e·m .. The lanes past the last
 * sample hold zeros, and add nothing. */
typedef struct {
    long at, m;
    int count, vectors; /* an even number of vectors */
    long example[NV];   /* whose samples fill this vector; -1 where there are several */
    Targets y;
    Rows a;
} Block;

static void load_targets(const Block *b, const float *from, int dim, Targets to)
{
    const float *y = from + b->at * dim;
    memset(to, 0, dim * sizeof *to);
    for (int d = 0; d < dim; d++) {
        float *row = (float *)to[d];
        for (int k = 0; k < b->count; k++)
            row[k] = y[k * dim + d];
    }
}

static void store_targets(const Block *b, float *to, int dim, Targets from)
{
    float *y = to + b->at * dim;
    for (int d = 0; d < dim; d++) {
        const float *row = (const float *)from[d];
        for (int k = 0; k < b->count; k++)
            y[k * dim + d] = row[k];
    }
}

static void block_start(Block *b, const Head *n, long at, long end, long m, const float *y, const float *from_x)
{
    b->at = at, b->m = m;
    b->count = end - at < BLOCK ? (int)(end - at) : BLOCK;
    b->vectors = (b->count + 2 * VL - 1) / (2 * VL) * 2;
    load_targets(b, y, n->dim, b->y);
    for (int j = 0; j < b->vectors; j++) {
        long first = at + j * VL, last = first + VL - 1;
        if (first >= end)
            first = end - 1;
        if (last >= end)
            last = end - 1;
        b->example[j] = first / m == last / m ? first / m : -1;
        if (b->example[j] >= 0) {
            for (int o = 0; o < n->units; o++)
                b->a[o][j] = splat(from_x[b->example[j] * n->units + o]);
        } else
            for (int k = 0; k < VL; k++) {
                const float *row = from_x + (first + k < end ? first + k : end - 1) / m * n->units;
                for (int o = 0; o < n->units; o++)
                    ((float *)&b->a[o][j])[k] = row[o];
            }
        for (int o = n->units; o < n->padded; o++)
            b->a[o][j] = splat(0);
    }
}

/* Adds each example's sum of `d` over its samples to its row of `to`. */
static void add_to_examples(const Block *b, const Head *n, Rows d, float *to)
{
    for (int j = 0; j < b->vectors;) {
        int next = j + 1;
        if (b->example[j] >= 0) {
            while (next < b->vectors && b->example[next] == b->example[j])
                next++;
            for (int o = 0; o < n->units; o++) {
                vf sum = d[o][j];
                for (int k = j + 1; k < next; k++)
                    sum += d[o][k];
                to[b->example[j] * n->units + o] += hsum(sum);
            }
        } else
            for (int k = j * VL; k < (j + 1) * VL && k < b->count; k++)
                for (int o = 0; o < n->units; o++)
                    to[(b->at + k) / b->m * n->units + o] += ((const float *)d[o])[k];
        j = next;
    }
}

/* Every unit of every vector in use. */
#define EACH(o, j)                                                                                                    \
    for (int o = 0; o < n->padded; o++)                                                                               \
        for (int j = 0; j < b->vectors; j++)

/* out[o] (+)= Σ_i w[o·row + i·col] in[i] (+ bias[o]): all units, two vectors and TILE units at a time. */
INLINE void product(const Head *n, const Block *b, Rows out, const float *w, int row, int col, Rows in, int inputs,
                    const float *bias, int add)
{
    for (int j = 0; j < b->vectors; j += 2)
        for (int o = 0; o < n->padded; o += TILE) {
            vf s[TILE][2];
#pragma GCC unroll 4
            for (int k = 0; k < TILE; k++) {
                vf start = bias ? splat(bias[o + k]) : splat(0);
                s[k][0] = add ? out[o + k][j] : start;
                s[k][1] = add ? out[o + k][j + 1] : start;
            }
            for (int i = 0; i < inputs; i++) {
                vf x0 = in[i][j], x1 = in[i][j + 1];
#pragma GCC unroll 4
                for (int k = 0; k < TILE; k++) {
                    vf wk = splat(w[(o + k) * row + i * col]);
                    s[k][0] += wk * x0;
                    s[k][1] += wk * x1;
                }
            }
#pragma GCC unroll 4
            for (int k = 0; k < TILE; k++)
                out[o + k][j] = s[k][0], out[o + k][j + 1] = s[k][1];
        }
}

static NOINLINE void mix(const Head *n, const Block *b, Rows out, Rows in, const float *bias)
{
    product(n, b, out, n->v, n->padded, 1, in, n->padded, bias, 0);
}

static NOINLINE void mix_back(const Head *n, const Block *b, Rows out, Rows in)
{
    product(n, b, out, n->v, 1, n->padded, in, n->padded, 0, 1);
}

/* sums += p qᵀ over the samples of a block. */
static NOINLINE void outer(const Head *n, const Block *b, vf *sums, Rows p, Rows q)
{
    for (int o = 0; o < n->padded; o += TILE)
        for (int i = 0; i < n->padded; i += 2) {
            vf s[TILE][2], *to = sums + o * n->padded + i;
#pragma GCC unroll 4
            for (int k = 0; k < TILE; k++)
                s[k][0] = to[k * n->padded], s[k][1] = to[k * n->padded + 1];
            for (int j = 0; j < b->vectors; j++) {
                vf x0 = q[i][j], x1 = q[i + 1][j];
#pragma GCC unroll 4
                for (int k = 0; k < TILE; k++) {
                    vf y = p[o + k][j];
                    s[k][0] += y * x0;
                    s[k][1] += y * x1;
                }
            }
#pragma GCC unroll 4
            for (int k = 0; k < TILE; k++)
                to[k * n->padded] = s[k][0], to[k * n->padded + 1] = s[k][1];
        }
}

/* sums += p yᵀ, for the slopes A. */
static void outer_targets(const Head *n, const Block *b, vf *sums, Rows p, Targets y)
{
    for (int o = 0; o < n->padded; o++)
        for (int d = 0; d < n->dim; d++)
            for (int j = 0; j < b->vectors; j++)
                sums[o * DIM + d] += p[o][j] * y[d][j];
}

/* out = A y, without what comes from x. */
static void from_targets(const Head *n, const Block *b, Rows out, Targets y)
{
    EACH(o, j)
    {
        vf s = splat(0);
        for (int d = 0; d < n->dim; d++)
            s += splat(n->a[o * n->dim + d]) * y[d][j];
        out[o][j] = s;
    }
}

/* out = Aᵀ p. */
static void to_targets(const Head *n, const Block *b, Targets out, Rows p)
{
    for (int d = 0; d < n->dim; d++)
        for (int j = 0; j < b->vectors; j++) {
            vf s = splat(0);
            for (int o = 0; o < n->padded; o++)
                s += splat(n->a[o * n->dim + d]) * p[o][j];
            out[d][j] = s;
        }
}

/* t and u of a block. */
static void activations(const Head *n, const Block *b, Rows t, Rows u)
{
    from_targets(n, b, t, (vf(*)[NV])b->y);
    EACH(o, j) t[o][j] = vtanh(t[o][j] + b->a[o][j]);
    mix(n, b, u, t, n->vb);
    EACH(o, j) u[o][j] = vtanh(u[o][j]);
}

/* Values, and ∂f/∂y where it is asked for. */
static void forward_block(const Head *n, const Block *b, vf *value, vf (*slope)[NV])
{
    Rows t, u, p;
    activations(n, b, t, u);
    for (int j = 0; j < b->vectors; j++)
        value[j] = splat(n->c);
    EACH(o, j) value[j] += splat(n->w[o]) * (t[o][j] + u[o][j]);
    if (!slope)
        return;
    EACH(o, j)
    {
        p[o][j] = splat(n->w[o]);
        u[o][j] = p[o][j] * (1 - u[o][j] * u[o][j]);
    }
    mix_back(n, b, p, u);
    EACH(o, j) p[o][j] *= 1 - t[o][j] * t[o][j];
    to_targets(n, b, slope, p);
}

/* The derivative of Σ g·f with respect to the parameters (into `s`), to a (`to_x`) and to y (`dy`). */
static void backward_block(const Head *n, const Block *b, const vf *g, Targets dy, Sums *s, float *to_x)
{
    Rows t, u, p;
    activations(n, b, t, u);
    for (int j = 0; j < b->vectors; j++)
        s->c += g[j];
    for (int o = 0; o < n->padded; o++) {
        vf sw = s->w[o], sb = s->vb[o], w = splat(n->w[o]);
        for (int j = 0; j < b->vectors; j++) {
            sw += g[j] * (t[o][j] + u[o][j]);
            p[o][j] = g[j] * w;
            u[o][j] = p[o][j] * (1 - u[o][j] * u[o][j]);
            sb += u[o][j];
        }
        s->w[o] = sw, s->vb[o] = sb;
    }
    outer(n, b, s->v, u, t);
    mix_back(n, b, p, u);
    EACH(o, j) p[o][j] *= 1 - t[o][j] * t[o][j];
    outer_targets(n, b, s->a, p, (vf(*)[NV])b->y);
    add_to_examples(b, n, p, to_x);
    to_targets(n, b, dy, p);
}

/* The same for Σ g·∂f/∂y, with a g for each target: the derivative of f along g, and then its reverse.
 * A dot names the derivative along g: ḟ = w·(ṫ + u̇), ṫ = (1 − t²) A g, u̇ = (1 − u²) V ṫ. */
static void slope_backward_block(const Head *n, const Block *b, Targets g, Targets dy, Sums *s, float *to_x)
{
    Rows t, u, along, t_dot, mixed, p, q;
    activations(n, b, t, u);
    from_targets(n, b, along, g);
    EACH(o, j) t_dot[o][j] = (1 - t[o][j] * t[o][j]) * along[o][j];
    mix(n, b, mixed, t_dot, 0);
    for (int o = 0; o < n->padded; o++) {
        vf sw = s->w[o], sb = s->vb[o], w = splat(n->w[o]);
        for (int j = 0; j < b->vectors; j++) {
            vf out = u[o][j], rest = 1 - out * out, zt = mixed[o][j];
            sw += t_dot[o][j] + rest * zt;
            mixed[o][j] = rest * w;                 /* to V ṫ */
            u[o][j] = -2 * out * zt * mixed[o][j]; /* to V t + v */
            sb += u[o][j];
            p[o][j] = splat(0);
            q[o][j] = w;
        }
        s->w[o] = sw, s->vb[o] = sb;
    }
    outer(n, b, s->v, u, t);
    outer(n, b, s->v, mixed, t_dot);
    mix_back(n, b, p, u);     /* to t */
    mix_back(n, b, q, mixed); /* to ṫ */
    EACH(o, j)
    {
        vf out = t[o][j], rest = 1 - out * out;
        p[o][j] = (p[o][j] - 2 * out * along[o][j] * q[o][j]) * rest;
        q[o][j] *= rest;
    }
    outer_targets(n, b, s->a, p, (vf(*)[NV])b->y);
    outer_targets(n, b, s->a, q, g);
    add_to_examples(b, n, p, to_x);
    to_targets(n, b, dy, p);
}

/* Floats that ebm_head_backward needs for its partial gradients. */
long ebm_head_partials(long seeds, long batch, long m, int units, int dim)
{
    return seeds * task_count(batch, m) * total(units, dim);
}

/* f [S, B, M] and its y-derivative [S, B, M, D], where asked for, at a [S, B, units], y [S, B, M, D]. */
void ebm_head_forward(const float *const *parameters, const long *strides, const float *from_x, const float *y,
                      float *value, float *slope, long seeds, long batch, long m, int units, int dim, int threads)
{
    const long tasks = task_count(batch, m);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (long task = 0; task < seeds * tasks; task++) {
        const Share share = task_share(task, batch, m);
        const long row = share.row, end = share.count * m;
        Head n;
        Block b;
        vf f[NV];
        Targets s;
        load_head(&n, parameters, strides, share.seed, units, dim);
        for (long k = 0; k < end; k += BLOCK) {
            block_start(&b, &n, k, end, m, y + row * m * dim, from_x + row * units);
            forward_block(&n, &b, f, slope ? s : 0);
            if (value)
                memcpy(value + row * m + k, f, b.count * sizeof(float));
            if (slope)
                store_targets(&b, slope + row * m * dim, dim, s);
        }
    }
}

/* The derivative of Σ g·f, g [S, B, M] (of Σ g·∂f/∂y, g [S, B, M, D], if of_slope) with respect to the parameters,
 * [S, all], to a [S, B, units], and to y [S, B, M, D] where asked for. */
void ebm_head_backward(const float *const *parameters, const long *strides, const float *from_x, const float *y,
                       const float *g, int of_slope, float *gradient, float *to_x, float *dy, float *partials,
                       long seeds, long batch, long m, int units, int dim, int threads)
{
    const long tasks = task_count(batch, m), all = total(units, dim);
    memset(to_x, 0, seeds * batch * units * sizeof(float));
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (long task = 0; task < seeds * tasks; task++) {
        const Share share = task_share(task, batch, m);
        const long row = share.row, end = share.count * m;
        Head n;
        Block b;
        Sums s;
        Targets gk, out;
        load_head(&n, parameters, strides, share.seed, units, dim);
        const size_t bytes = (n.padded * n.padded + n.padded * DIM) * sizeof(vf);
        memset(&s, 0, sizeof s);
        s.v = aligned_alloc(sizeof(vf), bytes);
        s.a = s.v + n.padded * n.padded;
        memset(s.v, 0, bytes);
        for (long k = 0; k < end; k += BLOCK) {
            block_start(&b, &n, k, end, m, y + row * m * dim, from_x + row * units);
            load_targets(&b, g + row * m * (of_slope ? dim : 1), of_slope ? dim : 1, gk);
            if (of_slope)
                slope_backward_block(&n, &b, gk, out, &s, to_x + row * units);
            else
                backward_block(&n, &b, gk[0], out, &s, to_x + row * units);
            if (dy)
                store_targets(&b, dy + row * m * dim, dim, out);
        }
        sums_into(&n, &s, partials + task * all);
        free(s.v);
    }
    sum_partials(gradient, partials, seeds, tasks, all);
}
