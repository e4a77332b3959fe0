
/*
 * Leases on links to other relays.
 */


#include "ngx_derp_lease.h"
#include "ngx_derp_lock.h"
#include "ngx_derp_fault.h"


static ngx_derp_lease_t *ngx_derp_lease_find(ngx_derp_region_t *region,
    uint64_t id);
static ngx_uint_t ngx_derp_lease_ours(ngx_derp_region_t *region,
    ngx_derp_lease_t *lease);
static ngx_uint_t ngx_derp_lease_free(ngx_derp_region_t *region,
    ngx_derp_lease_t *lease);


ngx_derp_lease_e
ngx_derp_lease(ngx_derp_region_t *region, uint64_t id, ngx_uint_t take,
    ngx_uint_t up)
{
    ngx_derp_lease_e   rc;
    ngx_derp_lease_t  *lease;

    if (ngx_derp_lock(region) != NGX_OK) {
        return NGX_DERP_LEASE_AGAIN;
    }

    lease = ngx_derp_lease_find(region, id);

    if (lease == NULL) {
        rc = NGX_DERP_LEASE_OTHER;

    } else if (ngx_derp_lease_ours(region, lease)) {
        lease->up = up;
        rc = NGX_DERP_LEASE_OURS;

    } else if (take && ngx_derp_lease_free(region, lease)) {

        /* who dies over this has not taken it */

        ngx_derp_store(&lease->generation, 0);
        ngx_derp_release_fence();

        lease->id = id;
        lease->configuration = ngx_derp_slots_configuration();
        lease->up = 0;
        lease->slot = region->slot;

        NGX_DERP_FAULT(lease_take);
        ngx_derp_store_release(&lease->generation, region->generation);

        rc = NGX_DERP_LEASE_OURS;

    } else {
        rc = lease->up ? NGX_DERP_LEASE_REPLACED : NGX_DERP_LEASE_OTHER;
    }

    ngx_derp_unlock(region);

    return rc;
}


/* The lease on an id, or one that is free for it. */

static ngx_derp_lease_t *
ngx_derp_lease_find(ngx_derp_region_t *region, uint64_t id)
{
    ngx_uint_t         i;
    ngx_derp_lease_t  *lease, *unused;

    unused = NULL;

    for (i = 0; i < NGX_DERP_MAX_LINKS; i++) {
        lease = &region->zone->leases[i];

        if (lease->id == id) {
            return lease;
        }

        if (unused == NULL
            && (lease->generation == 0
                || !ngx_derp_region_alive(region, lease->slot)))
        {
            unused = lease;
        }
    }

    return unused;
}


static ngx_uint_t
ngx_derp_lease_ours(ngx_derp_region_t *region, ngx_derp_lease_t *lease)
{
    return lease->slot == region->slot
           && lease->generation == region->generation;
}


static ngx_uint_t
ngx_derp_lease_free(ngx_derp_region_t *region, ngx_derp_lease_t *lease)
{
    return lease->generation == 0
           || lease->generation
              != ngx_derp_load(&region->zone->members[lease->slot].generation)
           || !ngx_derp_slot_alive(lease->slot, lease->generation)
           || (int32_t) (lease->configuration
                         - ngx_derp_slots_configuration()) < 0;
}


void
ngx_derp_lease_remove_slot(ngx_derp_region_t *region, ngx_uint_t slot)
{
    ngx_uint_t         i;
    ngx_derp_lease_t  *lease;

    for (i = 0; i < NGX_DERP_MAX_LINKS; i++) {
        lease = &region->zone->leases[i];

        if (lease->generation
            && lease->slot == slot
            && lease->generation == region->zone->members[slot].generation)
        {
            lease->generation = 0;
            lease->up = 0;
        }
    }
}
