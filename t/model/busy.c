
/*
 * A worker that is stopped with the zone's lock, in the midst of a change.
 *
 * A child changes the registry and stops at each point in turn.  Meanwhile
 * nothing that another does waits for it: what changes something is to be tried
 * again, and what is found is so.  Then the child goes on, and it all can be
 * done.  In a repair, which has the index in pieces, nobody is told that a key
 * is not there.
 *
 *     busy
 */


#include "model.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>


#define BUSY_PATIENCE  500              /* ms, for a busy machine, too */


static const char  *busy_points[] = {
    "region_lock", "registry_new_conn", "registry_new_peer",
    "registry_insert_peer", "registry_begin", "registry_put",
    "registry_put_kind", "registry_attach", "registry_attach_half",
    "registry_settle", "registry_note", "journal_body", "registry_commit",
    "registry_commit_even", "registry_detach_half", "registry_free_conn",
    "registry_free_peer", "registry_free_peer_stale", "channel_open_used",
    "region_remove_conns", NULL
};

static const char  *busy_repairs[] = {
    "repair_buckets", "repair_conns", "repair_peers", "repair_done", NULL
};

static ngx_derp_fault_t   *fault;
static ngx_derp_region_t   region;
static void               *memory;
static model_worker_t      us;
static ngx_derp_route_t    busy_link;


