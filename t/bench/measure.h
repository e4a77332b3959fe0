
/*
 * What is measured: clocks, the CPU time and memory of processes, latencies.
 */


#ifndef _MEASURE_H_INCLUDED_
#define _MEASURE_H_INCLUDED_


#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>


#define MEASURE_MAX_PROCESSES  256


typedef struct {
    pid_t     pids[MEASURE_MAX_PROCESSES];
    int       n;
} processes_t;


/* nanoseconds in powers of two, each in 64 parts: 1.6 % at most off */

typedef struct {
    uint64_t  counts[64 * 64];
    uint64_t  n;
} histogram_t;


/* a point in time, and how much CPU time had been used until then, seconds */

typedef struct {
    double    now;
    double    server;
    double    self;
    double    machine;              /* by all there is on it */
    uint64_t  sleeps;               /* of the server's processes, all so far */
} mark_t;


uint64_t nanoseconds(void);
double seconds(void);

/* "pid,pid,..."; -1: not such a list. */
int processes_parse(processes_t *p, char *list);

/* Of all threads, those that have ended too; seconds. */
double processes_cpu(processes_t *p);

/* How often they gave up the processor by themselves, to wait. */
uint64_t processes_sleeps(processes_t *p);

/* Shared pages count in parts, as the kernel's Pss does; KiB. */
double processes_memory(processes_t *p);

void mark(mark_t *m, processes_t *server, processes_t *helpers);

/* CPU time between two marks that none of these used, nor this one. */
double others_cpu(mark_t *from, mark_t *to);

void histogram_add(histogram_t *h, uint64_t ns);

/* Microseconds that the part q of all stayed below. */
double histogram_quantile(histogram_t *h, double q);


#endif /* _MEASURE_H_INCLUDED_ */
