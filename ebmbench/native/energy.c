/* The 1D network and its derivatives, fused: see networks/fused.py for what is computed and the Python side.
 *
 * Samples are walked in blocks of a few vectors, so all activations of a block stay in the first-level cache; within
 * a layer the samples are the innermost, vectorised axis and tiles of 5 units by 2 vectors stay in registers. The
 * backward pass computes the block's activations again: that is cheaper than to store and load them.
 *
 * tasks.h says how the work is cut.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "simd.h"
#include "tasks.h"

#define H 10
#define BLOCK 96 /* samples in a block */
#define NV (BLOCK / VL)

/* All parameters of one model, in the order of paper.py's LAYERS; also the layout of a gradient. */
typedef struct {
    float x1w[H], x1b[H], x2w[H * H], x2b[H], yw[H], yb[H], jw[H * 2 * H], jb[H];
    float r1w[H * H], r1b[H], r2w[H * H], r2b[H], ow[H], ob[1];
} Net;
#define TOTAL ((int)(sizeof(Net) / sizeof(float)))

typedef vf Rows[H][NV]; /* a value of each unit for each sample of a block */

/* The features of x, and what they add to the joint layer, for one example. */
typedef struct {
    float u1[H], u2[H], joint[H];
} XPart;

static void x_forward(const Net *n, float x, XPart *p)
{
    for (int o = 0; o < H; o++) {
        float u = n->x1w[o] * x + n->x1b[o];
        p->u1[o] = u < 0 ? 0 : u; /* keeps a NaN */
    }
    for (int o = 0; o < H; o++) {
        float u = n->x2b[o];
        for (int i = 0; i < H; i++)
            u += n->x2w[o * H + i] * p->u1[i];
        p->u2[o] = u < 0 ? 0 : u;
    }
    for (int o = 0; o < H; o++) {
        float u = n->jb[o];
        for (int i = 0; i < H; i++)
            u += n->jw[o * 2 * H + i] * p->u2[i];
        p->joint[o] = u;
    }
}

/* Adds to `g` what the derivative `d` with respect to `joint` says. */
static void x_backward(const Net *n, float x, const XPart *p, const float *d, Net *g)
{
    float d2[H], d1[H];
    for (int i = 0; i < H; i++) {
        float s = 0;
        for (int o = 0; o < H; o++)
            s += n->jw[o * 2 * H + i] * d[o];
        d2[i] = p->u2[i] > 0 ? s : 0;
    }
    for (int i = 0; i < H; i++) {
        float s = 0;
        for (int o = 0; o < H; o++)
            s += n->x2w[o * H + i] * d2[o];
        d1[i] = p->u1[i] > 0 ? s : 0;
    }
    for (int o = 0; o < H; o++) {
        g->jb[o] += d[o];
        g->x2b[o] += d2[o];
        g->x1b[o] += d1[o];
        g->x1w[o] += d1[o] * x;
        for (int i = 0; i < H; i++) {
            g->jw[o * 2 * H + i] += d[o] * p->u2[i];
            g->x2w[o * H + i] += d2[o] * p->u1[i];
        }
    }
}

/* Makes compilers read through the pointer here, instead of moving a whole tile's loads out of a loop and spilling. */
#define FRESH(pointer) __asm__("" : "+r"(pointer)::"memory")

/* What an affine tile of two vectors starts from: nothing; what is there; the bias; the bias for the first vector and
 * nothing for the second; given rows for both; given rows for the first and nothing for the second. */
enum { ZERO, ADD, BIAS, BIAS_ZERO, START, START_ZERO };

