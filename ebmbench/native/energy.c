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

/* What an affine tile of two vectors starts from: nothing; what is there; the bias; given rows. */
enum { ZERO, ADD, BIAS, START };

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
            if (from == BIAS)
                a[k][0] = a[k][1] = splat(bias[o + k]);
            if (from == START)
                a[k][0] = start[(o + k) * NV], a[k][1] = start[(o + k) * NV + 1];
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

/* Whole blocks, each of them compiled once: z = W h + start; out (+)= Wᵀ d. */
#define LAYER(name, row, from)                                                                                        \
    static NOINLINE void name(Rows z, const float *w, Rows h, const float *bias, Rows start)                          \
    {                                                                                                                 \
        for (int j = 0; j < NV; j += 2)                                                                               \
            affine(&z[0][j], &z[0][j + 1], w, row, 1, &h[0][j], &h[0][j + 1], from, bias, &start[0][j]);              \
    }
#define LAYER_BACK(name, row, from)                                                                                   \
    static NOINLINE void name(Rows out, const float *w, Rows d)                                                       \
    {                                                                                                                 \
        for (int j = 0; j < NV; j += 2)                                                                               \
            affine(&out[0][j], &out[0][j + 1], w, 1, row, &d[0][j], &d[0][j + 1], from, 0, 0);                        \
    }
LAYER(joint_layer, 2 * H, START)
LAYER(joint_derivative, 2 * H, ZERO)
LAYER(layer, H, BIAS)
LAYER(layer_derivative, H, ZERO)
LAYER_BACK(joint_back, 2 * H, ZERO)
LAYER_BACK(layer_back_add, H, ADD)

/* What follows is compiled for each `order`, the highest derivative in y that is carried along: 0, 1 or 2. */
typedef Rows Jet[3]; /* a value of each unit and its derivatives */

/* A layer in a block: z goes into its tanh (and z[0] becomes the tanh itself), h is what it hands on. */
typedef struct {
    Jet z, h;
} Layer;

/* t = tanh(z) and its derivatives, from z and its derivatives. */
INLINE void tanh_jet(vf *t, vf z, vf z1, vf z2, int order)
{
    t[0] = vtanh(z);
    vf c = 1 - t[0] * t[0];
    if (order > 0)
        t[1] = c * z1;
    if (order > 1)
        t[2] = c * z2 - 2 * t[0] * z1 * t[1];
}

/* From the derivatives u of what tanh_jet returned, where t is the first of it, to the derivatives d of what it took. */
INLINE void tanh_back(vf *d, vf t, vf z1, vf z2, const vf *u, int order)
{
    vf c = 1 - t * t;
    d[0] = u[0];
    if (order > 0)
        d[0] -= 2 * t * z1 * u[1], d[1] = u[1];
    if (order > 1)
        d[0] -= 2 * (t * z2 + (c - 2 * t * t) * z1 * z1) * u[2], d[1] -= 4 * t * z1 * u[2], d[2] = u[2] * c;
    d[0] *= c;
    if (order > 0)
        d[1] *= c;
}

/* h = tanh(z), added to what the layer below hands on if it is residual. */
INLINE void activate(Layer *l, Layer *below, int order)
{
    EACH(i, j)
    {
        vf t[3];
        tanh_jet(t, l->z[0][i][j], l->z[1][i][j], l->z[2][i][j], order);
        l->z[0][i][j] = t[0];
        for (int k = 0; k <= order; k++)
            if (below)
                l->h[k][i][j] = below->h[k][i][j] + t[k];
            else
                l->h[k][i][j] = t[k];
    }
}

