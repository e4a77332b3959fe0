
/*
 * Clocks, processes and latencies.
 */


#define _GNU_SOURCE
#include "measure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>


static double clock_seconds(clockid_t clock);
static uint64_t processes_sum(processes_t *p, const char *file,
    const char *what);
static double machine_cpu(void);


uint64_t
nanoseconds(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}


double
seconds(void)
{
    return clock_seconds(CLOCK_MONOTONIC);
}


static double
clock_seconds(clockid_t clock)
{
    struct timespec  ts;

    if (clock_gettime(clock, &ts) == -1) {
        return 0;
    }

    return ts.tv_sec + ts.tv_nsec / 1e9;
}


int
processes_parse(processes_t *p, char *list)
{
    char  *end;
    long   pid;

    p->n = 0;

    for ( ;; ) {
        pid = strtol(list, &end, 10);

        if (pid <= 0 || end == list || p->n == MEASURE_MAX_PROCESSES) {
            return -1;
        }

        p->pids[p->n++] = pid;

        if (*end == '\0') {
            return 0;
        }

        if (*end != ',') {
            return -1;
        }

        list = end + 1;
    }
}


double
processes_cpu(processes_t *p)
{
    int        i;
    double     sum;
    clockid_t  clock;

    sum = 0;

    for (i = 0; i < p->n; i++) {
        if (clock_getcpuclockid(p->pids[i], &clock) == 0) {
            sum += clock_seconds(clock);
        }
    }

    return sum;
}


uint64_t
processes_sleeps(processes_t *p)
{
    return processes_sum(p, "status", "voluntary_ctxt_switches:");
}


double
processes_memory(processes_t *p)
{
    return processes_sum(p, "smaps_rollup", "Pss:");
}


/* What a file of each process in /proc says of it in the line of this name. */

static uint64_t
processes_sum(processes_t *p, const char *file, const char *what)
{
    int        i;
    char       name[64], line[256];
    FILE      *f;
    size_t     len;
    uint64_t   sum;

    sum = 0;
    len = strlen(what);

    for (i = 0; i < p->n; i++) {
        snprintf(name, sizeof(name), "/proc/%d/%s", (int) p->pids[i], file);

        f = fopen(name, "r");
        if (f == NULL) {
            continue;
        }

        while (fgets(line, sizeof(line), f)) {
            if (strncmp(line, what, len) == 0) {
                sum += strtoull(line + len, NULL, 10);
            }
        }

        fclose(f);
    }

    return sum;
}


/* All but idle, waiting for a disk, and what a hypervisor took. */

static double
machine_cpu(void)
{
    long long  user, nice, system, irq, softirq;
    FILE      *f;
    int        n;

    f = fopen("/proc/stat", "r");
    if (f == NULL) {
        return 0;
    }

    n = fscanf(f, "cpu %lld %lld %lld %*d %*d %lld %lld",
               &user, &nice, &system, &irq, &softirq);
    fclose(f);

    if (n != 5) {
        return 0;
    }

    return (double) (user + nice + system + irq + softirq)
           / sysconf(_SC_CLK_TCK);
}


void
mark(mark_t *m, processes_t *server, processes_t *helpers)
{
    m->now = seconds();
    m->server = processes_cpu(server);
    m->self = clock_seconds(CLOCK_PROCESS_CPUTIME_ID)
              + processes_cpu(helpers);
    m->machine = machine_cpu();
    m->sleeps = processes_sleeps(server);
}


double
others_cpu(mark_t *from, mark_t *to)
{
    double  cpu;

    cpu = to->machine - from->machine
          - (to->server - from->server)
          - (to->self - from->self);

    return cpu > 0 ? cpu : 0;
}


void
histogram_add(histogram_t *h, uint64_t ns)
{
    int  power, part;

    ns |= 64;
    power = 63 - __builtin_clzll(ns);
    part = (ns >> (power - 6)) & 63;

    h->counts[power * 64 + part]++;
    h->n++;
}


double
histogram_quantile(histogram_t *h, double q)
{
    int       i;
    uint64_t  sum, wanted;

    sum = 0;
    wanted = h->n * q;

    for (i = 0; i < 64 * 64; i++) {
        sum += h->counts[i];

        if (sum > wanted) {
            return (ldexp(1, i / 64) + ldexp(i % 64, i / 64 - 6)) / 1e3;
        }
    }

    return 0;
}