/* out[o] = start + Σ_i W[o, i] in[i] for two vectors of samples; W[o, i] is w[o·row + i·col]. */
INLINE void affine(vf *out0, vf *out1, const float *w, int row, int col, const vf *in0, const vf *in1, int from,
                   const float *bias, const vf *start)
{
#pragma GCC unroll 2
    for (int o = 0; o < H; o += 5) {
        vf a[5][2];
        const float *wo = w + o * row;
        FRESH(wo);
        FRESH(in0);
        FRESH(in1);
#pragma GCC unroll 5
        for (int k = 0; k < 5; k++) {
            a[k][0] = a[k][1] = splat(0);
            if (from == ADD)
                a[k][0] = out0[(o + k) * NV], a[k][1] = out1[(o + k) * NV];
            if (from == BIAS || from == BIAS_ZERO)
                a[k][0] = splat(bias[o + k]);
            if (from == BIAS)
                a[k][1] = a[k][0];
            if (from == START || from == START_ZERO)
                a[k][0] = start[(o + k) * NV];
            if (from == START)
                a[k][1] = start[(o + k) * NV + 1];
        }
#pragma GCC unroll 10
        for (int i = 0; i < H; i++) {
            vf x0 = in0[i * NV], x1 = in1[i * NV];
#pragma GCC unroll 5
            for (int k = 0; k < 5; k++) {
                vf wk = splat(wo[k * row + i * col]);
                a[k][0] += wk * x0;
                a[k][1] += wk * x1;
            }
        }
#pragma GCC unroll 5
        for (int k = 0; k < 5; k++)
            out0[(o + k) * NV] = a[k][0], out1[(o + k) * NV] = a[k][1];
    }
}

/* sums += A Bᵀ (+ C Dᵀ) over the samples of a block: 10 × 10 sums, a vector each. */
INLINE void outer_(vf (*sums)[H], Rows a, Rows b, vf (*c)[NV], vf (*d)[NV])
{
    for (int o = 0; o < H; o += 5)
        for (int i = 0; i < H; i += 2) {
            vf s[5][2];
            const vf *pa = a[o], *pb = b[i], *pc = c ? c[o] : 0, *pd = d ? d[i] : 0;
#pragma GCC unroll 5
            for (int k = 0; k < 5; k++)
                s[k][0] = sums[o + k][i], s[k][1] = sums[o + k][i + 1];
#pragma GCC unroll 8
            for (int j = 0; j < NV; j++) {
                vf x0 = pb[j], x1 = pb[NV + j];
#pragma GCC unroll 5
                for (int k = 0; k < 5; k++) {
                    vf y = pa[k * NV + j];
                    IN_REGISTER(y);
                    s[k][0] += y * x0;
                    s[k][1] += y * x1;
                }
                if (c) {
                    x0 = pd[j], x1 = pd[NV + j];
#pragma GCC unroll 5
                    for (int k = 0; k < 5; k++) {
                        vf y = pc[k * NV + j];
                        IN_REGISTER(y);
                        s[k][0] += y * x0;
                        s[k][1] += y * x1;
                    }
                }
            }
#pragma GCC unroll 5
            for (int k = 0; k < 5; k++)
                sums[o + k][i] = s[k][0], sums[o + k][i + 1] = s[k][1];
        }
}

static NOINLINE void outer(vf (*sums)[H], Rows a, Rows b) { outer_(sums, a, b, 0, 0); }
static NOINLINE void outer2(vf (*sums)[H], Rows a, Rows b, Rows c, Rows d) { outer_(sums, a, b, c, d); }

/* The block that is walked: samples `at .. at + count - 1` of a task, whose example e holds samples e·m .. */
typedef struct {
    long at, m;
    int count; /* past it: y = 0 and no gradient, so these samples add nothing */
    long filled;   /* the one example that fills all of ax, or -1 */
    vf y[NV];
    Rows ax; /* the joint layer's input from x and its bias */
} Block;

static void block_start(Block *b, long at, long end, long m, const float *y, const XPart *xs)
{
    b->at = at, b->m = m;
    b->count = end - at < BLOCK ? (int)(end - at) : BLOCK;
    if (b->count == BLOCK)
        memcpy(b->y, y + at, sizeof b->y);
    else {
        memset(b->y, 0, sizeof b->y);
        memcpy(b->y, y + at, b->count * sizeof(float));
    }
    long first = at / m, last = (at + b->count - 1) / m;
    if (first == last) {
        if (b->filled != first)
            for (int i = 0; i < H; i++)
                for (int j = 0; j < NV; j++)
                    b->ax[i][j] = splat(xs[first].joint[i]);
        b->filled = first;
    } else {
        float(*ax)[BLOCK] = (float(*)[BLOCK])b->ax;
        for (int n = 0; n < BLOCK; n++) {
            const float *joint = xs[n < b->count ? (at + n) / m : last].joint;
            for (int i = 0; i < H; i++)
                ax[i][n] = joint[i];
        }
        b->filled = -1;
    }
}

