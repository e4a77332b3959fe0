
/*
 * Chosen keys: whoever knows the index of one zone, its secret included, can
 * aim keys at one bucket there, and gains nothing by that in any other zone.
 */


#include "model.h"

#include <stdio.h>
#include <sys/mman.h>


#define FLOOD_CAPACITY  4096
#define FLOOD_BUCKETS   1024
#define FLOOD_KEYS      1024

/* of 1024 keys in as many buckets; more than this in one is one in 10^13 */
#define FLOOD_LONGEST   20


static u_char  flood_keys[FLOOD_KEYS][NGX_DERP_KEY_LEN];


static void
flood_create(model_worker_t *w)
{
    void  *memory;

    memory = mmap(NULL, MODEL_MEMORY, PROT_READ|PROT_WRITE,
                  MAP_ANON|MAP_SHARED, -1, 0);

    model_assert(memory != MAP_FAILED, "no memory");

    model_create(&w->region, memory, FLOOD_CAPACITY, 256, NGX_DERP_RING_MIN);

    w->region.zone->buckets = FLOOD_BUCKETS;

    model_assert(ngx_derp_zone_open(&w->region, memory) == NGX_OK, "layout");
    ngx_memzero(w->region.buckets, FLOOD_BUCKETS * sizeof(uint32_t));

    model_assert(ngx_derp_zone_join(&w->region, ngx_derp_slot_claim(), -1,
                                    &model_log)
                 == NGX_OK, "join");
}


/* keys that all go to bucket 0 of a zone with this secret */

static void
flood_aim(u_char *secret)
{
    uint32_t  i, id;

    id = 0;

    for (i = 0; i < FLOOD_KEYS; i++) {

        do {
            model_key(flood_keys[i], id++);
        } while (ngx_derp_key_hash(flood_keys[i], secret)
                 & (FLOOD_BUCKETS - 1));
    }
}


static uint32_t
flood_longest(model_worker_t *w)
{
    uint32_t            b, i, n, longest;
    ngx_derp_route_t    route;
    ngx_derp_client_t   client;
    ngx_derp_handle_t   handle;

    for (i = 0; i < FLOOD_KEYS; i++) {
        ngx_memzero(&client, sizeof(client));
        ngx_memcpy(client.key, flood_keys[i], NGX_DERP_KEY_LEN);

        model_assert(ngx_derp_registry_add(&w->region, &client, &route, &handle)
                     == NGX_OK, "no room");
    }

    longest = 0;

    for (b = 0; b < FLOOD_BUCKETS; b++) {
        n = 0;

        for (i = w->region.buckets[b]; i; i = w->region.peers[i - 1].next) {
            n++;
        }

        longest = ngx_max(longest, n);
    }

    return longest;
}


int
main(void)
{
    uint32_t               known, other;
    static model_worker_t  a, b;

    flood_create(&a);
    flood_create(&b);

    flood_aim(a.region.zone->secret);

    known = flood_longest(&a);
    other = flood_longest(&b);

    model_assert(known == FLOOD_KEYS, "the keys were not aimed well: %u",
                 known);
    model_assert(other <= FLOOD_LONGEST, "a chain of %u", other);

    printf("flood: %d keys aimed at one bucket make a chain of %u where the "
           "secret is known, of %u elsewhere\n", FLOOD_KEYS, known, other);

    return 0;
}
