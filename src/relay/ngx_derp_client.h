
/*
 * A client that is logged in: the state of a session that relays, as
 * derpserver's sclient.run() has it.  All functions are for workers; for those
 * of the state see ngx_derp_session.c.
 */


#ifndef _NGX_DERP_CLIENT_H_INCLUDED_
#define _NGX_DERP_CLIENT_H_INCLUDED_


#include "ngx_derp_session.h"


/* The login is done. */
void ngx_derp_client_start(ngx_derp_session_t *s);

ngx_int_t ngx_derp_client_check(ngx_derp_session_t *s, ngx_uint_t type,
    size_t len);
ngx_int_t ngx_derp_client_frame(ngx_derp_session_t *s, u_char *frame,
    size_t *len, u_char *last);
void ngx_derp_client_timer(ngx_derp_session_t *s);

/*
 * Tells all clients of a relay's the operator's notice, if it has changed:
 * DERP's Health.
 */
void ngx_derp_client_notice(ngx_derp_relay_t *relay);

/*
 * nginx stops: tells all clients of a relay's so, by DERP's Restarting, and
 * lets them go one by one.
 */
void ngx_derp_client_drain(ngx_derp_relay_t *relay);


#endif /* _NGX_DERP_CLIENT_H_INCLUDED_ */