static void
busy_child(void)
{
    uint32_t               index;
    static model_worker_t  w;

    (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
    ngx_pid = ngx_getpid();
    ngx_process = NGX_PROCESS_WORKER;

    model_join(&w, memory, 1);

    /* one of its own, one that is there, and off again */

    model_assert(model_add(&w, 20) == NGX_OK && model_add(&w, 3) == NGX_OK,
                 "full");
    index = 0;
    (void) ngx_derp_registry_remove(&w.region, w.clients[0].route, &index);
    (void) ngx_derp_channel_open(&w.region, us.region.slot, &w.producers[0]);

    ngx_derp_zone_leave(&w.region);
    ngx_derp_slot_release(w.region.slot);

    _exit(0);
}


/* What becomes of a child that is sent the signal at the point. */

static ngx_pid_t
busy_at(const char *point, int signal)
{
    int        status;
    ngx_pid_t  pid;

    fault->signal = signal;
    ngx_memcpy(fault->name, point, ngx_strlen(point) + 1);
    ngx_derp_store_release(&fault->count, 1);

    pid = fork();
    model_assert(pid != -1, "fork");

    if (pid == 0) {
        busy_child();
    }

    model_assert(waitpid(pid, &status, WUNTRACED) == pid
                 && (signal == SIGSTOP ? WIFSTOPPED(status)
                                       : WIFSIGNALED(status)),
                 "nobody came to %s: %x", point, status);
    return pid;
}


static void
busy_find(ngx_uint_t repairing)
{
    u_char             key[NGX_DERP_KEY_LEN];
    uint32_t           id;
    ngx_derp_route_t   route;
    ngx_derp_handle_t  handle;

    for (id = 0; id < 12; id++) {
        model_key(key, id);

        handle.generation = 0;
        route = ngx_derp_registry_find(&us.region, key, &handle);

        if (repairing && route == NGX_DERP_ROUTE_AGAIN) {
            continue;
        }

        model_assert(route != NGX_DERP_ROUTE_AGAIN
                     && (route != NGX_DERP_NO_ROUTE) == (id < 10),
                     "key %u: %llx", id, (unsigned long long) route);
    }

    /* what is remembered is as good as ever */

    for (id = 4; id < 10; id++) {
        model_key(key, id);
        model_assert(ngx_derp_registry_find(&us.region, key, &us.handles[id])
                     == us.clients[id].route, "key %u is lost", id);
    }
}


static void
busy_meanwhile(ngx_uint_t repairing)
{
    u_char              key[NGX_DERP_KEY_LEN];
    uint32_t            index;
    ngx_uint_t          n;
    struct timespec     from, to;
    ngx_derp_client_t   client;
    ngx_derp_region_t  *r;

    r = &us.region;
    index = 0;
    n = 1;
    model_key(key, 4);

    (void) clock_gettime(CLOCK_MONOTONIC, &from);

    busy_find(repairing);

    model_assert(model_add(&us, 11) == NGX_AGAIN
                 && ngx_derp_registry_remove(r, us.clients[0].route, &index)
                    == NGX_AGAIN
                 && ngx_derp_registry_remove(r, busy_link, &index) == NGX_AGAIN
                 && ngx_derp_registry_activate(r, us.clients[0].route)
                    == NGX_AGAIN
                 && ngx_derp_registry_close(r, key, &n) == NGX_AGAIN
                 && ngx_derp_registry_announce(r, busy_link, key) == NGX_AGAIN
                 && ngx_derp_registry_withdraw(r, busy_link, key) == NGX_AGAIN
                 && ngx_derp_registry_clients(r,
                                              ngx_derp_journal_cursor(r),
                                              &index, &client, &n)
                    == NGX_AGAIN
                 && ngx_derp_channel_open(r, us.region.slot, &us.producers[1])
                    == NGX_AGAIN
                 && ngx_derp_channel_close(r, &us.producers[0]) == NGX_AGAIN
                 && ngx_derp_lease(r, 7, 1, 0) == NGX_DERP_LEASE_AGAIN
                 && r->denied,
                 "something was changed");

    /* by ourselves, and of all the time there is what others send */

    index = 0;
    us.nconsumers = 0;

    for (n = 0;
         ngx_derp_channel_accept(r, &n, &us.consumers[0]) == NGX_OK;
         us.nconsumers++)
    { /* void */ }

    model_assert(us.nconsumers >= 1, "a channel is not found");

    (void) clock_gettime(CLOCK_MONOTONIC, &to);

    model_assert((to.tv_sec - from.tv_sec) * 1000
                 + (to.tv_nsec - from.tv_nsec) / 1000000 < BUSY_PATIENCE,
                 "it took long");
}


static void
busy_after(void)
{
    uint32_t  index;

    index = 0;
    us.nclients = 10;
    model_reap(&us.region);

    model_assert(model_add(&us, 11) == NGX_OK
                 && ngx_derp_registry_remove(&us.region, us.clients[10].route,
                                             &index)
                    == NGX_OK,
                 "nothing can be changed any more");
    us.nclients = 10;

    busy_find(0);
    model_check_region(&region);
}


int
main(void)
{
    uint32_t    id;
    ngx_pid_t   pid;
    ngx_uint_t  i;

    fault = mmap(NULL, sizeof(ngx_derp_fault_t), PROT_READ|PROT_WRITE,
                 MAP_ANON|MAP_SHARED, -1, 0);
    memory = mmap(NULL, MODEL_MEMORY, PROT_READ|PROT_WRITE,
                  MAP_ANON|MAP_SHARED, -1, 0);
    model_assert(fault != MAP_FAILED && memory != MAP_FAILED, "mmap");

    ngx_process = NGX_PROCESS_MASTER;
    ngx_derp_fault_switch = fault;
    ngx_pid = ngx_getpid();

    model_create(&region, memory, 64, 256, NGX_DERP_RING_MIN);
    model_join(&us, memory, 0);

    for (id = 0; id < 10; id++) {
        model_assert(model_add(&us, id) == NGX_OK, "full");
        us.handles[id].index = us.region.conns
                       [ngx_derp_route_index(us.clients[id].route)].peer;
        us.handles[id].generation =
                            us.region.peers[us.handles[id].index].generation;
    }

    /* its own other worker, by a channel to itself */

    model_assert(ngx_derp_registry_add_link(&us.region, 1, &busy_link)
                 == NGX_OK
                 && ngx_derp_channel_open(&us.region, us.region.slot,
                                          &us.producers[0])
                    == NGX_OK, "full");

    for (i = 0; busy_points[i]; i++) {
        pid = busy_at(busy_points[i], SIGSTOP);
        busy_meanwhile(0);

        (void) kill(pid, SIGCONT);
        (void) waitpid(pid, NULL, 0);
        busy_after();
    }

    for (i = 0; busy_repairs[i]; i++) {
        (void) busy_at("registry_attach_half", SIGKILL);
        pid = busy_at(busy_repairs[i], SIGSTOP);
        busy_meanwhile(1);

        (void) kill(pid, SIGKILL);
        (void) waitpid(pid, NULL, 0);
        busy_after();
    }

    printf("busy: nobody waited for a worker that stood still at %u points\n",
           (unsigned) (sizeof(busy_points) + sizeof(busy_repairs))
                      / (unsigned) sizeof(char *) - 2);

    return 0;
}
