
/*
 * Spans of packets.
 */


#include "ngx_derp_span.h"


void
ngx_derp_span_gather(ngx_derp_span_t *span, u_char *last)
{
    u_char  *p, *key;
    size_t   len;

    key = span->pos + NGX_DERP_HEADER_LEN;

    for (p = span->last;
         last - p >= NGX_DERP_PACKET_OFFSET
         && p[0] == NGX_DERP_SEND_PACKET
         && ngx_memcmp(p + NGX_DERP_HEADER_LEN, key, NGX_DERP_KEY_LEN) == 0;
         p += len)
    {
        len = ngx_derp_frame_len(p);

        /* what breaks a rule is for the session to find */

        if (len < NGX_DERP_PACKET_OFFSET
            || len > NGX_DERP_PACKET_OFFSET + NGX_DERP_MAX_PACKET
            || len > (size_t) (last - p))
        {
            break;
        }

        span->packets++;
    }

    span->last = p;
}


ngx_uint_t
ngx_derp_span_whole(ngx_derp_span_t *span)
{
    u_char      *p;
    size_t       len;
    ngx_uint_t   n, type;

    p = span->pos;
    type = span->head == NGX_DERP_PACKET_OFFSET ? NGX_DERP_RECV_PACKET
                                                : NGX_DERP_FORWARD_PACKET;

    for (n = span->packets; n; n--) {

        if ((size_t) (span->last - p) < span->head) {
            return 0;
        }

        len = ngx_derp_frame_len(p);

        if (p[0] != type
            || len < span->head
            || len > (size_t) (span->last - p))
        {
            return 0;
        }

        p += len;
    }

    return p == span->last;
}


void
ngx_derp_span_cut(ngx_derp_span_t *span, size_t max)
{
    u_char      *p;
    ngx_uint_t   n;

    if ((size_t) (span->last - span->pos) <= max || span->packets == 1) {
        return;
    }

    p = span->pos + ngx_derp_frame_len(span->pos);

    for (n = 1; p + ngx_derp_frame_len(p) <= span->pos + max; n++) {
        p += ngx_derp_frame_len(p);
    }

    span->last = p;
    span->packets = n;
}


void
ngx_derp_span_turn(ngx_derp_span_t *span, u_char *p, ngx_uint_t type,
    u_char *source)
{
    u_char      *last;
    size_t       len;
    ngx_uint_t   n;

    last = p + (span->last - span->pos);

    for (n = span->packets; n; n--) {
        len = n == 1 ? (size_t) (last - p) : ngx_derp_frame_len(p);

        ngx_derp_put_header(p, type, len - NGX_DERP_HEADER_LEN);
        ngx_memcpy(p + NGX_DERP_HEADER_LEN, source, NGX_DERP_KEY_LEN);

        p += len;
    }
}


void
ngx_derp_span_drop(ngx_derp_span_t *span, ngx_derp_region_t *region,
    ngx_derp_drop_e reason)
{
    u_char      *p;
    size_t       len;
    ngx_uint_t   n;

    p = span->pos;

    for (n = span->packets; n; n--) {
        len = n == 1 ? (size_t) (span->last - p) : ngx_derp_frame_len(p);

        ngx_derp_count_drop(region, reason,
                            ngx_derp_is_disco(p + span->head, len - span->head),
                            len - span->head);
        p += len;
    }
}
