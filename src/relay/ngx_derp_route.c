
/*
 * Routing of packets.
 */


#include "ngx_derp_route.h"
#include "ngx_derp_exchange.h"
#include "ngx_derp_heard.h"
#include "ngx_derp_worker.h"


/* PeerGone "not here": one a second, and a burst of three */
#define NGX_DERP_NOT_HERE_INTERVAL  1000
#define NGX_DERP_NOT_HERE_BURST     3


static ngx_derp_route_t ngx_derp_route_find(ngx_derp_session_t *s, u_char *key);
static ngx_int_t ngx_derp_route_dispatch(ngx_derp_session_t *s,
    ngx_derp_route_t route, ngx_derp_span_t *span, ngx_uint_t type,
    u_char *source);
static void ngx_derp_route_received(ngx_derp_session_t *s,
    ngx_derp_span_t *span);
static void ngx_derp_route_unknown(ngx_derp_session_t *s, u_char *key,
    ngx_derp_span_t *span, ngx_derp_drop_e reason);


ngx_int_t
ngx_derp_route_send(ngx_derp_session_t *s, u_char *frame, size_t *len,
    u_char *last)
{
    u_char               *key;
    ngx_int_t             rc;
    ngx_derp_span_t       span;
    ngx_derp_route_t      route;
    ngx_derp_counters_t  *counters;

    rc = NGX_OK;
    counters = &s->relay->region.member->counters;
    key = frame + NGX_DERP_HEADER_LEN;

    span.pos = frame;
    span.last = frame + *len;
    span.packets = 1;
    span.head = NGX_DERP_PACKET_OFFSET;

    route = ngx_derp_route_find(s, key);

    if (route == NGX_DERP_ROUTE_AGAIN) {
        return ngx_derp_session_wait(s);
    }

    if (route == NGX_DERP_NO_ROUTE) {
        ngx_derp_route_unknown(s, key, &span, NGX_DERP_DROP_UNKNOWN_DEST);

    } else if (route & NGX_DERP_ROUTE_LINK) {

        /* the destination's key follows the source's */

        span.pos -= NGX_DERP_KEY_LEN;
        span.head = NGX_DERP_FORWARD_OFFSET;

        rc = ngx_derp_route_dispatch(s, route, &span, NGX_DERP_FORWARD_PACKET,
                                     s->key);
        counters->forwarded_out += (rc == NGX_OK);

    } else {
        ngx_derp_span_gather(&span, last);

        rc = ngx_derp_route_dispatch(s, route, &span, NGX_DERP_RECV_PACKET,
                                     s->key);
    }

    if (rc == NGX_OK) {
        *len = span.last - frame;

        ngx_derp_route_received(s, &span);
        counters->packets_received += span.packets;
        counters->bytes_received += ngx_derp_span_bytes(&span);
    }

    return rc;
}


ngx_int_t
ngx_derp_route_forward(ngx_derp_session_t *s, u_char *frame, size_t len)
{
    u_char            *key, source[NGX_DERP_KEY_LEN];
    ngx_int_t          rc;
    ngx_derp_span_t    span;
    ngx_derp_route_t   route;

    rc = NGX_OK;
    key = frame + NGX_DERP_PACKET_OFFSET;

    /* the source's key takes the place of the destination's */

    ngx_memcpy(source, frame + NGX_DERP_HEADER_LEN, NGX_DERP_KEY_LEN);

    span.pos = frame + NGX_DERP_KEY_LEN;
    span.last = frame + len;
    span.packets = 1;
    span.head = NGX_DERP_PACKET_OFFSET;

    route = ngx_derp_route_find(s, key);

    if (route == NGX_DERP_ROUTE_AGAIN) {
        return ngx_derp_session_wait(s);
    }

    /* a packet crosses one mesh hop at most */

    if (route == NGX_DERP_NO_ROUTE || route & NGX_DERP_ROUTE_LINK) {
        ngx_derp_route_unknown(s, key, &span,
                               NGX_DERP_DROP_UNKNOWN_DEST_ON_FWD);

    } else {
        rc = ngx_derp_route_dispatch(s, route, &span, NGX_DERP_RECV_PACKET,
                                     source);
    }

    if (rc == NGX_OK) {
        ngx_derp_route_received(s, &span);
        s->relay->region.member->counters.forwarded_in++;
    }

    return rc;
}


/* Who repairs the registry may stand still: then nobody waits for long. */

static ngx_derp_route_t
ngx_derp_route_find(ngx_derp_session_t *s, u_char *key)
{
    ngx_derp_route_t  route;

    route = ngx_derp_registry_find(&s->relay->region, key, &s->last);

    return (route == NGX_DERP_ROUTE_AGAIN && s->relay->stalled)
           ? NGX_DERP_NO_ROUTE : route;
}


static ngx_int_t
ngx_derp_route_dispatch(ngx_derp_session_t *s, ngx_derp_route_t route,
    ngx_derp_span_t *span, ngx_uint_t type, u_char *source)
{
    if (ngx_derp_route_slot(route) != s->relay->region.slot) {
        return ngx_derp_exchange_send(s, route, span, type, source);
    }

    ngx_derp_span_turn(span, span->pos, type, source);
    ngx_derp_route_deliver(s->relay, route, span);

    return NGX_OK;
}


void
ngx_derp_route_deliver(ngx_derp_relay_t *relay, ngx_derp_route_t route,
    ngx_derp_span_t *span)
{
    ngx_derp_session_t  *s;

    s = ngx_derp_session_find(relay, route);

    if (s == NULL) {
        ngx_derp_span_drop(span, &relay->region,
                           NGX_DERP_DROP_GONE_DISCONNECTED);
        return;
    }

    ngx_derp_outbox_span(s, span);

    if (!s->linked) {
        ngx_derp_heard_note(s, span->pos + NGX_DERP_HEADER_LEN);
    }
}


static void
ngx_derp_route_received(ngx_derp_session_t *s, ngx_derp_span_t *span)
{
    s->traffic.packets_in += span->packets;
    s->traffic.bytes_in += ngx_derp_span_bytes(span);
}


/* sclient.requestPeerGoneWriteLimited() */

static void
ngx_derp_route_unknown(ngx_derp_session_t *s, u_char *key,
    ngx_derp_span_t *span, ngx_derp_drop_e reason)
{
    u_char      frame[NGX_DERP_PEER_GONE_FRAME];
    ngx_msec_t  now;

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                   "derp packet for an unknown key, reason:%d", reason);

    ngx_derp_span_drop(span, &s->relay->region, reason);

    if (!ngx_derp_is_disco(span->pos + span->head, ngx_derp_span_bytes(span))) {
        return;
    }

    now = ngx_current_msec;

    if ((ngx_msec_int_t) (s->not_here - now) < 0) {
        s->not_here = now;
    }

    if (s->not_here - now
        > (NGX_DERP_NOT_HERE_BURST - 1) * NGX_DERP_NOT_HERE_INTERVAL)
    {
        return;
    }

    s->not_here += NGX_DERP_NOT_HERE_INTERVAL;

    ngx_derp_put_peer_gone(frame, key, NGX_DERP_GONE_NOT_HERE);
    ngx_derp_outbox_frame(s, frame, sizeof(frame));

    s->relay->region.member->counters.peer_gone_not_here++;
}
