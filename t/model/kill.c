
/*
 * Workers that are killed in the midst of what they do.
 *
 * A supervisor, which stands for nginx's master, forks workers that do what
 * workers do to a region, and has them killed: at each fault point in turn, at
 * any instruction, two at once.  It forks others in their place.  Now and then
 * all that live stand still, and the whole region is looked at.
 *
 *     kill [seconds [workers]]
 */


#include "model.h"
#include "ngx_derp_census.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>


#define KILL_MAX_WORKERS  12
#define KILL_TIMEOUT      20000         /* ms */


enum {
    KILL_RUN = 0,
    KILL_HALT,                          /* nobody changes anything */
    KILL_CHECK,                         /* each looks at what it knows */
    KILL_END
};


typedef struct {
    ngx_derp_fault_t   fault;
    uint32_t           phase;
    uint32_t           freeze;          /* once the fault has struck */
    uint64_t           steps;           /* that were begun, by all */
    uint32_t           reached[KILL_MAX_WORKERS];   /* a phase */
} kill_stage_t;


static const char  *kill_points[] = {
    "registry_first_conn",
#include "points.h"
    NULL
};

static kill_stage_t       *stage;
static void               *memory;
static ngx_derp_region_t   region;
static ngx_pid_t           pids[KILL_MAX_WORKERS];
static ngx_uint_t          killed[KILL_MAX_WORKERS];
static ngx_uint_t          nworkers = 5, deaths, halts;
static uint64_t            chance;


static void
kill_reach(ngx_uint_t n, uint32_t phase)
{
    ngx_derp_store_release(&stage->reached[n], phase);

    while (ngx_derp_load_acquire(&stage->phase) == phase) {
        usleep(200);
    }
}