/* Values per sample into a block's vectors, zero past the end. */
static void block_load(const Block *b, vf *to, const float *from)
{
    memset(to, 0, NV * sizeof(vf));
    memcpy(to, from + b->at, b->count * sizeof(float));
}

/* Adds each example's sum of `d` over its samples to its row of `joint`; vectors of the example at hand wait in `wait`. */
typedef struct {
    long example;
    vf sum[H];
} Wait;

static void wait_flush(Wait *w, float (*joint)[H])
{
    if (w->example >= 0)
        for (int i = 0; i < H; i++)
            joint[w->example][i] += hsum(w->sum[i]);
    memset(w->sum, 0, sizeof w->sum);
}

static void wait_add(Wait *w, const Block *b, Rows d, float (*joint)[H])
{
    if (b->filled >= 0) {
        if (w->example != b->filled) {
            wait_flush(w, joint);
            w->example = b->filled;
        }
        for (int i = 0; i < H; i++)
            for (int j = 0; j < NV; j++)
                w->sum[i] += d[i][j];
    } else {
        const float(*rows)[BLOCK] = (const float(*)[BLOCK])d;
        for (int n = 0; n < b->count; n++)
            for (int i = 0; i < H; i++)
                joint[(b->at + n) / b->m][i] += rows[i][n];
    }
}

/* Every sample of a block: j over the vectors in use, i over the units. */
#define EACH(i, j)                                                                                                    \
    for (int i = 0; i < H; i++)                                                                                       \
        for (int j = 0; j < NV; j++)

/* Whole blocks, each of them compiled once: z = W h + start and, with tangents, zt = W ht; out (+)= Wᵀ d. */
#define LAYER(name, row, from)                                                                                        \
    static NOINLINE void name(Rows z, const float *w, Rows h, const float *bias, Rows start)                          \
    {                                                                                                                 \
        for (int j = 0; j < NV; j += 2)                                                                               \
            affine(&z[0][j], &z[0][j + 1], w, row, 1, &h[0][j], &h[0][j + 1], from, bias, &start[0][j]);              \
    }
#define LAYER_TANGENT(name, row, from)                                                                                \
    static NOINLINE void name(Rows z, Rows zt, const float *w, Rows h, Rows ht, const float *bias, Rows start)        \
    {                                                                                                                 \
        for (int j = 0; j < NV; j++)                                                                                  \
            affine(&z[0][j], &zt[0][j], w, row, 1, &h[0][j], &ht[0][j], from, bias, &start[0][j]);                    \
    }
#define LAYER_BACK(name, row, from)                                                                                   \
    static NOINLINE void name(Rows out, const float *w, Rows d)                                                       \
    {                                                                                                                 \
        for (int j = 0; j < NV; j += 2)                                                                               \
            affine(&out[0][j], &out[0][j + 1], w, 1, row, &d[0][j], &d[0][j + 1], from, 0, 0);                        \
    }
LAYER(joint_layer, 2 * H, START)
LAYER(layer, H, BIAS)
LAYER_TANGENT(joint_tangent, 2 * H, START_ZERO)
LAYER_TANGENT(layer_tangent, H, BIAS_ZERO)
LAYER_BACK(joint_back, 2 * H, ZERO)
LAYER_BACK(layer_back, H, ZERO)
LAYER_BACK(layer_back_add, H, ADD)

/* Values of a block. */
static void value_block(const Net *n, Block *b, vf *value)
{
    Rows h, z;
    EACH(i, j) h[i][j] = vtanh(splat(n->yw[i]) * b->y[j] + splat(n->yb[i]));
    joint_layer(z, n->jw + H, h, 0, b->ax);
    EACH(i, j) h[i][j] = vtanh(z[i][j]);
    layer(z, n->r1w, h, n->r1b, 0);
    EACH(i, j) h[i][j] += vtanh(z[i][j]);
    layer(z, n->r2w, h, n->r2b, 0);
    for (int j = 0; j < NV; j++)
        value[j] = splat(n->ob[0]);
    EACH(i, j) value[j] += splat(n->ow[i]) * (h[i][j] + vtanh(z[i][j]));
}

