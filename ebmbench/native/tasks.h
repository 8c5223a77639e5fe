/* How the work of a kernel is cut: into tasks of whole examples of one seed. Every task leaves its own partial gradient,
 * summed afterwards in a fixed order, so results depend neither on the number of threads nor on the other seeds. */
#ifndef EBMBENCH_TASKS_H
#define EBMBENCH_TASKS_H

#include <string.h>

#define TASK 4096 /* samples in a task, at least, where there are as many */

/* Examples in a task. */
static inline long task_examples(long m) { return m >= TASK ? 1 : (TASK + m - 1) / m; }

/* Tasks of a seed. */
static inline long task_count(long batch, long m) { return (batch + task_examples(m) - 1) / task_examples(m); }

/* What a task does: `count` examples of a seed, the first of which is example `row` of all seeds. */
typedef struct {
    long seed, row, count;
} Share;

static inline Share task_share(long task, long batch, long m)
{
    const long per = task_examples(m), tasks = task_count(batch, m), first = task % tasks * per;
    Share s = {task / tasks, task / tasks * batch + first, batch - first < per ? batch - first : per};
    return s;
}

/* gradient [seeds, size] = the sums over the tasks of each seed of partials [seeds · tasks, size]. */
static inline void sum_partials(float *gradient, const float *partials, long seeds, long tasks, long size)
{
    for (long seed = 0; seed < seeds; seed++) {
        float *total = gradient + seed * size;
        memcpy(total, partials + seed * tasks * size, size * sizeof(float));
        for (long task = 1; task < tasks; task++)
            for (long p = 0; p < size; p++)
                total[p] += partials[(seed * tasks + task) * size + p];
    }
}

#endif
