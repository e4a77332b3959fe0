
/*
 * The backlog: what a blocked connection is still to be sent, and has not begun
 * to go out.
 *
 * Each frame has a buffer of its own, so that any can be dropped:
 * NGX_DERP_QUEUE packets of disco's and as many others, the oldest of its sort
 * making way for a new one; and up to NGX_DERP_CONTROL_QUEUE other frames, of
 * which none makes way.  All that a worker's blocked connections hold is
 * bounded, too: at that end it is the oldest packet of the one that holds most
 * which makes way.  For the outbox alone, in workers.
 */


#ifndef _NGX_DERP_BACKLOG_H_INCLUDED_
#define _NGX_DERP_BACKLOG_H_INCLUDED_


#include "ngx_derp_session.h"


/* Queues whole frames, which are copied; what is dropped for it is counted. */
void ngx_derp_backlog_add(ngx_derp_session_t *s, u_char *p, u_char *last);

/*
 * Takes what comes next to the outbox's buf, to be written at once, and no more
 * to be dropped: a large frame as it is, small ones together.  Whether there
 * was anything.
 */
ngx_uint_t ngx_derp_backlog_refill(ngx_derp_session_t *s);

/* A blocked connection holds so many bytes more, or less. */
void ngx_derp_backlog_hold(ngx_derp_session_t *s, ssize_t size);

/*
 * After it holds more that has begun to go out, and is not to be dropped:
 * others make way for that; if there is nobody left the session fails.
 */
void ngx_derp_backlog_bound(ngx_derp_session_t *s);

/* Gives back all that is queued, and counts its packets as dropped. */
void ngx_derp_backlog_destroy(ngx_derp_session_t *s);


#endif /* _NGX_DERP_BACKLOG_H_INCLUDED_ */
