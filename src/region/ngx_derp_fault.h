
/*
 * Fault points: where a test has a worker killed, or stopped, in the midst of a
 * change.
 *
 * Nothing of this is in a module that is built without -DNGX_DERP_FAULTS.  With
 * it, a test writes a point's name and a number to a switch that all workers
 * share; the worker that passes the point as the last of that many is sent the
 * signal, and killed if none is named.
 * In nginx the switch is the file that the environment's NGX_DERP_FAULT names,
 * mapped into the master before it forks.
 */


#ifndef _NGX_DERP_FAULT_H_INCLUDED_
#define _NGX_DERP_FAULT_H_INCLUDED_


#include "ngx_derp_atomic.h"


#if (NGX_DERP_FAULTS)

#define NGX_DERP_FAULT(name)  ngx_derp_fault(#name)


/* as it is in the file; to be changed while count is 0 */

typedef struct {
    uint32_t          count;        /* passings to come; 0: none counts */
    uint32_t          signal;       /* 0: SIGKILL */
    char              name[56];     /* with a NUL; empty: any point */
} ngx_derp_fault_t;


extern ngx_derp_fault_t  *ngx_derp_fault_switch;


/* Maps the switch, if there is one.  In the master. */
void ngx_derp_fault_init(ngx_log_t *log);

/* In a worker; in other processes nothing happens. */
void ngx_derp_fault(const char *name);

#else

#define NGX_DERP_FAULT(name)

#endif


#endif /* _NGX_DERP_FAULT_H_INCLUDED_ */
