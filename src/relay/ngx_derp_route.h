
/*
 * Routing: from a frame that came in to the outbox or the channel it goes to.
 */


#ifndef _NGX_DERP_ROUTE_H_INCLUDED_
#define _NGX_DERP_ROUTE_H_INCLUDED_


#include "ngx_derp_session.h"


/*
 * Routes a SendPacket of a client, or a ForwardPacket of another relay; frame
 * is whole, of len bytes with its header, and checked.  NGX_AGAIN: not now,
 * the session will be resumed and the frame is to be offered again.
 * derpserver's handleFrameSendPacket(), handleFrameForwardPacket().
 */
ngx_int_t ngx_derp_route_send(ngx_derp_session_t *s, u_char *frame,
    size_t len);
ngx_int_t ngx_derp_route_forward(ngx_derp_session_t *s, u_char *frame,
    size_t len);

/* Delivers a packet to a connection of this worker, which may be gone. */
void ngx_derp_route_deliver(ngx_derp_relay_t *relay, ngx_derp_route_t route,
    ngx_derp_packet_t *packet);


#endif /* _NGX_DERP_ROUTE_H_INCLUDED_ */
