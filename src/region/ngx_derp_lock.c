
/*
 * The lock of a zone.
 */


#include "ngx_derp_lock.h"
#include "ngx_derp_mutex.h"
#include "ngx_derp_repair.h"
#include "ngx_derp_fault.h"


/* ms */
#define NGX_DERP_LOCK_PATIENCE  20


void
ngx_derp_lock(ngx_derp_region_t *region)
{
    int  rc;

    /*
     * A waiter that is killed when it has just been woken may take the others'
     * wake-up with it: they look for themselves now and then.
     */

    do {
        rc = ngx_derp_mutex_wait(&region->zone->lock, NGX_DERP_LOCK_PATIENCE);
    } while (rc == ETIMEDOUT);

    if (rc != 0) {
        ngx_log_error(NGX_LOG_ALERT, region->log, rc,
                      "the lock of a derp zone failed");
    }

    NGX_DERP_FAULT(region_lock);

    /* a sequence left odd says as much as a peer left dirty */

    if (region->zone->dirty || region->zone->sequence & 1) {
        ngx_log_error(NGX_LOG_NOTICE, region->log, 0,
                      "derp registry is repaired after the death of a worker");
        ngx_derp_repair(region);
    }
}


void
ngx_derp_unlock(ngx_derp_region_t *region)
{
    (void) pthread_mutex_unlock(&region->zone->lock);
}
