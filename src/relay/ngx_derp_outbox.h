
/*
 * The outbox: what a connection is still to be sent.
 *
 * While the socket takes what it is given, frames gather in one buffer, and
 * are written once at the end of the event loop's turn, or when it is full.
 * Once the socket has said AGAIN, packets queue: NGX_DERP_QUEUE of disco's and
 * as many others, the oldest of its sort making way for a new one, but nothing
 * of which a byte was written.  All functions are for workers.
 */


#ifndef _NGX_DERP_OUTBOX_H_INCLUDED_
#define _NGX_DERP_OUTBOX_H_INCLUDED_


#include "ngx_derp_relay.h"


#define NGX_DERP_QUEUE  32


/* what a frame is to an outbox */

typedef enum {
    NGX_DERP_OTHER = 0,             /* packets */
    NGX_DERP_DISCO,
    NGX_DERP_CONTROL                /* all else, never dropped */
} ngx_derp_kind_e;


/* a packet on its way: the head of its frame, and the rest, not copied */

typedef struct {
    u_char            head[NGX_DERP_PACKET_OFFSET];
    u_char           *body;
    size_t            len;          /* of the body */
    size_t            size;         /* of the packet itself */
    ngx_uint_t        kind;
} ngx_derp_packet_t;


typedef struct {
    ngx_derp_buf_t   *buf;          /* what is being written */
    ngx_derp_buf_t   *queue;        /* one frame each */
    ngx_derp_buf_t  **last;
    ngx_queue_t       touched;      /* in the worker's, while there is a buf */
    uint8_t           queued[3];    /* by kind */
    unsigned          blocked:1;
    unsigned          held:1;       /* the buf counts as what is queued */
} ngx_derp_outbox_t;


/*
 * Appends a packet, which is copied.  A packet that makes way for it, or
 * itself where there is no memory, is counted as dropped.  A connection that
 * turns out to be broken is closed at the end of the turn.
 */
void ngx_derp_outbox_packet(ngx_derp_session_t *s, ngx_derp_packet_t *packet);

/*
 * Appends a whole frame of another sort.  It is for the caller to bound how
 * many of them a blocked connection is sent.
 */
void ngx_derp_outbox_frame(ngx_derp_session_t *s, u_char *frame, size_t len);

/* Writes as much as the socket takes. */
void ngx_derp_outbox_flush(ngx_derp_session_t *s);

/* Gives back all that the outbox holds, and counts its packets as dropped. */
void ngx_derp_outbox_destroy(ngx_derp_session_t *s);


#endif /* _NGX_DERP_OUTBOX_H_INCLUDED_ */
