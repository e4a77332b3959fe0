
/*
 * Routing: from a frame that came in to the outbox or the channel it goes to.
 */


#ifndef _NGX_DERP_ROUTE_H_INCLUDED_
#define _NGX_DERP_ROUTE_H_INCLUDED_


#include "ngx_derp_session.h"


/*
 * Routes a SendPacket of a client, whole and checked, of *len bytes with its
 * header, and what follows it before last for the same key: *len is set to
 * all that it took.  NGX_AGAIN: not now, the session will be resumed and the
 * frame is to be offered again, as it was.
 * derpserver's handleFrameSendPacket().
 */
ngx_int_t ngx_derp_route_send(ngx_derp_session_t *s, u_char *frame,
    size_t *len, u_char *last);

/* The same of one ForwardPacket of another relay: handleFrameForwardPacket() */
ngx_int_t ngx_derp_route_forward(ngx_derp_session_t *s, u_char *frame,
    size_t len);

/*
 * Delivers a span, turned round, to a connection of this worker, which may be
 * gone.  A ForwardPacket for a client becomes a RecvPacket only here, as one
 * that was forwarded is treated otherwise.
 */
void ngx_derp_route_deliver(ngx_derp_relay_t *relay, ngx_derp_route_t route,
    ngx_derp_span_t *span);


#endif /* _NGX_DERP_ROUTE_H_INCLUDED_ */
