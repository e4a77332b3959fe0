
/*
 * What needs only the layout of a zone, and the slots.
 */


#include "ngx_derp_region.h"


static void ngx_derp_region_each(ngx_derp_region_t *region,
    void (*ring)(ngx_uint_t slot, ngx_log_t *log));


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
    ngx_derp_region_each(region, ngx_derp_slot_ring);
}


void
ngx_derp_region_rouse(ngx_derp_region_t *region)
{
    ngx_derp_region_each(region, ngx_derp_slot_rouse);
}


static void
ngx_derp_region_each(ngx_derp_region_t *region,
    void (*ring)(ngx_uint_t slot, ngx_log_t *log))
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_DERP_SLOTS; i++) {
        if (i != region->slot
            && ngx_derp_load(&region->zone->members[i].generation))
        {
            ring(i, region->log);
        }
    }
}
