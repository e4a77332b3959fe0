
/*
 * The repair of a registry that a dead writer left half changed.
 *
 * The kind of a connection is the one truth: it is written last, and cleared
 * first.  All else is built anew from the connections.
 */


#ifndef _NGX_DERP_REPAIR_H_INCLUDED_
#define _NGX_DERP_REPAIR_H_INCLUDED_


#include "ngx_derp_region.h"


/*
 * Builds the index, the lists and the counts anew; under the lock, by who took
 * it after a writer has died.  In any worker.
 */
void ngx_derp_repair(ngx_derp_region_t *region);


#endif /* _NGX_DERP_REPAIR_H_INCLUDED_ */
