
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


static void ngx_derp_route_head(ngx_derp_packet_t *packet, ngx_uint_t type,
    u_char *source);
static ngx_int_t ngx_derp_route_dispatch(ngx_derp_session_t *s,
    ngx_derp_route_t route, ngx_derp_packet_t *packet);
static void ngx_derp_route_unknown(ngx_derp_session_t *s, u_char *key,
    ngx_derp_packet_t *packet, ngx_derp_drop_e reason);


ngx_int_t
ngx_derp_route_send(ngx_derp_session_t *s, u_char *frame, size_t len)
{
    u_char               *key;
    ngx_int_t             rc;
    ngx_derp_route_t      route;
    ngx_derp_packet_t     packet;
    ngx_derp_counters_t  *counters;

    key = frame + NGX_DERP_HEADER_LEN;

    packet.body = frame + NGX_DERP_PACKET_OFFSET;
    packet.size = len - NGX_DERP_PACKET_OFFSET;
    packet.len = packet.size;
    packet.kind = ngx_derp_is_disco(packet.body, packet.size);

    route = ngx_derp_registry_find(&s->relay->region, key, &s->last);

    if (route & NGX_DERP_ROUTE_LINK) {

        /* the destination's key follows the source's */

        packet.body -= NGX_DERP_KEY_LEN;
        packet.len += NGX_DERP_KEY_LEN;

    }

    ngx_derp_route_head(&packet, NGX_DERP_SEND_PACKET, s->key);

    if (route == NGX_DERP_NO_ROUTE) {
        ngx_derp_route_unknown(s, key, &packet, NGX_DERP_DROP_UNKNOWN_DEST);
        rc = NGX_OK;

    } else {
        rc = ngx_derp_route_dispatch(s, route, &packet);
    }

    if (rc != NGX_AGAIN) {
        counters = &s->relay->region.member->counters;

        s->traffic.packets_in++;
        s->traffic.bytes_in += packet.size;
        counters->packets_received++;
        counters->bytes_received += packet.size;

        if (route & NGX_DERP_ROUTE_LINK) {
            counters->forwarded_out++;
        }
    }

    return rc;
}


ngx_int_t
ngx_derp_route_forward(ngx_derp_session_t *s, u_char *frame, size_t len)
{
    u_char             *key;
    ngx_int_t           rc;
    ngx_derp_route_t    route;
    ngx_derp_packet_t   packet;

    key = frame + NGX_DERP_PACKET_OFFSET;

    packet.body = frame + NGX_DERP_FORWARD_OFFSET;
    packet.size = len - NGX_DERP_FORWARD_OFFSET;
    packet.len = packet.size;
    packet.kind = ngx_derp_is_disco(packet.body, packet.size);

    ngx_derp_route_head(&packet, NGX_DERP_FORWARD_PACKET,
                        frame + NGX_DERP_HEADER_LEN);

    route = ngx_derp_registry_find(&s->relay->region, key, &s->last);

    /* a packet crosses one mesh hop at most */

    if (route == NGX_DERP_NO_ROUTE || route & NGX_DERP_ROUTE_LINK) {
        ngx_derp_route_unknown(s, key, &packet,
                               NGX_DERP_DROP_UNKNOWN_DEST_ON_FWD);
        rc = NGX_OK;

    } else {
        rc = ngx_derp_route_dispatch(s, route, &packet);
    }

    if (rc != NGX_AGAIN) {
        s->traffic.packets_in++;
        s->traffic.bytes_in += packet.size;
        s->relay->region.member->counters.forwarded_in++;
    }

    return rc;
}


/*
 * Within nginx a packet keeps the type under which it came; it gets the one
 * under which it leaves when it is delivered.
 */

static void
ngx_derp_route_head(ngx_derp_packet_t *packet, ngx_uint_t type, u_char *source)
{
    u_char  *p;

    p = ngx_derp_put_header(packet->head, type, NGX_DERP_KEY_LEN + packet->len);
    ngx_memcpy(p, source, NGX_DERP_KEY_LEN);
}


static ngx_int_t
ngx_derp_route_dispatch(ngx_derp_session_t *s, ngx_derp_route_t route,
    ngx_derp_packet_t *packet)
{
    if (ngx_derp_route_slot(route) == s->relay->region.slot) {
        ngx_derp_route_deliver(s->relay, route, packet);
        return NGX_OK;
    }

    return ngx_derp_exchange_send(s, route, packet);
}


void
ngx_derp_route_deliver(ngx_derp_relay_t *relay, ngx_derp_route_t route,
    ngx_derp_packet_t *packet)
{
    ngx_uint_t           forwarded;
    ngx_derp_session_t  *s;

    s = ngx_derp_session_find(relay, route);

    if (s == NULL) {
        ngx_derp_count_drop(&relay->region, NGX_DERP_DROP_GONE_DISCONNECTED,
                            packet->kind, packet->size);
        return;
    }

    forwarded = (packet->head[0] == NGX_DERP_FORWARD_PACKET);

    packet->head[0] = s->link ? NGX_DERP_FORWARD_PACKET : NGX_DERP_RECV_PACKET;

    ngx_derp_outbox_packet(s, packet);

    if (s->link == NULL) {
        ngx_derp_heard_note(s, packet->head + NGX_DERP_HEADER_LEN, forwarded);
    }
}


/* sclient.requestPeerGoneWriteLimited() */

static void
ngx_derp_route_unknown(ngx_derp_session_t *s, u_char *key,
    ngx_derp_packet_t *packet, ngx_derp_drop_e reason)
{
    u_char      frame[NGX_DERP_PEER_GONE_FRAME];
    ngx_msec_t  now;

    ngx_derp_count_drop(&s->relay->region, reason, packet->kind, packet->size);

    if (packet->kind != NGX_DERP_DISCO) {
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
