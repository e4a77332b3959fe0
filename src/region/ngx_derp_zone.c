
/*
 * A relay's zone, and the workers that take part in it.
 */


#include "ngx_derp_zone.h"
#include "ngx_derp_registry.h"
#include "ngx_derp_journal.h"
#include "ngx_derp_channel.h"
#include "ngx_derp_inbox.h"
#include "ngx_derp_lease.h"
#include "ngx_derp_lock.h"
#include "ngx_derp_mutex.h"
#include "ngx_derp_fault.h"


/* with three generations of workers all are to have their channels */
#define NGX_DERP_GENERATIONS   3
#define NGX_DERP_MAX_CHANNELS  ngx_derp_zone_channels(NGX_DERP_SLOTS)

#define NGX_DERP_RING_MAX      (256 * 1024)


static size_t ngx_derp_zone_divide(ngx_derp_zone_t *zone, size_t left,
    ngx_uint_t workers);
static uint32_t ngx_derp_power_of_two(size_t n, size_t min, size_t max);
static void ngx_derp_zone_view(ngx_derp_region_t *region);
static void ngx_derp_zone_remove_slot(ngx_derp_region_t *region,
    ngx_uint_t slot);
static void ngx_derp_counters_move(uint64_t *to, uint64_t *from, size_t size);


ngx_int_t
ngx_derp_zone_create(ngx_derp_region_t *region, void *memory, size_t size,
    ngx_uint_t workers)
{
    size_t            left, per_client;
    ngx_derp_zone_t  *zone;

    if (size < NGX_DERP_ZONE_MIN / 2) {
        return NGX_DECLINED;
    }

    zone = memory;

    ngx_memzero(zone, sizeof(ngx_derp_zone_t));

    left = size - sizeof(ngx_derp_zone_t) - 8 * NGX_DERP_CACHE_LINE;

    zone->entries = ngx_derp_power_of_two(left / 32 / sizeof(ngx_derp_entry_t),
                                          256, 65536);
    left -= zone->entries * sizeof(ngx_derp_entry_t);

    left -= ngx_derp_zone_divide(zone, left / 2, workers);

    per_client = sizeof(ngx_derp_peer_t) + sizeof(ngx_derp_conn_t)
                 + 2 * sizeof(uint32_t);

    zone->capacity = ngx_min(left / per_client, NGX_DERP_MAX_CAPACITY - 1);
    zone->buckets = ngx_derp_power_of_two(2 * zone->capacity - 1, 1,
                                          NGX_DERP_MAX_CAPACITY);

    ngx_derp_random(zone->secret, sizeof(zone->secret));

    region->zone = zone;
    ngx_derp_zone_view(region);

    if (ngx_derp_mutex_create(&zone->lock) != NGX_OK
        || ngx_derp_inbox_create(region) != NGX_OK)
    {
        return NGX_ERROR;
    }

    zone->version = NGX_DERP_ZONE_VERSION;

    /* what is used here and there from the start has its pages at the start */

    ngx_memzero(region->buckets, zone->buckets * sizeof(uint32_t));
    ngx_memzero(region->journal, zone->entries * sizeof(ngx_derp_entry_t));

    return NGX_OK;
}


/* A quarter is for inboxes, the rest for channels.  Returns what they take. */

static size_t
ngx_derp_zone_divide(ngx_derp_zone_t *zone, size_t left, ngx_uint_t workers)
{
    size_t  n, size, inboxes;

    n = left / 4 / (NGX_DERP_INBOX_SIZE + sizeof(ngx_derp_inbox_t));

    zone->inboxes = ngx_min(n, NGX_DERP_SLOTS);

    inboxes = zone->inboxes * (NGX_DERP_INBOX_SIZE + sizeof(ngx_derp_inbox_t));
    left -= inboxes;

    n = ngx_derp_zone_channels(NGX_DERP_GENERATIONS * workers);

    size = left / n / 4096 * 4096;
    size = ngx_max(size, NGX_DERP_RING_MIN);
    size = ngx_min(size, NGX_DERP_RING_MAX);

    n = left / (size + sizeof(ngx_derp_channel_t));

    zone->ring_size = size;
    zone->channels = ngx_min(n, NGX_DERP_MAX_CHANNELS);

    return inboxes + zone->channels * (size + sizeof(ngx_derp_channel_t));
}


/* the greatest power of two that n holds, within the bounds */

static uint32_t
ngx_derp_power_of_two(size_t n, size_t min, size_t max)
{
    size_t  p;

    for (p = min; p * 2 <= n && p * 2 <= max; p *= 2) { /* void */ }

    return p;
}


ngx_int_t
ngx_derp_zone_open(ngx_derp_region_t *region, void *memory)
{
    ngx_derp_zone_t  *zone;

    zone = memory;

    if (zone->version != NGX_DERP_ZONE_VERSION) {
        return NGX_DECLINED;
    }

    region->zone = zone;
    ngx_derp_zone_view(region);

    return NGX_OK;
}