/* Values and y-derivatives of a block: the derivative is the tangent of y, carried along. */
static void slope_block(const Net *n, Block *b, vf *value, vf *slope)
{
    Rows h, ht, z, zt;
    EACH(i, j)
    {
        vf t = vtanh(splat(n->yw[i]) * b->y[j] + splat(n->yb[i]));
        h[i][j] = t;
        ht[i][j] = (1 - t * t) * splat(n->yw[i]);
    }
    joint_tangent(z, zt, n->jw + H, h, ht, 0, b->ax);
    EACH(i, j)
    {
        vf t = vtanh(z[i][j]);
        h[i][j] = t;
        ht[i][j] = (1 - t * t) * zt[i][j];
    }
    layer_tangent(z, zt, n->r1w, h, ht, n->r1b, 0);
    EACH(i, j)
    {
        vf t = vtanh(z[i][j]);
        h[i][j] += t;
        ht[i][j] += (1 - t * t) * zt[i][j];
    }
    layer_tangent(z, zt, n->r2w, h, ht, n->r2b, 0);
    for (int j = 0; j < NV; j++)
        value[j] = splat(n->ob[0]), slope[j] = splat(0);
    EACH(i, j)
    {
        vf t = vtanh(z[i][j]), w = splat(n->ow[i]);
        value[j] += w * (h[i][j] + t);
        slope[j] += w * (ht[i][j] + (1 - t * t) * zt[i][j]);
    }
}

/* Vector sums over the samples of a task: those parameters that the samples see. */
typedef struct {
    vf yw[H], yb[H], jw[H][H], r1w[H][H], r1b[H], r2w[H][H], r2b[H], ow[H], ob;
} Sums;

static void sums_into(const Sums *s, Net *g)
{
    for (int o = 0; o < H; o++) {
        g->yw[o] = hsum(s->yw[o]), g->yb[o] = hsum(s->yb[o]), g->ow[o] = hsum(s->ow[o]);
        g->r1b[o] = hsum(s->r1b[o]), g->r2b[o] = hsum(s->r2b[o]);
        for (int i = 0; i < H; i++) {
            g->jw[o * 2 * H + H + i] = hsum(s->jw[o][i]);
            g->r1w[o * H + i] = hsum(s->r1w[o][i]);
            g->r2w[o * H + i] = hsum(s->r2w[o][i]);
        }
    }
    g->ob[0] = hsum(s->ob);
}

/* The first layer's part of a backward pass: z is the derivative to its pre-activations. */
#define FIRST_LAYER(i, j, z, extra)                                                                                   \
    sw += (z) * b->y[j] + (extra);                                                                                    \
    sb += (z);                                                                                                        \
    dy[j] += splat(n->yw[i]) * (z)

/* The derivative of Σ g·f with respect to parameters (into `s` and `joint`) and to y. */
static void backward_block(const Net *n, Block *b, const vf *g, vf *dy, Sums *s, Wait *w, float (*joint)[H])
{
    Rows hy, h1, t1, h2, t2, up, d;
    EACH(i, j) hy[i][j] = vtanh(splat(n->yw[i]) * b->y[j] + splat(n->yb[i]));
    joint_layer(d, n->jw + H, hy, 0, b->ax);
    EACH(i, j) h1[i][j] = vtanh(d[i][j]);
    layer(d, n->r1w, h1, n->r1b, 0);
    EACH(i, j)
    {
        vf t = vtanh(d[i][j]);
        t1[i][j] = t;
        h2[i][j] = h1[i][j] + t;
    }
    layer(t2, n->r2w, h2, n->r2b, 0);

    for (int i = 0; i < H; i++) {
        vf ow = splat(n->ow[i]), sw = s->ow[i], sb = s->r2b[i];
        for (int j = 0; j < NV; j++) {
            vf t = vtanh(t2[i][j]), u = g[j] * ow, v = u * (1 - t * t);
            sw += g[j] * (h2[i][j] + t);
            sb += v;
            up[i][j] = u;
            d[i][j] = v;
        }
        s->ow[i] = sw, s->r2b[i] = sb;
    }
    for (int j = 0; j < NV; j++)
        s->ob += g[j];
    outer(s->r2w, d, h2);
    layer_back_add(up, n->r2w, d);

    for (int i = 0; i < H; i++) {
        vf sb = s->r1b[i];
        for (int j = 0; j < NV; j++) {
            d[i][j] = up[i][j] * (1 - t1[i][j] * t1[i][j]);
            sb += d[i][j];
        }
        s->r1b[i] = sb;
    }
    outer(s->r1w, d, h1);
    layer_back_add(up, n->r1w, d);

    EACH(i, j) d[i][j] = up[i][j] * (1 - h1[i][j] * h1[i][j]);
    outer(s->jw, d, hy);
    wait_add(w, b, d, joint);
    joint_back(up, n->jw + H, d);

    for (int j = 0; j < NV; j++)
        dy[j] = splat(0);
    for (int i = 0; i < H; i++) {
        vf sw = s->yw[i], sb = s->yb[i];
        for (int j = 0; j < NV; j++) {
            vf z = up[i][j] * (1 - hy[i][j] * hy[i][j]);
            FIRST_LAYER(i, j, z, splat(0));
        }
        s->yw[i] = sw, s->yb[i] = sb;
    }
}

