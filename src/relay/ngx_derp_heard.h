
/*
 * Who heard whom: which clients of this worker have received packets from
 * which keys, to be told once when such a key leaves the region.
 */


#ifndef _NGX_DERP_HEARD_H_INCLUDED_
#define _NGX_DERP_HEARD_H_INCLUDED_


#include "ngx_derp_session.h"


/* All functions are for workers; init NGX_ERROR with no memory. */
ngx_int_t ngx_derp_heard_init(ngx_derp_relay_t *relay, ngx_log_t *log);
void ngx_derp_heard_destroy(ngx_derp_relay_t *relay);

/* A client is being sent a packet from a key: sclient.noteSendFromSrc(). */
void ngx_derp_heard_note(ngx_derp_session_t *s, u_char *key);

/* A key has left the region: tells those who received from it. */
void ngx_derp_heard_gone(ngx_derp_relay_t *relay, u_char *key);

/*
 * Tells of all keys that are no more: after the journal was overrun.  Where
 * that cannot be said now it is to be called again, of which the relay's sweep
 * is the mark.
 */
void ngx_derp_heard_sweep(ngx_derp_relay_t *relay);

/* A session ends, and needs to be told nothing any more. */
void ngx_derp_heard_forget(ngx_derp_session_t *s);


#endif /* _NGX_DERP_HEARD_H_INCLUDED_ */
