
/*
 * What the workers of a zone have counted.
 */


#include "ngx_derp_census.h"
#include "ngx_derp_channel.h"
#include "ngx_derp_fault.h"


/* each in vain is a worker that has ended meanwhile, or a change of a key */
#define NGX_DERP_CENSUS_TRIES  1000


static void ngx_derp_census_workers(ngx_derp_region_t *region,
    ngx_derp_census_t *census);
static void ngx_derp_census_members(ngx_derp_zone_t *zone,
    ngx_derp_past_t *past, ngx_derp_census_t *census);
static void ngx_derp_census_total(ngx_derp_census_t *census);
static void ngx_derp_census_add(void *to, void *from, size_t len);
static void ngx_derp_census_keys(ngx_derp_zone_t *zone,
    ngx_derp_census_t *census);
static void ngx_derp_census_use(ngx_derp_region_t *region,
    ngx_derp_census_t *census);
static void ngx_derp_census_clear(ngx_derp_member_t *member);


void
ngx_derp_census(ngx_derp_region_t *region, ngx_derp_census_t *census)
{
    ngx_derp_census_workers(region, census);
    ngx_derp_census_total(census);
    ngx_derp_census_keys(region->zone, census);
    ngx_derp_census_use(region, census);
}


/* A worker is in one of two places: see _retire(). */

static void
ngx_derp_census_workers(ngx_derp_region_t *region, ngx_derp_census_t *census)
{
    uint32_t          sequence;
    ngx_uint_t        i;
    ngx_derp_zone_t  *zone;
    ngx_derp_past_t   past;

    zone = region->zone;

    for (i = 0; i < NGX_DERP_CENSUS_TRIES; i++) {

        sequence = ngx_derp_load_acquire(&zone->past_sequence);

        ngx_derp_read_bytes(&past, &zone->past[sequence & 1],
                            sizeof(ngx_derp_past_t));
        ngx_derp_census_members(zone, &past, census);

        ngx_derp_acquire_fence();

        if (ngx_derp_load(&zone->past_sequence) == sequence) {
            break;
        }
    }

    census->past = past.counters;
}


static void
ngx_derp_census_members(ngx_derp_zone_t *zone, ngx_derp_past_t *past,
    ngx_derp_census_t *census)
{
    uint32_t            generation;
    ngx_uint_t          i;
    ngx_derp_member_t  *to, *from;

    for (i = 0; i < census->nmembers; i++) {
        to = &census->members[i];
        from = &zone->members[i];

        generation = ngx_derp_load_acquire(&from->generation);

        /* the last one of the past may still be about to be cleared */

        if (i == past->slot && generation == past->generation) {
            generation = 0;
        }

        to->generation = generation;

        if (generation == 0) {
            continue;
        }

        to->configuration = ngx_derp_load(&from->configuration);
        to->pid = ngx_derp_load(&from->pid);

        ngx_derp_read_bytes(&to->counters, &from->counters,
                            sizeof(ngx_derp_counters_t));
        ngx_derp_read_bytes(&to->gauges, &from->gauges,
                            sizeof(ngx_derp_gauges_t));
    }
}


static void
ngx_derp_census_total(ngx_derp_census_t *census)
{
    ngx_uint_t          i;
    ngx_derp_member_t  *member;

    census->counters = census->past;
    ngx_memzero(&census->gauges, sizeof(ngx_derp_gauges_t));

    for (i = 0; i < census->nmembers; i++) {
        member = &census->members[i];

        if (member->generation) {
            ngx_derp_census_add(&census->counters, &member->counters,
                                sizeof(ngx_derp_counters_t));
            ngx_derp_census_add(&census->gauges, &member->gauges,
                                sizeof(ngx_derp_gauges_t));
        }
    }
}


/* counters and gauges are words, and nothing else */

static void
ngx_derp_census_add(void *to, void *from, size_t len)
{
    size_t     i;
    uint64_t  *sum = to, *n = from;

    for (i = 0; i < len / sizeof(uint64_t); i++) {
        sum[i] += n[i];
    }
}


/* while somebody is repairing the registry they are of no worth */

static void
ngx_derp_census_keys(ngx_derp_zone_t *zone, ngx_derp_census_t *census)
{
    uint32_t    sequence;
    ngx_uint_t  i;

    for (i = 0; i < NGX_DERP_CENSUS_TRIES; i++) {

        sequence = ngx_derp_load_acquire(&zone->sequence);

        census->keys = ngx_derp_load(&zone->keys);
        census->duplicate_keys = ngx_derp_load(&zone->duplicate_keys);
        census->duplicate_clients = ngx_derp_load(&zone->duplicate_clients);

        ngx_derp_acquire_fence();

        if ((sequence & 1) == 0 && ngx_derp_load(&zone->sequence) == sequence) {
            break;
        }
    }
}


static void
ngx_derp_census_use(ngx_derp_region_t *region, ngx_derp_census_t *census)
{
    ngx_uint_t        i;
    ngx_derp_zone_t  *zone;

    zone = region->zone;

    census->slots.used = 0;
    census->channels.used = 0;
    census->inboxes.used = 0;

    for (i = 0; i < census->nmembers; i++) {
        if (census->members[i].generation) {
            census->slots.used++;
            census->inboxes.used += (i < zone->inboxes);
        }
    }

    for (i = 0; i < zone->channels; i++) {
        census->channels.used += ngx_derp_load(&region->channels[i].used);
    }

    census->slots.free = NGX_DERP_SLOTS - ngx_derp_slots_used();
    census->channels.free = zone->channels - census->channels.used;
    census->inboxes.free = zone->inboxes - census->inboxes.used;
}


/*
 * The sum is made beside that of now, together with whose it is, and then one
 * store has it take its place: who dies before has done nothing, and who dies
 * after is not to be counted twice.
 */

void
ngx_derp_census_retire(ngx_derp_region_t *region, ngx_uint_t slot)
{
    ngx_derp_past_t     sum, *now;
    ngx_derp_zone_t    *zone;
    ngx_derp_member_t  *member, *last;

    zone = region->zone;
    member = &zone->members[slot];
    now = &zone->past[zone->past_sequence & 1];

    if (now->slot != slot || now->generation != member->generation) {

        /* the last one's are counted, but who did that may have died over it */

        last = &zone->members[now->slot];

        if (now->generation && last->generation == now->generation) {
            ngx_derp_census_clear(last);
        }

        sum = *now;
        sum.slot = slot;
        sum.generation = member->generation;

        ngx_derp_census_add(&sum.counters, &member->counters,
                            sizeof(ngx_derp_counters_t));

        /* orders the last store of the sequence, by whomever, before it */

        ngx_derp_release_fence();
        ngx_derp_write_bytes(&zone->past[(zone->past_sequence + 1) & 1], &sum,
                             sizeof(ngx_derp_past_t));

        NGX_DERP_FAULT(census_retire);
        ngx_derp_store_release(&zone->past_sequence, zone->past_sequence + 1);
        NGX_DERP_FAULT(census_retired);
    }

    ngx_derp_census_clear(member);
}


static void
ngx_derp_census_clear(ngx_derp_member_t *member)
{
    ngx_derp_member_t  none;

    ngx_memzero(&none, sizeof(ngx_derp_member_t));

    /* orders it before what follows: see _workers() */

    ngx_derp_release_fence();
    ngx_derp_write_bytes(&member->counters, &none.counters,
                         sizeof(ngx_derp_counters_t));
    ngx_derp_write_bytes(&member->gauges, &none.gauges,
                         sizeof(ngx_derp_gauges_t));
}