/* Through out = tanh(z) and outt = (1 − out²) zt: from the derivatives u, ut of out, outt to d, dt of z, zt. */
#define TANH_BACK(out, zt, u, ut, d, dt)                                                                              \
    do {                                                                                                              \
        vf o_ = (out), c_ = 1 - o_ * o_, ut_ = (ut);                                                                  \
        (d) = ((u) - 2 * o_ * (zt) * ut_) * c_;                                                                       \
        (dt) = ut_ * c_;                                                                                              \
    } while (0)

/* The derivative of Σ g·∂f/∂y with respect to parameters and to y: the tangent pass, and then its reverse. */
static void slope_backward_block(const Net *n, Block *b, const vf *g, vf *dy, Sums *s, Wait *w, float (*joint)[H])
{
    Rows hy, hyt, h1, h1t, z0t, t1, z1t, h2, h2t, z2t, up, upt, d, dt;
    EACH(i, j)
    {
        vf t = vtanh(splat(n->yw[i]) * b->y[j] + splat(n->yb[i]));
        hy[i][j] = t;
        hyt[i][j] = (1 - t * t) * splat(n->yw[i]);
    }
    joint_tangent(d, z0t, n->jw + H, hy, hyt, 0, b->ax);
    EACH(i, j)
    {
        vf t = vtanh(d[i][j]);
        h1[i][j] = t;
        h1t[i][j] = (1 - t * t) * z0t[i][j];
    }
    layer_tangent(d, z1t, n->r1w, h1, h1t, n->r1b, 0);
    EACH(i, j)
    {
        vf t = vtanh(d[i][j]);
        t1[i][j] = t;
        h2[i][j] = h1[i][j] + t;
        h2t[i][j] = h1t[i][j] + (1 - t * t) * z1t[i][j];
    }
    layer_tangent(d, z2t, n->r2w, h2, h2t, n->r2b, 0);

    for (int i = 0; i < H; i++) {
        vf ow = splat(n->ow[i]), sw = s->ow[i], sb = s->r2b[i];
        for (int j = 0; j < NV; j++) {
            vf t = vtanh(d[i][j]), v = g[j] * ow;
            sw += g[j] * (h2t[i][j] + (1 - t * t) * z2t[i][j]);
            TANH_BACK(t, z2t[i][j], splat(0), v, d[i][j], dt[i][j]);
            upt[i][j] = v; /* the derivative of h2 itself starts from zero */
            sb += d[i][j];
        }
        s->ow[i] = sw, s->r2b[i] = sb;
    }
    outer2(s->r2w, d, h2, dt, h2t);
    layer_back(up, n->r2w, d);
    layer_back_add(upt, n->r2w, dt);

    for (int i = 0; i < H; i++) {
        vf sb = s->r1b[i];
        for (int j = 0; j < NV; j++) {
            TANH_BACK(t1[i][j], z1t[i][j], up[i][j], upt[i][j], d[i][j], dt[i][j]);
            sb += d[i][j];
        }
        s->r1b[i] = sb;
    }
    outer2(s->r1w, d, h1, dt, h1t);
    layer_back_add(up, n->r1w, d);
    layer_back_add(upt, n->r1w, dt);

    EACH(i, j) TANH_BACK(h1[i][j], z0t[i][j], up[i][j], upt[i][j], d[i][j], dt[i][j]);
    outer2(s->jw, d, hy, dt, hyt);
    wait_add(w, b, d, joint);
    joint_back(up, n->jw + H, d);
    joint_back(upt, n->jw + H, dt);

    for (int j = 0; j < NV; j++)
        dy[j] = splat(0);
    for (int i = 0; i < H; i++) {
        vf wi = splat(n->yw[i]), sw = s->yw[i], sb = s->yb[i];
        for (int j = 0; j < NV; j++) {
            vf z, zt;
            TANH_BACK(hy[i][j], wi, up[i][j], upt[i][j], z, zt);
            FIRST_LAYER(i, j, z, zt);
        }
        s->yw[i] = sw, s->yb[i] = sb;
    }
}

