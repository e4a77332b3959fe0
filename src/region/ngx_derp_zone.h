
/*
 * A zone as a whole: how it is made, and which workers take part in it.
 *
 * The memory is divided once, when the zone is made.  Workers join and leave;
 * what one that died has left, in the registry, the channels and the leases, is
 * taken away by another.
 */


#ifndef _NGX_DERP_ZONE_H_INCLUDED_
#define _NGX_DERP_ZONE_H_INCLUDED_


#include "ngx_derp_region.h"


#define NGX_DERP_ZONE_MIN  (4 * 1024 * 1024)


/* How many channels so many workers need, each with one to each other. */
#define ngx_derp_zone_channels(workers)                                       \
    ((size_t) (workers) * ((workers) - 1))

/*
 * Lays a zone out in size bytes of memory, for that many workers and as many
 * old ones again and again: the more, the smaller the rings of the channels
 * between them.  The memory is zeroed.  NGX_DECLINED if it is too small.  In
 * the master.
 */
ngx_int_t ngx_derp_zone_create(ngx_derp_region_t *region, void *memory,
    size_t size, ngx_uint_t workers);

/*
 * The view of a zone that exists.  NGX_DECLINED if it has another layout than
 * this code.  In any process.
 */
ngx_int_t ngx_derp_zone_open(ngx_derp_region_t *region, void *memory);

/*
 * The worker in this slot takes part from now on; what an earlier owner of the
 * slot left is taken away.  NGX_AGAIN: not yet, another keeps the zone's lock.
 * bell is the slot's, which the caller keeps open.  In a worker, once for each
 * zone.
 */
ngx_int_t ngx_derp_zone_join(ngx_derp_region_t *region, ngx_uint_t slot,
    ngx_socket_t bell, ngx_log_t *log);

/*
 * Takes away all that this worker has in the zone; where another keeps the lock
 * the others do, once the slot is released.  In a worker, at its end.
 */
void ngx_derp_zone_leave(ngx_derp_region_t *region);

/*
 * Takes away what workers left that died, as much as may be done at once:
 * NGX_AGAIN, there is more, or the lock is not to be had.  In any worker, now
 * and then, and again until it is done.
 */
ngx_int_t ngx_derp_zone_reap(ngx_derp_region_t *region);


#endif /* _NGX_DERP_ZONE_H_INCLUDED_ */