/* The layers of a block: the features of y, the joint layer, two residual ones (of the last one z alone). */
INLINE void forward(const Net *n, Block *b, Jet fy, Layer *l1, Layer *l2, Layer *l3, int order)
{
    EACH(i, j)
    {
        vf t[3];
        tanh_jet(t, splat(n->yw[i]) * b->y[j] + splat(n->yb[i]), splat(n->yw[i]), splat(0), order);
        for (int k = 0; k <= order; k++)
            fy[k][i][j] = t[k];
    }
    joint_layer(l1->z[0], n->jw + H, fy[0], 0, b->ax);
    for (int k = 1; k <= order; k++)
        joint_derivative(l1->z[k], n->jw + H, fy[k], 0, 0);
    activate(l1, 0, order);
    layer(l2->z[0], n->r1w, l1->h[0], n->r1b, 0);
    for (int k = 1; k <= order; k++)
        layer_derivative(l2->z[k], n->r1w, l1->h[k], 0, 0);
    activate(l2, l1, order);
    layer(l3->z[0], n->r2w, l2->h[0], n->r2b, 0);
    for (int k = 1; k <= order; k++)
        layer_derivative(l3->z[k], n->r2w, l2->h[k], 0, 0);
}

/* f and its derivatives in y. */
INLINE void forward_block(const Net *n, Block *b, vf (*f)[NV], int order)
{
    Layer l[2]; /* a layer takes the place of the one before the last */
    forward(n, b, l[0].h, &l[1], &l[0], &l[1], order);
    for (int k = 0; k <= order; k++)
        for (int j = 0; j < NV; j++)
            f[k][j] = splat(k ? 0 : n->ob[0]);
    EACH(i, j)
    {
        vf t[3];
        tanh_jet(t, l[1].z[0][i][j], l[1].z[1][i][j], l[1].z[2][i][j], order);
        for (int k = 0; k <= order; k++)
            f[k][j] += splat(n->ow[i]) * (l[0].h[k][i][j] + t[k]);
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

/* From the derivatives `up` of what a layer's tanh adds to the derivatives `d` of its z; adds those of z[0] to `sum`, if
 * there is one. */
INLINE void activate_back(Layer *l, Jet up, Jet d, vf *sum, int order)
{
    for (int i = 0; i < H; i++) {
        vf total = splat(0);
        for (int j = 0; j < NV; j++) {
            vf u[3], z[3];
            for (int k = 0; k <= order; k++)
                u[k] = up[k][i][j];
            tanh_back(z, l->z[0][i][j], l->z[1][i][j], l->z[2][i][j], u, order);
            for (int k = 0; k <= order; k++)
                d[k][i][j] = z[k];
            total += z[0];
        }
        if (sum)
            sum[i] += total;
    }
}

/* sums += Σ_k d[k] h[k]ᵀ over the samples of a block. */
INLINE void outer_jets(vf (*sums)[H], Jet d, Jet h, int order)
{
    if (order == 0)
        outer(sums, d[0], h[0]);
    else
        outer2(sums, d[0], h[0], d[1], h[1]);
    if (order > 1)
        outer(sums, d[2], h[2]);
}

/* The derivative of Σ g·f (order 0), Σ g·∂f/∂y (1) or Σ g[0]·∂f/∂y + g[1]·∂²f/∂y² (2) with respect to parameters (into
 * `s` and `joint`) and to y: the layers with their derivatives, and the reverse of it. */
INLINE void backward_block(const Net *n, Block *b, vf (*g)[NV], vf *dy, Sums *s, Wait *w, float (*joint)[H], int order)
{
    Jet fy, up, d;
    Layer l1, l2, l3;
    forward(n, b, fy, &l1, &l2, &l3, order);

    const int first = order > 0; /* the derivative of lowest order that g weighs */
    for (int i = 0; i < H; i++) {
        vf ow = splat(n->ow[i]), sum = s->ow[i], bias = s->r2b[i];
        for (int j = 0; j < NV; j++) {
            vf t[3], z[3], u[3] = {splat(0)};
            tanh_jet(t, l3.z[0][i][j], l3.z[1][i][j], l3.z[2][i][j], order);
            for (int k = first; k <= order; k++) {
                sum += g[k - first][j] * (l2.h[k][i][j] + t[k]);
                u[k] = g[k - first][j] * ow;
            }
            tanh_back(z, t[0], l3.z[1][i][j], l3.z[2][i][j], u, order);
            for (int k = 0; k <= order; k++)
                up[k][i][j] = u[k], d[k][i][j] = z[k];
            bias += z[0];
        }
        s->ow[i] = sum, s->r2b[i] = bias;
    }
    if (order == 0)
        for (int j = 0; j < NV; j++)
            s->ob += g[0][j];

    outer_jets(s->r2w, d, l2.h, order);
    for (int k = 0; k <= order; k++)
        layer_back_add(up[k], n->r2w, d[k]);
    activate_back(&l2, up, d, s->r1b, order);
    outer_jets(s->r1w, d, l1.h, order);
    for (int k = 0; k <= order; k++)
        layer_back_add(up[k], n->r1w, d[k]);
    activate_back(&l1, up, d, 0, order);
    outer_jets(s->jw, d, fy, order);
    wait_add(w, b, d[0], joint);
    for (int k = 0; k <= order; k++)
        joint_back(up[k], n->jw + H, d[k]);

    for (int j = 0; j < NV; j++)
        dy[j] = splat(0);
    for (int i = 0; i < H; i++) {
        vf wi = splat(n->yw[i]), sw = s->yw[i], sb = s->yb[i];
        for (int j = 0; j < NV; j++) {
            vf u[3], z[3];
            for (int k = 0; k <= order; k++)
                u[k] = up[k][i][j];
            tanh_back(z, fy[0][i][j], wi, splat(0), u, order);
            sw += z[0] * b->y[j];
            if (order > 0)
                sw += z[1];
            sb += z[0];
            dy[j] += wi * z[0];
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

/* f [S, B, M] and its first and second y-derivative [S, B, M], where asked for, at x [S, B], y [S, B, M]; parameters
 * [S, TOTAL]. */
void ebm_forward(const float *parameters, const float *x, const float *y, float *value, float *slope, float *curvature,
                 long seeds, long batch, long m, int threads)
{
    const long tasks = task_count(batch, m);
    float *const to[] = {value, slope, curvature};
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (long task = 0; task < seeds * tasks; task++) {
        const Share share = task_share(task, batch, m);
        const long count = share.count, at = share.row * m;
        Net net;
        Block b = {.filled = -1};
        memcpy(&net, parameters + share.seed * TOTAL, sizeof net);
        XPart *xs = x_parts(&net, x + share.row, count);
        for (long k = 0; k < count * m; k += BLOCK) {
            vf f[3][NV];
            block_start(&b, k, count * m, m, y + at, xs);
            if (curvature)
                forward_block(&net, &b, f, 2);
            else if (slope)
                forward_block(&net, &b, f, 1);
            else
                forward_block(&net, &b, f, 0);
            for (int order = 0; order < 3; order++)
                if (to[order])
                    memcpy(to[order] + at + k, f[order], b.count * sizeof(float));
        }
        free(xs);
    }
}

/* The derivative of what `order` says (see backward_block) with respect to the parameters, [S, TOTAL], and to y
 * [S, B, M] where asked for. g is [S, B, M], two of them for order 2; `partials` holds ebm_partials floats. */
void ebm_backward(const float *parameters, const float *x, const float *y, const float *g, int order, float *gradient,
                  float *dy, float *partials, long seeds, long batch, long m, int threads)
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
            vf gk[2][NV], out[NV];
            block_start(&b, k, count * m, m, y + at, xs);
            block_load(&b, gk[0], g + at);
            if (order > 1) {
                block_load(&b, gk[1], g + seeds * batch * m + at);
                backward_block(&net, &b, gk, out, &sums, &wait, joint, 2);
            } else if (order > 0)
                backward_block(&net, &b, gk, out, &sums, &wait, joint, 1);
            else
                backward_block(&net, &b, gk, out, &sums, &wait, joint, 0);
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
