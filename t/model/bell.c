
/*
 * Which workers are rung for a change of the registry.
 *
 *     bell [departures]
 *
 * First who is rung for what.  Then one thread adds a key and removes it at any
 * moment, and another that has heard from it sleeps until it has read that the
 * key has left: where neither sees the other, it sleeps for ever.
 */


#include "model.h"

#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>


#define BELL_PATIENCE  10000            /* ms */
#define BELL_WORKERS   3
#define BELL_KEY       1


static ngx_derp_region_t  region;
static void              *memory;
static model_worker_t     workers[BELL_WORKERS];
static uint32_t           added, told, departures;


static void
bell_begin(void)
{
    ngx_uint_t  i;

    memory = mmap(NULL, MODEL_MEMORY, PROT_READ|PROT_WRITE,
                  MAP_ANON|MAP_SHARED, -1, 0);
    model_assert(memory != MAP_FAILED, "mmap");

    model_create(&region, memory, 64, 64, NGX_DERP_RING_MIN);

    for (i = 0; i < BELL_WORKERS; i++) {
        model_join(&workers[i], memory, i);
    }
}


/* how often the worker has been rung since it said that it sleeps */

static ngx_uint_t
bell_rung(model_worker_t *w)
{
    u_char      ring;
    ngx_uint_t  n;

    for (n = 0; read(w->bell, &ring, 1) > 0; n++) { /* void */ }

    return n;
}


static void
bell_expect(const char *what, ngx_uint_t second, ngx_uint_t third)
{
    ngx_uint_t  i, n[BELL_WORKERS];

    ngx_derp_region_ring(&workers[0].region);
    ngx_derp_region_ring(&workers[0].region);

    for (i = 0; i < BELL_WORKERS; i++) {
        n[i] = bell_rung(&workers[i]);
        ngx_derp_slot_sleep(workers[i].region.slot);
    }

    model_assert(n[0] == 0 && n[1] == second && n[2] == third,
                 "%s: rung %u, %u and %u times", what, (unsigned) n[0],
                 (unsigned) n[1], (unsigned) n[2]);
}


static ngx_derp_route_t
bell_add(model_worker_t *w, uint32_t id)
{
    ngx_derp_route_t   route;
    ngx_derp_client_t  client;
    ngx_derp_handle_t  handle;

    model_client(&client, id, 0);

    while (ngx_derp_registry_add(&w->region, &client, &route, &handle)
           == NGX_AGAIN)
    {
        (void) sched_yield();
    }

    return route;
}


static void
bell_remove(model_worker_t *w, ngx_derp_route_t route)
{
    uint32_t  index;

    index = 0;

    while (ngx_derp_registry_remove(&w->region, route, &index) == NGX_AGAIN) {
        (void) sched_yield();
    }
}


static void
bell_whom(void)
{
    u_char            key[NGX_DERP_KEY_LEN];
    ngx_uint_t        n;
    ngx_derp_route_t  route;

    model_key(key, BELL_KEY);

    for (n = 0; n < BELL_WORKERS; n++) {
        (void) bell_rung(&workers[n]);
        ngx_derp_slot_sleep(workers[n].region.slot);
    }

    route = bell_add(&workers[0], BELL_KEY);
    bell_expect("a login that is nobody's business", 0, 0);

    ngx_derp_registry_hear(&workers[1].region, key);
    bell_remove(&workers[0], route);
    bell_expect("the departure of a key that the second has heard", 1, 0);

    route = bell_add(&workers[0], BELL_KEY);
    bell_remove(&workers[0], route);
    bell_expect("a departure that is nobody's business any more", 0, 0);

    ngx_derp_region_watch(&workers[2].region, 1);
    route = bell_add(&workers[0], BELL_KEY);
    bell_expect("a login while the third has a watcher", 0, 1);

    (void) bell_add(&workers[1], BELL_KEY);
    ngx_derp_region_ring(&workers[1].region);
    (void) bell_rung(&workers[2]);
    bell_expect("another connection of a key", 0, 0);

    model_assert(ngx_derp_registry_close(&workers[0].region, key, &n) == NGX_OK
                 && n == 2, "two clients are to be closed");
    bell_expect("a key whose clients are to be closed", 1, 1);

    ngx_derp_region_watch(&workers[2].region, 0);
    bell_remove(&workers[0], route);
    bell_expect("a connection of two, when nobody watches any more", 0, 0);
}


static void *
bell_listen(void *data)
{
    u_char             key[NGX_DERP_KEY_LEN];
    uint32_t           n;
    ngx_uint_t         left;
    struct pollfd      pfd;
    model_worker_t    *w = data;
    ngx_derp_entry_t   entry;

    pfd.fd = w->bell;
    pfd.events = POLLIN;

    for (n = 1; n <= departures; n++) {

        while (ngx_derp_load_acquire(&added) < n) {
            ngx_cpu_pause();
        }

        left = 0;

        model_key(key, 2 + n % 16);
        ngx_derp_registry_hear(&w->region, key);

        while (!left) {

            while (ngx_derp_journal_read(&w->region, &w->cursor, &entry)
                   == NGX_OK)
            {
                left |= (entry.what & NGX_DERP_JOURNAL_LEFT);
            }

            if (left) {
                break;
            }

            ngx_derp_slot_sleep(w->region.slot);

            if (ngx_derp_journal_cursor(&w->region) == w->cursor) {
                model_assert(poll(&pfd, 1, BELL_PATIENCE) == 1,
                             "departure %u: nobody rings", n);
            }

            (void) bell_rung(w);
            ngx_derp_slot_wake(w->region.slot);
        }

        ngx_derp_store_release(&told, n);
    }

    return NULL;
}


static void
bell_depart(void)
{
    uint32_t           n;
    pthread_t          thread;
    model_worker_t    *w;
    ngx_derp_route_t   route;
    volatile uint64_t  spin;

    w = &workers[0];
    workers[1].cursor = ngx_derp_journal_cursor(&workers[1].region);

    (void) pthread_create(&thread, NULL, bell_listen, &workers[1]);

    for (n = 1; n <= departures; n++) {
        route = bell_add(w, 2 + n % 16);
        ngx_derp_region_ring(&w->region);

        ngx_derp_store_release(&added, n);

        for (spin = model_random(&w->random) % 2048; spin; spin--) {
            /* void */
        }

        bell_remove(w, route);
        ngx_derp_region_ring(&w->region);

        while (ngx_derp_load_acquire(&told) < n) {
            (void) sched_yield();
        }
    }

    (void) pthread_join(thread, NULL);
}


int
main(int argc, char **argv)
{
    departures = argc > 1 ? atoi(argv[1]) : 100000;

    bell_begin();
    bell_whom();
    bell_depart();

    printf("bell: %u departures told, nobody was rung for nothing\n",
           departures);

    return 0;
}
