
/*
 * The lock of a zone, which its writers hold.
 *
 * A robust mutex, and not the shpool's: that one stays locked until the master
 * has waited for the worker that died with it, and for ever if a reload took
 * the zone out of the configuration while old workers are still using it.  A
 * writer marks the zone while it changes it, and who takes the lock next
 * repairs what was left half done.  Readers take no lock.
 */


#ifndef _NGX_DERP_LOCK_H_INCLUDED_
#define _NGX_DERP_LOCK_H_INCLUDED_


#include "ngx_derp_region.h"


/*
 * Takes the zone's lock, and repairs what the last owner left half done, if it
 * died.  In a worker.
 */
void ngx_derp_lock(ngx_derp_region_t *region);

/* Lets go of it.  In the worker that has it. */
void ngx_derp_unlock(ngx_derp_region_t *region);


#endif /* _NGX_DERP_LOCK_H_INCLUDED_ */
