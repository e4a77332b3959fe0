
/*
 * What needs only the layout of a zone, and the slots.
 */


#include "ngx_derp_region.h"


ngx_uint_t
ngx_derp_region_alive(ngx_derp_region_t *region, ngx_uint_t slot)
{
    uint32_t  generation;

    if (slot >= NGX_DERP_SLOTS) {
        return 0;
    }

    generation = ngx_derp_load_acquire(&region->zone->members[slot].generation);

    return generation != 0 && ngx_derp_slot_alive(slot, generation);
}


void
ngx_derp_region_ring(ngx_derp_region_t *region)
{
    uint64_t    bits;
    ngx_uint_t  i, slot, top;

    if (region->heard == 0 && !region->watched && !region->everybody) {
        return;
    }

    /* orders what was published before the look at who watches: see _watch() */

    ngx_derp_barrier();

    top = ngx_derp_slots_top();

    for (i = 0; i * 64 < top; i++) {
        bits = region->heard | (uint64_t) region->heard << 32;

        if (region->watched) {
            bits |= ngx_derp_load(&region->zone->watching[i]);
        }

        if (region->everybody) {
            bits = (uint64_t) -1;
        }

        for ( /* void */ ; bits; bits &= bits - 1) {
            slot = i * 64 + __builtin_ctzll(bits);

            if (slot < top
                && slot != region->slot
                && ngx_derp_load(&region->zone->members[slot].generation))
            {
                ngx_derp_slot_ring(slot, region->bell, region->log);
            }
        }
    }

    region->heard = 0;
    region->watched = 0;
    region->everybody = 0;
}


void
ngx_derp_region_rouse(ngx_derp_region_t *region)
{
    ngx_uint_t  i, top;

    top = ngx_derp_slots_top();

    for (i = 0; i < top; i++) {
        if (i != region->slot
            && ngx_derp_load(&region->zone->members[i].generation))
        {
            ngx_derp_slot_rouse(i, region->bell, region->log);
        }
    }
}


void
ngx_derp_region_watch(ngx_derp_region_t *region, ngx_uint_t watches)
{
    uint64_t  bit, *word;

    bit = (uint64_t) 1 << region->slot % 64;
    word = &region->zone->watching[region->slot / 64];

    if (watches) {
        (void) ngx_derp_or(word, bit);

    } else {
        (void) ngx_derp_and(word, ~bit);
    }

    /* orders it before the reading of the journal's head: see _ring() */

    ngx_derp_barrier();
}
