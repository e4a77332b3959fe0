
/*
 * Leases: which worker has the link to another relay.
 *
 * There is one link to each other relay from the whole nginx.  A worker takes
 * the lease on it if nobody has it, if its owner has died, or if its owner is
 * of an older configuration: then the old link stays until the new one is up.
 */


#ifndef _NGX_DERP_LEASE_H_INCLUDED_
#define _NGX_DERP_LEASE_H_INCLUDED_


#include "ngx_derp_region.h"


typedef enum {
    NGX_DERP_LEASE_OTHER = 0,       /* another worker has it */
    NGX_DERP_LEASE_OURS,
    NGX_DERP_LEASE_REPLACED,        /* another has it, and its link is up */
    NGX_DERP_LEASE_AGAIN            /* the zone's lock is not to be had */
} ngx_derp_lease_e;


/*
 * Takes the lease on an id if it is to be had and take is set, and says whose
 * it is then; its owner says by the way whether its link is up.  In a worker,
 * now and then.
 */
ngx_derp_lease_e ngx_derp_lease(ngx_derp_region_t *region, uint64_t id,
    ngx_uint_t take, ngx_uint_t up);

/* Lets go of all leases of a slot; under the lock. */
void ngx_derp_lease_remove_slot(ngx_derp_region_t *region, ngx_uint_t slot);


#endif /* _NGX_DERP_LEASE_H_INCLUDED_ */