static void
ngx_derp_zone_view(ngx_derp_region_t *region)
{
    u_char           *p;
    ngx_derp_zone_t  *zone;

    zone = region->zone;

    p = ngx_align_ptr((u_char *) zone + sizeof(ngx_derp_zone_t),
                      NGX_DERP_CACHE_LINE);

    region->channels = (ngx_derp_channel_t *) p;
    p += zone->channels * sizeof(ngx_derp_channel_t);

    region->inboxes = (ngx_derp_inbox_t *) p;
    p += zone->inboxes * sizeof(ngx_derp_inbox_t);

    region->peers = (ngx_derp_peer_t *) p;
    p += zone->capacity * sizeof(ngx_derp_peer_t);

    region->journal = (ngx_derp_entry_t *) p;
    p += zone->entries * sizeof(ngx_derp_entry_t);

    region->conns = (ngx_derp_conn_t *) p;
    p += zone->capacity * sizeof(ngx_derp_conn_t);

    region->buckets = (uint32_t *) p;
    p += zone->buckets * sizeof(uint32_t);

    region->inbox_rings = ngx_align_ptr(p, NGX_DERP_CACHE_LINE);
    region->rings = region->inbox_rings + zone->inboxes * NGX_DERP_INBOX_SIZE;
}


void
ngx_derp_zone_join(ngx_derp_region_t *region, ngx_uint_t slot, ngx_log_t *log)
{
    region->slot = slot;
    region->generation = ngx_derp_slot_generation(slot);
    region->member = &region->zone->members[slot];
    region->log = log;

    ngx_derp_lock(region);

    ngx_derp_zone_remove_slot(region, slot);
    ngx_derp_inbox_join(region);
    NGX_DERP_FAULT(region_join);
    ngx_derp_store_release(&region->member->generation, region->generation);

    ngx_derp_unlock(region);

    ngx_derp_region_ring(region);
}


void
ngx_derp_zone_leave(ngx_derp_region_t *region)
{
    ngx_derp_lock(region);
    ngx_derp_zone_remove_slot(region, region->slot);
    NGX_DERP_FAULT(region_leave);
    ngx_derp_unlock(region);

    ngx_derp_region_ring(region);
}


ngx_uint_t
ngx_derp_zone_reap(ngx_derp_region_t *region)
{
    uint32_t    generation;
    ngx_uint_t  i, n, reaped;

    n = 0;

    for (i = 0; i < NGX_DERP_SLOTS; i++) {

        generation = ngx_derp_load_acquire(
                                       &region->zone->members[i].generation);

        if (generation == 0 || ngx_derp_slot_alive(i, generation)) {
            continue;
        }

        ngx_derp_lock(region);

        /* unless another worker was faster */

        reaped = (region->zone->members[i].generation == generation);

        if (reaped) {
            ngx_derp_zone_remove_slot(region, i);
            NGX_DERP_FAULT(region_reap);
            n++;
        }

        ngx_derp_unlock(region);

        if (reaped) {
            ngx_log_error(NGX_LOG_NOTICE, region->log, 0,
                          "derp worker in slot %ui has died, "
                          "its clients were taken off", i);
        }
    }

    if (n) {
        ngx_derp_region_ring(region);
    }

    return n;
}


/*
 * Nobody else writes as this slot any more: its worker has died, or is the
 * caller.  Consumers of its channels may still be reading what it published.
 */

static void
ngx_derp_zone_remove_slot(ngx_derp_region_t *region, ngx_uint_t slot)
{
    ngx_derp_member_t  *member;

    member = &region->zone->members[slot];

    if (member->generation == 0) {
        return;
    }

    ngx_derp_registry_remove_slot(region, slot);
    NGX_DERP_FAULT(region_remove_conns);
    ngx_derp_channel_remove_slot(region, slot);
    NGX_DERP_FAULT(region_remove_channels);
    ngx_derp_lease_remove_slot(region, slot);

    ngx_derp_counters_move((uint64_t *) &region->zone->past,
                           (uint64_t *) &member->counters,
                           sizeof(ngx_derp_counters_t));

    ngx_memzero(&member->gauges, sizeof(ngx_derp_gauges_t));
    NGX_DERP_FAULT(region_remove_counters);

    ngx_derp_store_release(&member->generation, 0);
}


/* who dies over this counts one of them twice */

static void
ngx_derp_counters_move(uint64_t *to, uint64_t *from, size_t size)
{
    size_t  i;

    for (i = 0; i < size / sizeof(uint64_t); i++) {
        ngx_derp_store(&to[i], to[i] + from[i]);
        ngx_derp_store_release(&from[i], 0);
    }
}
