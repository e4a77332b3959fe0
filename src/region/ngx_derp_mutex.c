
/*
 * Robust mutexes.
 */


#include "ngx_derp_mutex.h"


static int ngx_derp_mutex_taken(pthread_mutex_t *mutex, int rc);


ngx_int_t
ngx_derp_mutex_create(pthread_mutex_t *mutex)
{
    ngx_int_t            rc;
    pthread_mutexattr_t  attr;

    if (pthread_mutexattr_init(&attr) != 0) {
        return NGX_ERROR;
    }

    rc = NGX_OK;

    if (pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED) != 0
        || pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST) != 0
        || pthread_mutex_init(mutex, &attr) != 0)
    {
        rc = NGX_ERROR;
    }

    (void) pthread_mutexattr_destroy(&attr);

    return rc;
}


int
ngx_derp_mutex_try(pthread_mutex_t *mutex)
{
    return ngx_derp_mutex_taken(mutex, pthread_mutex_trylock(mutex));
}


int
ngx_derp_mutex_wait(pthread_mutex_t *mutex, ngx_msec_t patience)
{
    int              rc;
    struct timespec  ts;

    rc = ngx_derp_mutex_try(mutex);

    if (rc != EBUSY) {
        return rc;
    }

    (void) clock_gettime(CLOCK_REALTIME, &ts);

    ts.tv_nsec += (long) patience * 1000000;

    if (ts.tv_nsec >= 1000000000) {
        ts.tv_nsec -= 1000000000;
        ts.tv_sec++;
    }

    return ngx_derp_mutex_taken(mutex, pthread_mutex_timedlock(mutex, &ts));
}


static int
ngx_derp_mutex_taken(pthread_mutex_t *mutex, int rc)
{
    /* whoever dies after this leaves it to the next one in the same way */

    return rc == EOWNERDEAD ? pthread_mutex_consistent(mutex) : rc;
}
