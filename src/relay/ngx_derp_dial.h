
/*
 * Dialing another relay: its name, the connection, TLS and the upgrade.
 */


#ifndef _NGX_DERP_DIAL_H_INCLUDED_
#define _NGX_DERP_DIAL_H_INCLUDED_


#include "ngx_derp_mesh.h"


/*
 * Begins; ends in ngx_derp_mesh_connected() or, with a line in the log,
 * ngx_derp_mesh_failed(), either perhaps before it returns.  In a worker.
 */
void ngx_derp_dial(ngx_derp_link_t *link);

/* Gives up whatever has been begun, without either. */
void ngx_derp_dial_cancel(ngx_derp_link_t *link);

/*
 * Says that no more will be sent, and goes on reading: a connection that is
 * closed while anything may still arrive takes what it had sent with it.
 */
void ngx_derp_dial_shut(ngx_connection_t *c);

/* Closes the connection of a link. */
void ngx_derp_dial_close(ngx_connection_t *c);


#endif /* _NGX_DERP_DIAL_H_INCLUDED_ */
