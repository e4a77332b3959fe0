
/*
 * Watchers: mesh peers that are told of every client of this nginx.
 *
 * A watcher is first told of all that there are, by a walk over the registry
 * (the flood), and of the changes, from the journal, as they come: of one that
 * lies behind the flood's position, as the flood will see what became of it.
 * Before each step of the flood the journal has been read to its end, so that
 * what it later tells of what was flooded is never older than that.
 */


#ifndef _NGX_DERP_WATCH_H_INCLUDED_
#define _NGX_DERP_WATCH_H_INCLUDED_


#include "ngx_derp_session.h"


/*
 * Begins, or begins anew: Server.addWatcher().  In a worker.  NGX_ERROR with
 * no memory.
 */
ngx_int_t ngx_derp_watch_start(ngx_derp_session_t *s);
void ngx_derp_watch_stop(ngx_derp_session_t *s);

/* Tells all watchers of a relay what is new; whether there is more to tell. */
ngx_uint_t ngx_derp_watch_run(ngx_derp_relay_t *relay);


#endif /* _NGX_DERP_WATCH_H_INCLUDED_ */
