
/*
 * The exchange: a worker's ends of the channels to and from the others, or of
 * their inboxes, where there are not enough channels.
 *
 * The way out to another worker is an outlet; what comes from it is taken here.
 * All functions are for workers.
 */


#ifndef _NGX_DERP_EXCHANGE_H_INCLUDED_
#define _NGX_DERP_EXCHANGE_H_INCLUDED_


#include "ngx_derp_session.h"


ngx_int_t ngx_derp_exchange_init(ngx_derp_relay_t *relay, ngx_log_t *log);

/*
 * Sends a span to a connection of another worker, turned round on its way: type
 * and source are for ngx_derp_span_turn().  NGX_OK: it is on its way, or was
 * dropped and counted, as far as it is left: it may be cut.  NGX_AGAIN: there
 * is no room, the sender s waits and will be resumed.
 */
ngx_int_t ngx_derp_exchange_send(ngx_derp_session_t *s,
    ngx_derp_route_t route, ngx_derp_span_t *span, ngx_uint_t type,
    u_char *source);

/*
 * Before a session is read: NGX_AGAIN if what it sends, going by its last
 * packet, would find too little room.  It waits then as above.
 */
ngx_int_t ngx_derp_exchange_test(ngx_derp_session_t *s);

/*
 * Takes what others have sent, a bounded part of it, and of nobody whose login
 * the journal has not told yet.  Whether there may be more.
 */
ngx_uint_t ngx_derp_exchange_receive(ngx_derp_relay_t *relay);

/*
 * Notes all that has been sent by now, to be taken before the journal is read
 * up to the relay's head; and how far it may be read as yet.
 */
void ngx_derp_exchange_mark(ngx_derp_relay_t *relay);
uint64_t ngx_derp_exchange_limit(ngx_derp_relay_t *relay);

/* Whether there is anything to take, or a channel that is not known yet. */
ngx_uint_t ngx_derp_exchange_pending(ngx_derp_relay_t *relay);

/* Rings the workers that something was sent to in this turn. */
void ngx_derp_exchange_ring(ngx_derp_relay_t *relay);

/*
 * Lets go of channels whose other end has ended, and of idle ones where there
 * are too few; looks for one where an inbox is shared.  Now and then.
 */
void ngx_derp_exchange_tidy(ngx_derp_relay_t *relay);

/*
 * A sender ends: what is parked of it is dropped and counted, since it must not
 * arrive after the news that the sender has left.
 */
void ngx_derp_exchange_forget(ngx_derp_session_t *s);

/* At the worker's end. */
void ngx_derp_exchange_destroy(ngx_derp_relay_t *relay);


#endif /* _NGX_DERP_EXCHANGE_H_INCLUDED_ */
