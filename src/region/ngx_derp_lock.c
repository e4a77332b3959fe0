
/*
 * The lock of a zone.
 */


#include "ngx_derp_lock.h"
#include "ngx_derp_mutex.h"
#include "ngx_derp_repair.h"
#include "ngx_derp_fault.h"


/* a change takes about a microsecond, and this some fifty */
#define NGX_DERP_LOCK_TRIES     256
#define NGX_DERP_LOCK_PAUSES    8

/* ms */
#define NGX_DERP_LOCK_PATIENCE  1000


ngx_int_t
ngx_derp_lock(ngx_derp_region_t *region)
{
    int         rc;
    ngx_uint_t  i, n;

    rc = ngx_derp_mutex_try(&region->zone->lock);

    /* who did not get it the last time does not wait */

    for (n = 1; rc == EBUSY && n < NGX_DERP_LOCK_TRIES && !region->denied; n++)
    {
        for (i = 0; i < NGX_DERP_LOCK_PAUSES; i++) {
            ngx_cpu_pause();
        }

        rc = ngx_derp_mutex_try(&region->zone->lock);
    }

    region->denied = (rc == EBUSY);

    if (region->denied) {
        ngx_log_debug1(NGX_LOG_DEBUG_HTTP, region->log, 0,
                       "derp zone is locked by another, after %ui tries", n);
        return NGX_AGAIN;
    }

    if (rc != 0) {
        ngx_log_error(NGX_LOG_ALERT, region->log, rc,
                      "the lock of a derp zone failed");
    }

    NGX_DERP_FAULT(region_lock);

    ngx_derp_store(&region->zone->locks, region->zone->locks + 1);

    /* a sequence left odd says as much as a peer left dirty */

    if (region->zone->dirty || region->zone->sequence & 1) {
        ngx_log_error(NGX_LOG_NOTICE, region->log, 0,
                      "derp registry is repaired after the death of a worker");
        ngx_derp_repair(region);
    }

    return NGX_OK;
}


ngx_int_t
ngx_derp_lock_wait(ngx_derp_region_t *region)
{
    ngx_uint_t  ms;

    ms = region->denied ? 0 : NGX_DERP_LOCK_PATIENCE;

    while (ngx_derp_lock(region) != NGX_OK) {

        if (ms-- == 0) {
            return NGX_AGAIN;
        }

        ngx_msleep(1);
    }

    return NGX_OK;
}


void
ngx_derp_unlock(ngx_derp_region_t *region)
{
    (void) pthread_mutex_unlock(&region->zone->lock);
}
