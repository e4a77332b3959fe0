
/*
 * Leases: which worker has the link to another relay.
 *
 * There is one link to each other relay from the whole nginx.  A worker takes
 * the lease on it if nobody has it, if its owner has died, or if its owner is
 * of an older configuration: then the old link stays until the new one is up.
 * A robust mutex of the owner's slot says that it lives, so that a lease needs
 * no renewal.
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


/* what to take: nothing, what nobody has, or of an older configuration, too */

typedef enum {
    NGX_DERP_LEASE_LOOK = 0,
    NGX_DERP_LEASE_TAKE_FREE,
    NGX_DERP_LEASE_TAKE
} ngx_derp_lease_take_e;


/* a link, as the status tells of it */

typedef struct {
    ngx_uint_t        up;
    time_t            since;            /* 0: never yet */
    u_char            error[NGX_DERP_LEASE_ERROR];  /* the last one's text */
} ngx_derp_link_status_t;


/*
 * Takes the lease on an id if it is to be had that way, and says whose it is
 * then; its owner says by the way whether its link is up.  All functions are
 * for workers, now and then, but for ngx_derp_lease_configure().
 */
ngx_derp_lease_e ngx_derp_lease(ngx_derp_region_t *region, uint64_t id,
    ngx_derp_lease_take_e take, ngx_uint_t up);

/*
 * The owner of the lease says why its link is not there: a constant string, of
 * which NGX_DERP_LEASE_ERROR - 1 bytes are kept.  Takes no lock.
 */
void ngx_derp_lease_error(ngx_derp_region_t *region, uint64_t id,
    const char *error);

/*
 * How the link to the relay of this id is, for the status.  What nobody has had
 * a lease on since the zone was made is all zero.  Takes no lock, so an error
 * may be that of now and of before in parts.
 */
void ngx_derp_lease_look(ngx_derp_region_t *region, uint64_t id,
    ngx_derp_link_status_t *status);

/*
 * Says which relays the newest configuration links to, by their ids.  In the
 * master, when that one is put to use, after ngx_derp_slots_configure().
 */
void ngx_derp_lease_configure(ngx_derp_region_t *region, uint64_t *ids,
    ngx_uint_t n);

/*
 * Whether the newest configuration has the relay of this zone, and whether it
 * links to that id: NGX_OK; NGX_DECLINED, not to that one; NGX_AGAIN, it is not
 * known, or the relay is configured no more.
 */
ngx_int_t ngx_derp_lease_configured(ngx_derp_region_t *region, uint64_t id);

/* Lets go of all leases of a slot; under the lock. */
void ngx_derp_lease_remove_slot(ngx_derp_region_t *region, ngx_uint_t slot);


#endif /* _NGX_DERP_LEASE_H_INCLUDED_ */
