
/*
 * The login of a client: the states of a session that awaits ClientInfo, and
 * then its place in the registry, as derpserver's Server.accept() has it.  See
 * ngx_derp_session.c for what each of these does.
 */


#ifndef _NGX_DERP_LOGIN_H_INCLUDED_
#define _NGX_DERP_LOGIN_H_INCLUDED_


#include "ngx_derp_session.h"


ngx_int_t ngx_derp_login_check(ngx_derp_session_t *s, ngx_uint_t type,
    size_t len);
ngx_int_t ngx_derp_login_frame(ngx_derp_session_t *s, u_char *frame,
    size_t *len, u_char *last);
ngx_int_t ngx_derp_login_enter(ngx_derp_session_t *s, u_char *frame,
    size_t *len, u_char *last);

/* Of a link's login too. */
void ngx_derp_login_timer(ngx_derp_session_t *s);


#endif /* _NGX_DERP_LOGIN_H_INCLUDED_ */