static void
kill_worker(ngx_uint_t n)
{
    uint64_t                i;
    static model_worker_t   w;

    (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
    ngx_pid = ngx_getpid();
    ngx_process = NGX_PROCESS_WORKER;

    model_join(&w, memory, n);

    for (i = 1; /* void */ ; i++) {

        switch (ngx_derp_load_acquire(&stage->phase)) {

        case KILL_RUN:
            ngx_derp_store(&stage->reached[n], KILL_RUN);

            if (ngx_derp_load(&stage->freeze)
                && ngx_derp_load_acquire(&stage->fault.count) == 0)
            {
                usleep(200);
                break;
            }

            if (i % 64 == 0) {
                (void) ngx_derp_zone_reap(&w.region);
            }

            /* some leave by themselves */

            if (model_random(&w.random) % 20000 == 0) {
                ngx_derp_zone_leave(&w.region);
                ngx_derp_slot_release(w.region.slot);
                _exit(0);
            }

            (void) ngx_derp_add(&stage->steps, 1);
            w.region.member->counters.accepts++;

            model_step(&w);
            break;

        case KILL_HALT:
            kill_reach(n, KILL_HALT);
            break;

        case KILL_CHECK:
            model_replay(&w);
            model_check_worker(&w);
            kill_reach(n, KILL_CHECK);
            break;

        default:
            _exit(0);
        }
    }
}


static void
kill_spawn(ngx_uint_t n)
{
    ngx_pid_t  pid;

    stage->reached[n] = KILL_RUN;
    killed[n] = 0;

    pid = fork();
    model_assert(pid != -1, "fork");

    if (pid == 0) {
        kill_worker(n);
    }

    pids[n] = pid;
}


/* Who has died, and did it have to?  NGX_DERP_SLOTS: nobody. */

static ngx_uint_t
kill_wait(void)
{
    int         status;
    ngx_pid_t   pid;
    ngx_uint_t  i;

    pid = waitpid(-1, &status, WNOHANG);

    if (pid <= 0) {
        return NGX_DERP_SLOTS;
    }

    model_assert((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
                 || (WIFEXITED(status) && WEXITSTATUS(status) == 0),
                 "worker %d ended with %x", (int) pid, status);

    for (i = 0; i < nworkers; i++) {
        if (pids[i] == pid) {
            pids[i] = 0;
            deaths++;
            return i;
        }
    }

    return NGX_DERP_SLOTS;
}


/* Who was killed may come to a phase yet, and has not until it is dead. */

static void
kill_phase(uint32_t phase)
{
    ngx_uint_t  i, n, ms;

    ngx_derp_store_release(&stage->phase, phase);

    for (ms = 0; ms < KILL_TIMEOUT; ms++) {

        while (kill_wait() != NGX_DERP_SLOTS) { /* void */ }

        n = 0;

        for (i = 0; i < nworkers; i++) {
            n += (pids[i]
                  && (killed[i]
                      || ngx_derp_load_acquire(&stage->reached[i]) != phase));
        }

        if (n == 0) {
            return;
        }

        usleep(1000);
    }

    model_assert(0, "%u workers hang", (unsigned) n);
}


/* What is counted is there once, whoever is dying: it never shrinks. */

static uint64_t
kill_census(void)
{
    uint64_t                  n;
    static uint64_t           last;
    static ngx_derp_census_t  census;
    static ngx_derp_member_t  members[NGX_DERP_SLOTS];

    census.members = members;
    census.nmembers = ngx_derp_slots_top();

    ngx_derp_census(&region, &census);
    n = census.counters.accepts;

    model_assert(n >= last && n <= ngx_derp_load(&stage->steps),
                 "%lu steps of %lu are counted, it was %lu", (unsigned long) n,
                 (unsigned long) stage->steps, (unsigned long) last);
    last = n;

    return n;
}


/* And it is there at all, but for a step of each of the dead at most. */

static void
kill_check_census(void)
{
    uint64_t  n;

    n = kill_census();

    model_assert(n + deaths >= stage->steps,
                 "%lu steps of %lu are counted, after %lu deaths",
                 (unsigned long) n, (unsigned long) stage->steps,
                 (unsigned long) deaths);
}


static void
kill_halt(void)
{
    ngx_uint_t  i;

    kill_phase(KILL_HALT);

    while (kill_wait() != NGX_DERP_SLOTS) { /* void */ }
    model_reap(&region);

    model_check_region(&region);
    kill_check_census();

    kill_phase(KILL_CHECK);
    kill_phase(KILL_RUN);

    /* not before: one that comes late to a check finds the others at work */

    for (i = 0; i < nworkers; i++) {
        if (pids[i] == 0) {
            kill_spawn(i);
        }
    }

    halts++;
}


static void
kill_one(void)
{
    ngx_uint_t  i;

    i = model_random(&chance) % nworkers;

    if (pids[i]) {
        (void) kill(pids[i], SIGKILL);
        killed[i] = 1;
    }
}


/* What only comes to pass after something else is made to. */

static void
kill_provoke(const char *point)
{
    uint32_t  i;

    if (ngx_strncmp(point, "repair", 6) != 0) {
        kill_one();
        return;
    }

    if (ngx_derp_lock_wait(&region) != NGX_OK) {
        return;
    }

    /* as if somebody had died over a peer, which is one in use */

    i = (uint32_t) model_random(&chance) % region.zone->capacity;

    ngx_derp_store(&region.zone->dirty,
                   region.peers[i].route ? i + 1 : (uint32_t) -1);

    ngx_derp_unlock(&region);
}


static void
kill_arm(const char *point)
{
    ngx_memcpy(stage->fault.name, point, ngx_strlen(point) + 1);
    ngx_derp_store_release(&stage->fault.count,
                           1 + (uint32_t) model_random(&chance) % 8);

    /* or what it has left undone may be done by others before it is seen */

    ngx_derp_store_release(&stage->freeze, (uint32_t) model_random(&chance) % 2);
}


static ngx_uint_t
kill_at(const char *point)
{
    ngx_uint_t  i, ms, died;

    for (ms = 0; ms < 100 && ngx_derp_load_acquire(&stage->fault.count); ms++) {

        if (ms % 8 == 7) {
            kill_provoke(point);
        }

        (void) kill_census();
        usleep(1000);

        for (i = kill_wait(); i != NGX_DERP_SLOTS; i = kill_wait()) {
            if (!stage->freeze || ngx_derp_load(&stage->fault.count)) {
                kill_spawn(i);
            }
        }
    }

    died = (ngx_derp_load_acquire(&stage->fault.count) == 0);

    if (!died) {
        ngx_derp_store_release(&stage->freeze, 0);
        ngx_derp_store_release(&stage->fault.count, 0);
    }

    return died;
}


int
main(int argc, char **argv)
{
    time_t       end;
    ngx_uint_t   i, n, points, *hits;

    end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 20);

    if (argc > 2) {
        nworkers = atoi(argv[2]);
    }

    model_assert(nworkers > 1 && nworkers <= KILL_MAX_WORKERS, "2 to 12");

    setvbuf(stdout, NULL, _IOLBF, 0);

    stage = mmap(NULL, sizeof(kill_stage_t), PROT_READ|PROT_WRITE,
                 MAP_ANON|MAP_SHARED, -1, 0);
    memory = mmap(NULL, MODEL_MEMORY, PROT_READ|PROT_WRITE,
                  MAP_ANON|MAP_SHARED, -1, 0);

    model_assert(stage != MAP_FAILED && memory != MAP_FAILED, "mmap");

    ngx_process = NGX_PROCESS_MASTER;
    ngx_derp_fault_switch = &stage->fault;

    model_create(&region, memory, nworkers * MODEL_MAX_OWN, 16384,
                 NGX_DERP_RING_MIN);

    chance = time(NULL);

    /* this one is for the first to come */

    kill_arm(kill_points[0]);

    for (i = 0; i < nworkers; i++) {
        kill_spawn(i);
    }

    for (points = 0; kill_points[points]; points++) { /* void */ }

    hits = calloc(points, sizeof(ngx_uint_t));

    for (n = 0; n < points || time(NULL) < end; n++) {

        if (n) {
            kill_arm(kill_points[n % points]);
        }

        hits[n % points] += kill_at(kill_points[n % points]);

        if (stage->freeze) {
            kill_halt();
            ngx_derp_store_release(&stage->freeze, 0);
        }

        /* at any instruction, and often two at once */

        usleep(model_random(&chance) % 2000);
        kill_one();

        if (model_random(&chance) % 2) {
            kill_one();
        }

        for (i = kill_wait(); i != NGX_DERP_SLOTS; i = kill_wait()) {
            kill_spawn(i);
        }

        if (n % 4 == 3) {
            kill_halt();
        }
    }

    kill_halt();
    ngx_derp_store_release(&stage->phase, KILL_END);

    n = 0;

    for (i = 0; i < points; i++) {
        n += (hits[i] != 0);

        if (hits[i] == 0) {
            printf("kill: nobody came to %s\n", kill_points[i]);
        }
    }

    for (i = 0; i < nworkers; i++) {
        (void) waitpid(pids[i], NULL, 0);
    }

    printf("kill: %u deaths at %u of %u points and anywhere, the region was "
           "whole %u times\n", (unsigned) deaths, (unsigned) n,
           (unsigned) points, (unsigned) halts);

    return 0;
}
