
/*
 * A span: packets of one source for one connection, in frames one behind the
 * other as they were read.  It is routed, counted and copied as one.
 *
 * SendPacket and RecvPacket have the same length and layout: a frame is turned
 * round where it lies, by another type and the other key.  ForwardPacket has
 * both keys: SendPacket's becomes one by NGX_DERP_KEY_LEN bytes more in front,
 * which its reader has room for, and the other way round.
 */


#ifndef _NGX_DERP_SPAN_H_INCLUDED_
#define _NGX_DERP_SPAN_H_INCLUDED_


#include "ngx_derp_region.h"


typedef struct {
    u_char           *pos;
    u_char           *last;
    ngx_uint_t        packets;
    size_t            head;         /* of each frame: what is not packet */
} ngx_derp_span_t;


/* The bytes of its packets, without their heads. */
#define ngx_derp_span_bytes(span)                                             \
    ((size_t) ((span)->last - (span)->pos) - (span)->packets * (span)->head)


/*
 * Takes into a span of one SendPacket those for the same key that follow it,
 * and are whole before last.
 */
void ngx_derp_span_gather(ngx_derp_span_t *span, u_char *last);

/*
 * Whether its frames add up to it, and each is of the type that its head is of,
 * RecvPacket or ForwardPacket, and at least as long as that.
 */
ngx_uint_t ngx_derp_span_whole(ngx_derp_span_t *span);

/* Leaves off what makes it longer than max bytes, but for its first frame. */
void ngx_derp_span_cut(ngx_derp_span_t *span, size_t max);

/*
 * Gives the frames, or a copy of them at p, the type and the source's key with
 * which they leave.  A single frame gets its length anew, too.
 */
void ngx_derp_span_turn(ngx_derp_span_t *span, u_char *p, ngx_uint_t type,
    u_char *source);

/* Counts each of its packets as dropped, turned round or not. */
void ngx_derp_span_drop(ngx_derp_span_t *span, ngx_derp_region_t *region,
    ngx_derp_drop_e reason);


#endif /* _NGX_DERP_SPAN_H_INCLUDED_ */
