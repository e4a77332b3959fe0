
/*
 * The lock of a zone, which its writers hold.
 *
 * A robust mutex, and not the shpool's: that one stays locked until the master
 * has waited for the worker that died with it, and for ever if a reload took
 * the zone out of the configuration while old workers are still using it.  A
 * writer marks the zone while it changes it, and who takes the lock next
 * repairs what was left half done.  Readers take no lock.
 *
 * Nobody waits for it: who has it may have been stopped.  What cannot be done
 * now says NGX_AGAIN, and its caller tries once more in a later turn.
 */


#ifndef _NGX_DERP_LOCK_H_INCLUDED_
#define _NGX_DERP_LOCK_H_INCLUDED_


#include "ngx_derp_region.h"


/*
 * Takes the zone's lock, and repairs what the last owner left half done, if it
 * died.  NGX_AGAIN: another has it, even after a moment; region->denied says so
 * until it is taken.  In a worker.
 */
ngx_int_t ngx_derp_lock(ngx_derp_region_t *region);

/*
 * The same, by a worker that starts or exits: the first time it waits for as
 * long as a second.
 */
ngx_int_t ngx_derp_lock_wait(ngx_derp_region_t *region);

/* Lets go of it.  In the worker that has it. */
void ngx_derp_unlock(ngx_derp_region_t *region);


#endif /* _NGX_DERP_LOCK_H_INCLUDED_ */
