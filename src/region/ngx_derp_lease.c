
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
static ngx_uint_t ngx_derp_lease_older(ngx_derp_lease_t *lease);
static void ngx_derp_lease_linked(ngx_derp_lease_t *lease, uint32_t linked);


ngx_derp_lease_e
ngx_derp_lease(ngx_derp_region_t *region, uint64_t id,
    ngx_derp_lease_take_e take, ngx_uint_t up)
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

        if (up) {
            ngx_derp_lease_linked(lease, 1);
        }

        rc = NGX_DERP_LEASE_OURS;

    } else if ((take >= NGX_DERP_LEASE_TAKE_FREE
                && ngx_derp_lease_free(region, lease))
               || (take == NGX_DERP_LEASE_TAKE && ngx_derp_lease_older(lease)))
    {

        /* who dies over this has not taken it */

        if (lease->id != id) {
            ngx_memzero(lease, sizeof(ngx_derp_lease_t));
            lease->since = ngx_time();

        } else if (ngx_derp_lease_free(region, lease)) {
            ngx_derp_lease_linked(lease, 0);
        }

        ngx_derp_store(&lease->generation, 0);
        ngx_derp_release_fence();

        ngx_derp_store(&lease->id, id);
        lease->configuration = ngx_derp_slots_configuration();
        lease->up = 0;
        lease->slot = region->slot;

        NGX_DERP_FAULT(lease_take);
        ngx_derp_store_release(&lease->generation, region->generation);

        rc = NGX_DERP_LEASE_OURS;

    } else {
        rc = lease->id == id && lease->up ? NGX_DERP_LEASE_REPLACED
                                          : NGX_DERP_LEASE_OTHER;
    }

    ngx_derp_unlock(region);

    return rc;
}


static void
ngx_derp_lease_linked(ngx_derp_lease_t *lease, uint32_t linked)
{
    if (lease->linked != linked) {
        ngx_derp_store(&lease->linked, linked);
        ngx_derp_store(&lease->since, (uint64_t) ngx_time());
    }
}


void
ngx_derp_lease_error(ngx_derp_region_t *region, uint64_t id, const char *error)
{
    u_char             text[NGX_DERP_LEASE_ERROR];
    ngx_uint_t         i;
    ngx_derp_lease_t  *lease;

    ngx_memzero(text, sizeof(text));
    ngx_memcpy(text, error, ngx_min(ngx_strlen(error), sizeof(text) - 1));

    for (i = 0; i < NGX_DERP_MAX_LINKS; i++) {
        lease = &region->zone->leases[i];

        if (ngx_derp_load(&lease->id) == id
            && ngx_derp_lease_ours(region, lease))
        {
            ngx_derp_lease_linked(lease, 0);
            ngx_derp_write_bytes(lease->error, text, sizeof(text));
            return;
        }
    }
}


void
ngx_derp_lease_look(ngx_derp_region_t *region, uint64_t id,
    ngx_derp_link_status_t *status)
{
    ngx_uint_t         i;
    ngx_derp_lease_t  *lease;

    ngx_memzero(status, sizeof(ngx_derp_link_status_t));

    for (i = 0; i < NGX_DERP_MAX_LINKS; i++) {
        lease = &region->zone->leases[i];

        if (ngx_derp_load(&lease->id) != id) {
            continue;
        }

        status->up = ngx_derp_load(&lease->linked)
                     && ngx_derp_load(&lease->generation)
                     && ngx_derp_region_alive(region,
                                              ngx_derp_load(&lease->slot));
        status->since = (time_t) ngx_derp_load(&lease->since);

        ngx_derp_read_bytes(status->error, lease->error,
                            sizeof(status->error));
        status->error[sizeof(status->error) - 1] = '\0';
        return;
    }
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
           || lease->slot >= NGX_DERP_SLOTS
           || lease->generation
              != ngx_derp_load(&region->zone->members[lease->slot].generation)
           || !ngx_derp_slot_alive(lease->slot, lease->generation);
}


static ngx_uint_t
ngx_derp_lease_older(ngx_derp_lease_t *lease)
{
    return (int32_t) (lease->configuration - ngx_derp_slots_configuration())
           < 0;
}


/* Nobody else writes these, and a reader sees whether it read in the midst. */

void
ngx_derp_lease_configure(ngx_derp_region_t *region, uint64_t *ids,
    ngx_uint_t n)
{
    ngx_uint_t         i;
    ngx_derp_links_t  *links;

    links = &region->zone->links;

    ngx_derp_store(&links->configuration, 0);
    ngx_derp_release_fence();

    for (i = 0; i < n; i++) {
        ngx_derp_store(&links->ids[i], ids[i]);
    }

    ngx_derp_store(&links->n, (uint32_t) n);
    ngx_derp_store_release(&links->configuration,
                           ngx_derp_slots_configuration());
}


ngx_int_t
ngx_derp_lease_configured(ngx_derp_region_t *region, uint64_t id)
{
    uint32_t           configuration, i, n;
    ngx_uint_t         found;
    ngx_derp_links_t  *links;

    links = &region->zone->links;
    configuration = ngx_derp_load_acquire(&links->configuration);

    found = 0;
    n = ngx_min(ngx_derp_load(&links->n), NGX_DERP_MAX_LINKS);

    for (i = 0; i < n; i++) {
        found |= (ngx_derp_load(&links->ids[i]) == id);
    }

    ngx_derp_acquire_fence();

    if (configuration == 0
        || configuration != ngx_derp_slots_newest()
        || configuration != ngx_derp_load(&links->configuration))
    {
        return NGX_AGAIN;
    }

    return found ? NGX_OK : NGX_DECLINED;
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
            ngx_derp_lease_linked(lease, 0);
        }
    }
}
