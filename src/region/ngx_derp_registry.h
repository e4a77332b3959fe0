
/*
 * The registry: which keys are in the region, and where.
 *
 * A peer is a key.  Its connections are clients of this nginx, the last to
 * have sent anything first, and announcements by links to other relays, the
 * first to have announced it first.  Its route is the first client's, or with
 * none the first announcing link's.
 *
 * Functions that change the registry take the zone's lock, write to the journal
 * and leave the bells to the turn's end (ngx_derp_region_ring()).  Where the
 * lock is not to be had they change nothing, and return NGX_AGAIN.  All are for
 * workers.
 */


#ifndef _NGX_DERP_REGISTRY_H_INCLUDED_
#define _NGX_DERP_REGISTRY_H_INCLUDED_


#include "ngx_derp_peer.h"


/* a peer, as one remembers it: worth nothing once the generation differs */

typedef struct {
    uint32_t          index;
    uint32_t          generation;   /* 0: none */
} ngx_derp_handle_t;


/* what is to be known of a client, to be copied */

typedef struct {
    u_char            key[NGX_DERP_KEY_LEN];
    u_char            addr[16];
    in_port_t         port;
    uint8_t           flags;
} ngx_derp_client_t;


/*
 * Adds a client of this worker, which becomes the active one of its key.
 * NGX_BUSY if the registry is full.
 */
ngx_int_t ngx_derp_registry_add(ngx_derp_region_t *region,
    ngx_derp_client_t *client, ngx_derp_route_t *route,
    ngx_derp_handle_t *handle);

/*
 * Whether there is no room for another client.  It takes no lock, and so may be
 * wrong by those who come and leave just now: the login finds out.
 */
ngx_uint_t ngx_derp_registry_full(ngx_derp_region_t *region);

/*
 * Takes a client, or a link with all that it announced, away.  NGX_AGAIN: a
 * part of that, or nothing yet; *index, 0 at first, is how far it has come.
 */
ngx_int_t ngx_derp_registry_remove(ngx_derp_region_t *region,
    ngx_derp_route_t route, uint32_t *index);

/* A part of all connections of a slot, as above; under the lock. */
ngx_int_t ngx_derp_registry_remove_slot(ngx_derp_region_t *region,
    ngx_uint_t slot, uint32_t *index);

/* Makes a client the active one of its key. */
ngx_int_t ngx_derp_registry_activate(ngx_derp_region_t *region,
    ngx_derp_route_t route);

/*
 * Where to send a packet for a key.  *handle is what the caller remembers of
 * its last look-up, and makes this one cheap when the key is the same; it is
 * updated.  NGX_DERP_NO_ROUTE if nobody has the key; NGX_DERP_ROUTE_AGAIN if
 * that cannot be said now, while the registry is being repaired.  Waits for
 * nobody.
 */
ngx_derp_route_t ngx_derp_registry_find(ngx_derp_region_t *region,
    u_char *key, ngx_derp_handle_t *handle);

/* The route of a peer if the handle still is of it.  Takes no lock. */
ngx_derp_route_t ngx_derp_registry_route(ngx_derp_region_t *region,
    ngx_derp_handle_t *handle);

/*
 * From now on this worker is rung when the key leaves the region.  If it has
 * left already the journal says so, which the caller must read once more before
 * it sleeps.  Takes no lock.
 */
void ngx_derp_registry_hear(ngx_derp_region_t *region, u_char *key);

/*
 * Copies up to *n clients from the peer at *index on, as a watcher is told of
 * them, and moves the index on: NGX_OK with their number in *n.  NGX_DECLINED:
 * the journal has to be read to its end first, so that what it tells after this
 * is never older than what was copied.  NGX_DONE: there are no more.
 */
ngx_int_t ngx_derp_registry_clients(ngx_derp_region_t *region,
    uint64_t cursor, uint32_t *index, ngx_derp_client_t *clients,
    ngx_uint_t *n);

/*
 * Has every client with the key closed by its worker, which the journal tells.
 * *n is how many there are.
 */
ngx_int_t ngx_derp_registry_close(ngx_derp_region_t *region, u_char *key,
    ngx_uint_t *n);

/* Whether this worker's client at the route is to be closed. */
ngx_uint_t ngx_derp_registry_closing(ngx_derp_region_t *region,
    ngx_derp_route_t route);

/*
 * Adds a link of this worker to the relay of this id; NGX_BUSY if the registry
 * is full.
 */
ngx_int_t ngx_derp_registry_add_link(ngx_derp_region_t *region, uint64_t id,
    ngx_derp_route_t *route);

/*
 * A link announces a key, or withdraws it.  Twice the same is no error.  Where
 * another link to the same relay has announced the key, as that of an old
 * worker, this one takes its place among the others', and goes before it.
 * NGX_BUSY if the registry is full.
 */
ngx_int_t ngx_derp_registry_announce(ngx_derp_region_t *region,
    ngx_derp_route_t link, u_char *key);
ngx_int_t ngx_derp_registry_withdraw(ngx_derp_region_t *region,
    ngx_derp_route_t link, u_char *key);


#endif /* _NGX_DERP_REGISTRY_H_INCLUDED_ */
