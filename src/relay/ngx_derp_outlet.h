
/*
 * An outlet: a worker's way to another, by a channel of its own or, where there
 * are not enough, by the inbox of that worker.
 *
 * A channel that is full makes the senders wait, unread, while the other
 * worker goes on taking.  If that one takes nothing for 10 ms what is sent to
 * it is parked here, so that the senders can go on with what is not for it.
 * What finds no room there either makes its sender wait until 100 ms are over,
 * and is then dropped at once, until the other worker takes again.  All
 * functions are for workers.
 */


#ifndef _NGX_DERP_OUTLET_H_INCLUDED_
#define _NGX_DERP_OUTLET_H_INCLUDED_


#include "ngx_derp_session.h"


typedef struct {
    ngx_derp_producer_t      producer;
    ngx_derp_producer_t      left;          /* to be closed, when it can be */
    ngx_queue_t              waiting;       /* sessions */
    ngx_queue_t              parked;        /* buffers: a record, its frames */
    size_t                   nparked;       /* bytes of these */
    ngx_event_t              stall;
    ngx_derp_relay_t        *relay;
    ngx_uint_t               slot;          /* of the other worker */
    uint64_t                 seen;          /* the consumer's head, */
    ngx_msec_t               looked;        /* when it was last looked at */
    ngx_msec_t               stuck;         /* for how long it has not moved */
    ngx_uint_t               idle;          /* ticks since the last frame */
    unsigned                 stalled:1;     /* what comes for it is dropped */
    unsigned                 ring:1;        /* written to in this turn */
} ngx_derp_outlet_t;


/* of each frame of a record: what is not packet */
#define ngx_derp_outlet_head(record)                                          \
    ((record)->route & NGX_DERP_ROUTE_LINK ? NGX_DERP_FORWARD_OFFSET          \
                                           : NGX_DERP_PACKET_OFFSET)


/* The way to the worker in the slot, not open yet.  NULL with no memory. */
ngx_derp_outlet_t *ngx_derp_outlet_create(ngx_derp_relay_t *relay,
    ngx_uint_t slot, ngx_log_t *log);

/* At this worker's end, when nobody waits any more and nothing is parked. */
void ngx_derp_outlet_destroy(ngx_derp_outlet_t *outlet);

/*
 * Sends a span of a session's, which may be cut, turned round on its way: type
 * and source are for ngx_derp_span_turn().  NGX_OK: it is on its way.
 * NGX_AGAIN: the session waits, and will be resumed.  Otherwise the span must
 * be dropped: NGX_DECLINED, the other worker is no more; NGX_ERROR, there is no
 * way to it.
 */
ngx_int_t ngx_derp_outlet_send(ngx_derp_outlet_t *outlet,
    ngx_derp_session_t *s, ngx_derp_route_t route, ngx_derp_span_t *span,
    ngx_uint_t type, u_char *source);

/*
 * Before a session is read that may send here: NGX_AGAIN if there is too little
 * room.  It waits then as above.
 */
ngx_int_t ngx_derp_outlet_test(ngx_derp_outlet_t *outlet,
    ngx_derp_session_t *s);

/* Whether there is room by now for those who wait, or for what is parked. */
ngx_uint_t ngx_derp_outlet_has_room(ngx_derp_outlet_t *outlet);

/* Sends what is parked, and goes on with those who wait, as far as there is. */
void ngx_derp_outlet_resume(ngx_derp_outlet_t *outlet);

/* Drops what is parked, of one session or with NULL of all, and counts it. */
void ngx_derp_outlet_drop(ngx_derp_outlet_t *outlet, ngx_derp_session_t *s,
    ngx_derp_drop_e reason);

/*
 * Lets go of a channel whose other end has ended and, if there is a shortage of
 * them, of an idle one; looks for one where an inbox is shared.  Now and then.
 */
void ngx_derp_outlet_tidy(ngx_derp_outlet_t *outlet, ngx_uint_t shortage);


#endif /* _NGX_DERP_OUTLET_H_INCLUDED_ */
