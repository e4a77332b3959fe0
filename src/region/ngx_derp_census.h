
/*
 * The census: what the workers of a zone have counted, and what is in use.
 *
 * Each worker counts for itself, in its member of the zone.  When it ends,
 * whoever takes it off the zone adds what it counted to that of the past, once,
 * even if it dies over that and another has to go on.
 */


#ifndef _NGX_DERP_CENSUS_H_INCLUDED_
#define _NGX_DERP_CENSUS_H_INCLUDED_


#include "ngx_derp_region.h"


/* so many of something are in use, so many are not */

typedef struct {
    ngx_uint_t           used;
    ngx_uint_t           free;
} ngx_derp_use_t;


typedef struct {
    ngx_derp_member_t   *members;       /* by the slot; generation 0: none */
    ngx_uint_t           nmembers;
    ngx_derp_counters_t  past;          /* of workers that have ended */

    /* of those and these */
    ngx_derp_counters_t  counters;
    ngx_derp_gauges_t    gauges;

    uint32_t             keys;          /* that have a client here */
    uint32_t             duplicate_keys;
    uint32_t             duplicate_clients;

    ngx_derp_use_t       slots;         /* free: of all that nginx has */
    ngx_derp_use_t       channels;
    ngx_derp_use_t       inboxes;
} ngx_derp_census_t;


/*
 * Reads it all, into a census whose members are set by the caller: there are
 * ngx_derp_slots_top() of them.  Takes no lock: a number may be of a moment
 * later than another, but none is there twice or missing while a worker is
 * taken off the zone.  In any worker, one that has no slot too.
 */
void ngx_derp_census(ngx_derp_region_t *region, ngx_derp_census_t *census);

/*
 * What the member in the slot has counted is the past's from now on; under the
 * lock, before the member's generation is cleared.  In any worker.
 */
void ngx_derp_census_retire(ngx_derp_region_t *region, ngx_uint_t slot);


#endif /* _NGX_DERP_CENSUS_H_INCLUDED_ */
