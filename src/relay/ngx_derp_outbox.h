
/*
 * The outbox: what a connection is still to be sent.
 *
 * While the socket takes what it is given, frames gather in one buffer, and
 * are written once at the end of the event loop's turn, or when it is full;
 * a span as long as a TLS record is written from where it lies.
 *
 * Once the socket has said AGAIN, the outbox is blocked: what has begun to go
 * out is kept, and all else queues, see ngx_derp_backlog.h.  All functions are
 * for workers.
 */


#ifndef _NGX_DERP_OUTBOX_H_INCLUDED_
#define _NGX_DERP_OUTBOX_H_INCLUDED_


#include "ngx_derp_relay.h"
#include "ngx_derp_span.h"


#define NGX_DERP_QUEUE          32
#define NGX_DERP_CONTROL_QUEUE  8192

/* of a link, in bytes: it carries the packets of thousands */
#define NGX_DERP_LINK_QUEUE     (4 * 1024 * 1024)

/* blocked connections are listed by how much they hold, in so many steps */
#define NGX_DERP_HOLDERS        64


/* what a frame is to an outbox */

typedef enum {
    NGX_DERP_OTHER = 0,             /* packets */
    NGX_DERP_DISCO,
    NGX_DERP_CONTROL,               /* all else, never dropped */
    NGX_DERP_SEALED                 /* no frame: TLS records, in part */
} ngx_derp_kind_e;


typedef struct {
    ngx_derp_buf_t   *buf;          /* what is being written; if blocked, two:
                                       records, then what is to be sealed */
    ngx_derp_buf_t   *queue;        /* one frame each, if blocked: the last,
                                       which the first is next to */

    /* in the worker's touched while there is a buf; if blocked, in holders */
    ngx_queue_t       link;

    uint32_t          held;         /* bytes of its buffers, if blocked */
    uint16_t          queued[3];    /* by kind */
    uint8_t           holder;       /* which list of holders + 1, or 0 */
    unsigned          blocked:1;
} ngx_derp_outbox_t;


/*
 * Appends a span, of which nothing need stay where it is.  Packets that make
 * way for it, or some of itself where there is no memory, are counted as
 * dropped.  A connection that turns out to be broken is closed at the end of
 * the turn.
 */
void ngx_derp_outbox_span(ngx_derp_session_t *s, ngx_derp_span_t *span);

/*
 * Appends a whole frame of another sort.  It is for the caller to bound how
 * many of them a blocked connection is sent.
 */
void ngx_derp_outbox_frame(ngx_derp_session_t *s, u_char *frame, size_t len);

/* Whether all that was appended has been written. */
#define ngx_derp_outbox_empty(s)  ((s)->out.buf == NULL && !(s)->out.blocked)

/* Whether a part of a TLS record has gone out, and the rest has not. */
#define ngx_derp_outbox_sealed(s)                                             \
    ((s)->out.buf && (s)->out.buf->kind == NGX_DERP_SEALED)

/*
 * Reads from the connection, whose TLS may have to answer: that goes out in its
 * turn.  As the connection's recv_chain().
 */
ssize_t ngx_derp_outbox_recv(ngx_derp_session_t *s, ngx_chain_t *in);

/* Writes as much as the socket takes. */
void ngx_derp_outbox_flush(ngx_derp_session_t *s);

/* Gives back all that the outbox holds, and counts its packets as dropped. */
void ngx_derp_outbox_destroy(ngx_derp_session_t *s);


#endif /* _NGX_DERP_OUTBOX_H_INCLUDED_ */
