
/*
 * The worker whose sessions these are: what it is configured with, which is a
 * relay with a link to another, and its start and end.
 */


#include "session.h"
#include "ngx_derp_inbox.h"
#include "ngx_derp_slot.h"
#include "ngx_derp_zone.h"

#include <sanitizer/asan_interface.h>


#define FUZZ_ENTRIES  32
#define FUZZ_ZONE     (8 * 1024 * 1024)


u_char                    fuzz_public[FUZZ_KEYS][NGX_DERP_KEY_LEN];
u_char                    fuzz_shared[FUZZ_KEYS][NGX_DERP_KEY_LEN];
u_char                    fuzz_mesh_key[NGX_DERP_KEY_LEN];

void                     *fuzz_memory;
ngx_derp_relay_t          fuzz_relay;
ngx_derp_link_t           fuzz_the_link;

static u_char             fuzz_private[FUZZ_KEYS][NGX_DERP_KEY_LEN];
static ngx_derp_mesh_t    fuzz_mesh;
static ngx_array_t        fuzz_relays;
static ngx_derp_relay_t  *fuzz_relay_list[1] = { &fuzz_relay };
static ngx_cycle_t        fuzz_cycle;


static void
fuzz_make_keys(void)
{
    ngx_uint_t  i;

    for (i = 0; i < FUZZ_KEYS; i++) {
        ngx_memset(fuzz_private[i], 0x11 * (i + 1), NGX_DERP_KEY_LEN);
        fuzz_private[i][0] &= 248;
        fuzz_private[i][31] = (fuzz_private[i][31] & 127) | 64;

        stub_assert(ngx_derp_key_public(fuzz_public[i], fuzz_private[i])
                    == NGX_OK);
    }

    for (i = 0; i < FUZZ_KEYS; i++) {
        stub_assert(ngx_derp_box_shared(fuzz_shared[i],
                                        fuzz_public[FUZZ_KEY_SERVER],
                                        fuzz_private[i])
                    == NGX_OK);
    }

    ngx_memset(fuzz_mesh_key, 0xa5, sizeof(fuzz_mesh_key));
}


void
fuzz_worker_configure(void)
{
    stub_assert(ngx_derp_key_init() == NGX_OK);
    stub_assert(ngx_derp_slots_init(&stub_log) == NGX_OK);
    ngx_derp_slots_configure();

    fuzz_make_keys();

    fuzz_memory = aligned_alloc(4096, FUZZ_ZONE);
    fuzz_cycle.log = &stub_log;

    fuzz_relays.elts = fuzz_relay_list;
    fuzz_relays.nelts = 1;

    fuzz_mesh.links.elts = &fuzz_the_link;
    fuzz_mesh.links.nelts = 1;

    ngx_str_set(&fuzz_relay.name, "fuzz");
    ngx_memcpy(fuzz_relay.private_key, fuzz_private[FUZZ_KEY_SERVER],
               NGX_DERP_KEY_LEN);
    ngx_memcpy(fuzz_relay.public_key, fuzz_public[FUZZ_KEY_SERVER],
               NGX_DERP_KEY_LEN);
    ngx_memcpy(fuzz_relay.mesh_key, fuzz_mesh_key, NGX_DERP_KEY_LEN);

    fuzz_relay.handshake_timeout = 10000;
    fuzz_relay.keepalive = 60000;
    fuzz_relay.write_timeout = 2000;
    fuzz_relay.mesh_write_timeout = 30000;
    fuzz_relay.drain = 1000;
    fuzz_relay.workers = 2;
    fuzz_relay.meshed = 1;
    fuzz_relay.mesh = &fuzz_mesh;
}


void
fuzz_worker_start(void)
{
    u_char             *last;
    ngx_derp_region_t  *region;

    region = &fuzz_relay.region;

    ASAN_UNPOISON_MEMORY_REGION(fuzz_memory, FUZZ_ZONE);

    stub_assert(ngx_derp_zone_create(region, fuzz_memory, FUZZ_ZONE, 2)
                == NGX_OK);

    region->zone->capacity = FUZZ_CAPACITY;
    region->zone->buckets = 4;
    region->zone->entries = FUZZ_ENTRIES;
    region->zone->channels = 1;
    region->zone->inboxes = 4;
    region->zone->ring_size = NGX_DERP_RING_MIN;

    ngx_memzero(region->zone->secret, sizeof(region->zone->secret));

    stub_assert(ngx_derp_zone_open(region, fuzz_memory) == NGX_OK);

    ngx_memzero((u_char *) region->channels,
                region->inbox_rings - (u_char *) region->channels);

    stub_assert(ngx_derp_inbox_create(region) == NGX_OK);

    /* there is one channel, whose ring is the last of all */

    last = region->rings + region->zone->ring_size;
    ASAN_POISON_MEMORY_REGION(last, (u_char *) fuzz_memory + FUZZ_ZONE - last);

    ngx_memzero(&fuzz_the_link, sizeof(fuzz_the_link));
    fuzz_the_link.relay = &fuzz_relay;
    fuzz_the_link.id = 77;
    ngx_str_set(&fuzz_the_link.url.url, "derp.example.com");

    fuzz_relay.buffers = 2 * 1024 * 1024;
    region->heard = 0;
    region->watched = 0;
    region->everybody = 0;
    fuzz_relay.notice.len = 0;
    fuzz_relay.notice_sequence = 0;

    ngx_memzero(&ngx_derp_worker, sizeof(ngx_derp_worker));
    ngx_derp_worker.slot = NGX_DERP_NO_SLOT;

    stub_assert(ngx_derp_worker_init(&fuzz_cycle, &fuzz_relays) == NGX_OK);
}


void
fuzz_worker_stop(void)
{
    ngx_derp_worker_exit();

    stub_forget(&ngx_derp_worker.turn);
    stub_forget(&ngx_derp_worker.tick);
}
