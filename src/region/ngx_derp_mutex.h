
/*
 * Robust mutexes in shared memory: they pass to the next one when their owner
 * dies.  What the dead one had under it is for the new owner to look at.
 */


#ifndef _NGX_DERP_MUTEX_H_INCLUDED_
#define _NGX_DERP_MUTEX_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include <pthread.h>


/* Makes one.  NGX_ERROR if there are none.  In the master. */
ngx_int_t ngx_derp_mutex_create(pthread_mutex_t *mutex);

/*
 * Takes it, at once or within so many ms, fewer than 1000.  0, from a dead
 * owner too; EBUSY or ETIMEDOUT; another error.  In any process.
 */
int ngx_derp_mutex_try(pthread_mutex_t *mutex);
int ngx_derp_mutex_wait(pthread_mutex_t *mutex, ngx_msec_t patience);


#endif /* _NGX_DERP_MUTEX_H_INCLUDED_ */