long ebm_partials(long seeds, long batch, long m) { return seeds * task_count(batch, m) * TOTAL; }

static XPart *x_parts(const Net *net, const float *x, long count)
{
    XPart *parts = malloc(count * sizeof(XPart));
    for (long e = 0; e < count; e++)
        x_forward(net, x[e], parts + e);
    return parts;
}

/* f [S, B, M] and its y-derivative [S, B, M], where asked for, at x [S, B], y [S, B, M]; parameters [S, TOTAL]. */
void ebm_forward(const float *parameters, const float *x, const float *y, float *value, float *slope, long seeds,
                 long batch, long m, int threads)
{
    const long tasks = task_count(batch, m);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (long task = 0; task < seeds * tasks; task++) {
        const Share share = task_share(task, batch, m);
        const long count = share.count, at = share.row * m;
        Net net;
        Block b = {.filled = -1};
        memcpy(&net, parameters + share.seed * TOTAL, sizeof net);
        XPart *xs = x_parts(&net, x + share.row, count);
        for (long k = 0; k < count * m; k += BLOCK) {
            vf f[NV], s[NV];
            block_start(&b, k, count * m, m, y + at, xs);
            if (slope)
                slope_block(&net, &b, f, s);
            else
                value_block(&net, &b, f);
            if (value)
                memcpy(value + at + k, f, b.count * sizeof(float));
            if (slope)
                memcpy(slope + at + k, s, b.count * sizeof(float));
        }
        free(xs);
    }
}

/* The derivative of Σ g·f (of Σ g·∂f/∂y if of_slope) with respect to the parameters, [S, all parameters], and to y
 * [S, B, M] where asked for. `partials` holds ebm_partials floats. */
void ebm_backward(const float *parameters, const float *x, const float *y, const float *g, int of_slope,
                  float *gradient, float *dy, float *partials, long seeds, long batch, long m, int threads)
{
    const long tasks = task_count(batch, m);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (long task = 0; task < seeds * tasks; task++) {
        const Share share = task_share(task, batch, m);
        const long count = share.count, at = share.row * m;
        Net net, *part = (Net *)(partials + task * TOTAL);
        Block b = {.filled = -1};
        Sums sums;
        Wait wait = {.example = -1};
        memcpy(&net, parameters + share.seed * TOTAL, sizeof net);
        XPart *xs = x_parts(&net, x + share.row, count);
        float(*joint)[H] = calloc(count, sizeof *joint);
        memset(&sums, 0, sizeof sums);
        memset(part, 0, sizeof *part);
        for (long k = 0; k < count * m; k += BLOCK) {
            vf gk[NV], out[NV];
            block_start(&b, k, count * m, m, y + at, xs);
            block_load(&b, gk, g + at);
            if (of_slope)
                slope_backward_block(&net, &b, gk, out, &sums, &wait, joint);
            else
                backward_block(&net, &b, gk, out, &sums, &wait, joint);
            if (dy)
                memcpy(dy + at + k, out, b.count * sizeof(float));
        }
        wait_flush(&wait, joint);
        sums_into(&sums, part);
        for (long e = 0; e < count; e++)
            x_backward(&net, x[share.row + e], xs + e, joint[e], part);
        free(joint);
        free(xs);
    }
    sum_partials(gradient, partials, seeds, tasks, TOTAL);
}
