
/*
 * A relay's zone, and the workers that take part in it.
 */


#include "ngx_derp_zone.h"
#include "ngx_derp_registry.h"
#include "ngx_derp_journal.h"
#include "ngx_derp_census.h"
#include "ngx_derp_channel.h"
#include "ngx_derp_inbox.h"
#include "ngx_derp_lease.h"
#include "ngx_derp_lock.h"
#include "ngx_derp_mutex.h"
#include "ngx_derp_fault.h"


/* with three generations of workers all are to have their channels */
#define NGX_DERP_GENERATIONS   3
#define NGX_DERP_MAX_CHANNELS  ngx_derp_zone_channels(NGX_DERP_SLOTS)

#define NGX_DERP_RING_MAX      (512 * 1024)


static size_t ngx_derp_zone_divide(ngx_derp_zone_t *zone, size_t left,
    ngx_uint_t workers);
static uint32_t ngx_derp_power_of_two(size_t n, size_t min, size_t max);
static void ngx_derp_zone_view(ngx_derp_region_t *region);
static ngx_int_t ngx_derp_zone_clear_own(ngx_derp_region_t *region);
static ngx_int_t ngx_derp_zone_reap_slot(ngx_derp_region_t *region,
    ngx_uint_t slot, uint32_t generation);
static ngx_int_t ngx_derp_zone_remove_slot(ngx_derp_region_t *region,
    ngx_uint_t slot, uint32_t *index);


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

    /* what comes last has a part for each slot, and is zero by itself */

    ngx_memzero(zone, offsetof(ngx_derp_zone_t, members));

    left = size - sizeof(ngx_derp_zone_t) - 8 * NGX_DERP_CACHE_LINE;

    left -= ngx_derp_zone_divide(zone, left / 2, workers);

    /* a purge writes an entry for each key, with nobody reading meanwhile */

    per_client = sizeof(ngx_derp_peer_t) + sizeof(ngx_derp_conn_t)
                 + sizeof(ngx_derp_entry_t) + 2 * sizeof(uint32_t);

    zone->capacity = ngx_min(left / per_client, NGX_DERP_MAX_CAPACITY - 1);
    zone->entries = zone->capacity;
    zone->buckets = ngx_derp_power_of_two(2 * zone->capacity - 1, 1,
                                          NGX_DERP_MAX_CAPACITY);

    ngx_derp_random(zone->secret, sizeof(zone->secret));
    ngx_derp_random(&zone->id, sizeof(zone->id));

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


ngx_int_t
ngx_derp_zone_join(ngx_derp_region_t *region, ngx_uint_t slot,
    ngx_socket_t bell, ngx_log_t *log)
{
    region->slot = slot;
    region->generation = ngx_derp_slot_generation(slot);
    region->member = &region->zone->members[slot];
    region->bell = bell;
    region->log = log;

    if (ngx_derp_zone_clear_own(region) != NGX_OK) {
        return NGX_AGAIN;
    }

    ngx_derp_inbox_join(region);

    region->member->configuration = ngx_derp_slots_configuration();
    region->member->pid = ngx_pid;

    ngx_log_debug3(NGX_LOG_DEBUG_HTTP, log, 0,
                   "derp zone joined, slot:%ui generation:%uD peers:%uD",
                   slot, region->generation, region->zone->peers_top);

    NGX_DERP_FAULT(region_join);
    ngx_derp_store_release(&region->member->generation, region->generation);

    ngx_derp_unlock(region);

    ngx_derp_region_ring(region);

    return NGX_OK;
}


void
ngx_derp_zone_leave(ngx_derp_region_t *region)
{
    if (ngx_derp_zone_clear_own(region) != NGX_OK) {
        return;
    }

    NGX_DERP_FAULT(region_leave);
    ngx_derp_unlock(region);
}


/* All of this worker's slot, part by part; NGX_OK, with the lock. */

static ngx_int_t
ngx_derp_zone_clear_own(ngx_derp_region_t *region)
{
    uint32_t  index;

    index = 0;

    while (ngx_derp_lock_wait(region) == NGX_OK) {

        if (ngx_derp_zone_remove_slot(region, region->slot, &index)
            == NGX_OK)
        {
            return NGX_OK;
        }

        ngx_derp_unlock(region);
    }

    return NGX_AGAIN;
}


ngx_int_t
ngx_derp_zone_reap(ngx_derp_region_t *region)
{
    uint32_t    generation;
    ngx_int_t   rc;
    ngx_uint_t  i;

    for (i = 0; i < ngx_derp_slots_top(); i++) {

        generation = ngx_derp_load_acquire(
                                       &region->zone->members[i].generation);

        if (generation == 0 || ngx_derp_slot_alive(i, generation)) {
            continue;
        }

        if (ngx_derp_lock(region) != NGX_OK) {
            return NGX_AGAIN;
        }

        rc = ngx_derp_zone_reap_slot(region, i, generation);

        ngx_derp_unlock(region);

        if (rc == NGX_AGAIN) {
            return NGX_AGAIN;
        }

        if (rc == NGX_OK) {
            ngx_log_error(NGX_LOG_NOTICE, region->log, 0,
                          "derp worker in slot %ui has died, "
                          "its clients were taken off", i);
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_derp_zone_reap_slot(ngx_derp_region_t *region, ngx_uint_t slot,
    uint32_t generation)
{
    uint64_t   dead;
    ngx_int_t  rc;

    /* unless another worker was faster */

    if (region->zone->members[slot].generation != generation) {
        return NGX_DECLINED;
    }

    dead = (uint64_t) generation << 32 | slot;

    if (region->reaping != dead) {
        region->reaping = dead;
        region->reaped = 0;
    }

    rc = ngx_derp_zone_remove_slot(region, slot, &region->reaped);
    NGX_DERP_FAULT(region_reap);

    return rc;
}


/*
 * Nobody else writes as this slot any more: its worker has died, or is the
 * caller.  Consumers of its channels may still be reading what it published:
 * before they read of the departures in the journal they take all of it.  They
 * are woken, whatever they say: the dead one may not have come to it.
 */

static ngx_int_t
ngx_derp_zone_remove_slot(ngx_derp_region_t *region, ngx_uint_t slot,
    uint32_t *index)
{
    ngx_int_t           rc;
    ngx_derp_member_t  *member;

    member = &region->zone->members[slot];

    if (member->generation == 0) {
        return NGX_OK;
    }

    rc = ngx_derp_registry_remove_slot(region, slot, index);
    NGX_DERP_FAULT(region_remove_conns);

    ngx_log_debug3(NGX_LOG_DEBUG_HTTP, region->log, 0,
                   "derp slot %ui is taken off, connections:%uD rc:%i",
                   slot, *index, rc);

    ngx_derp_region_rouse(region);
    NGX_DERP_FAULT(region_remove_rouse);

    if (rc != NGX_OK) {
        return rc;
    }

    (void) ngx_derp_and(&region->zone->watching[slot / 64],
                        ~((uint64_t) 1 << slot % 64));

    ngx_derp_channel_remove_slot(region, slot);
    NGX_DERP_FAULT(region_remove_channels);
    ngx_derp_lease_remove_slot(region, slot);

    ngx_derp_census_retire(region, slot);
    NGX_DERP_FAULT(region_remove_counters);

    ngx_derp_store_release(&member->generation, 0);

    return NGX_OK;
}
