
/*
 * What needs only the layout of a zone, and the slots.
 */


#include "ngx_derp_region.h"


static void ngx_derp_counters_add(uint64_t *to, uint64_t *from, size_t size);


ngx_uint_t
ngx_derp_region_alive(ngx_derp_region_t *region, ngx_uint_t slot)
{
    uint32_t  generation;

    generation = ngx_derp_load_acquire(&region->zone->members[slot].generation);

    return generation != 0 && ngx_derp_slot_alive(slot, generation);
}


void
ngx_derp_region_ring(ngx_derp_region_t *region)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_DERP_SLOTS; i++) {
        if (i != region->slot
            && ngx_derp_load(&region->zone->members[i].generation))
        {
            ngx_derp_slot_ring(i, region->log);
        }
    }
}


void
ngx_derp_region_counters(ngx_derp_region_t *region,
    ngx_derp_counters_t *counters, ngx_derp_gauges_t *gauges)
{
    ngx_uint_t          i;
    ngx_derp_member_t  *member;

    ngx_memzero(counters, sizeof(ngx_derp_counters_t));
    ngx_memzero(gauges, sizeof(ngx_derp_gauges_t));

    ngx_derp_counters_add((uint64_t *) counters,
                          (uint64_t *) &region->zone->past,
                          sizeof(ngx_derp_counters_t));

    for (i = 0; i < NGX_DERP_SLOTS; i++) {
        member = &region->zone->members[i];

        if (ngx_derp_load(&member->generation) == 0) {
            continue;
        }

        ngx_derp_counters_add((uint64_t *) counters,
                              (uint64_t *) &member->counters,
                              sizeof(ngx_derp_counters_t));
        ngx_derp_counters_add((uint64_t *) gauges,
                              (uint64_t *) &member->gauges,
                              sizeof(ngx_derp_gauges_t));
    }
}


static void
ngx_derp_counters_add(uint64_t *to, uint64_t *from, size_t size)
{
    size_t  i;

    for (i = 0; i < size / sizeof(uint64_t); i++) {
        to[i] += ngx_derp_load(&from[i]);
    }
}
