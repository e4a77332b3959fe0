
/*
 * Peers and their connections: what the registry is made of.
 *
 * The entries of both, the index over the peers' keys, and a peer's lists.
 * For the registry and its repair alone: all but the look-up is done under
 * the zone's lock, with the zone marked.
 */


#ifndef _NGX_DERP_PEER_H_INCLUDED_
#define _NGX_DERP_PEER_H_INCLUDED_


#include "ngx_derp_region.h"


/* the zone is being changed, but no peer is to be told about */
#define NGX_DERP_ZONE_DIRTY  ((uint32_t) -1)


struct ngx_derp_peer_s {
    u_char            key[NGX_DERP_KEY_LEN];
    uint64_t          route;        /* of the active connection */
    uint32_t          generation;   /* changes when the entry is freed */
    uint32_t          next;         /* in the bucket or free list, index + 1 */
    uint32_t          heard;        /* slots to be rung when it leaves */
    uint32_t          clients;      /* lists of connections, index + 1 */
    uint32_t          links;
    uint32_t          nclients;
} ngx_derp_aligned;


typedef enum {
    NGX_DERP_CONN_FREE = 0,
    NGX_DERP_CONN_CLIENT,
    NGX_DERP_CONN_ANNOUNCED,        /* of a key, by a link */
    NGX_DERP_CONN_LINK              /* the link itself, of no key */
} ngx_derp_conn_kind_e;


struct ngx_derp_conn_s {
    union {
        u_char        addr[16];     /* a client's: IPv6, v4-mapped for IPv4 */
        uint64_t      link;         /* the announcing link's route; a link's
                                       own is the id of the other relay */
    };

    uint64_t          stamp;        /* when it became active, or announced */
    uint32_t          generation;   /* changes when the entry is freed */
    uint32_t          peer;         /* index */
    uint32_t          next;         /* in a list, index + 1 */
    uint32_t          prev;
    in_port_t         port;         /* host order */
    uint16_t          slot;         /* of the worker that has it */
    uint8_t           kind;         /* written last, cleared first */
    uint8_t           flags;        /* NGX_DERP_PRESENT_... */
    uint8_t           closing;      /* it is to close it */
};


/*
 * To whoever comes after a death, what stands in the program before and behind
 * these has happened before and after: a killed process has done all that it
 * came to, in the order that the compiler gave it.
 */

static ngx_inline void
ngx_derp_zone_mark(ngx_derp_zone_t *zone, uint32_t dirty)
{
    ngx_derp_store(&zone->dirty, dirty);
    ngx_derp_release_fence();
}


static ngx_inline void
ngx_derp_zone_clear(ngx_derp_zone_t *zone)
{
    ngx_derp_store_release(&zone->dirty, 0);
}


uint32_t ngx_derp_peer_bucket(ngx_derp_region_t *region, u_char *key);

/*
 * The peer with the key in the bucket, or NULL.  Without the lock what is
 * found is a guess, to be held against the zone's sequence.
 */
ngx_derp_peer_t *ngx_derp_peer_walk(ngx_derp_region_t *region,
    uint32_t bucket, u_char *key);

/*
 * A peer without connections, in the index; NULL if there is no room.  Makes
 * the sequence odd meanwhile.
 */
ngx_derp_peer_t *ngx_derp_peer_new(ngx_derp_region_t *region,
    uint32_t bucket, u_char *key);
void ngx_derp_peer_insert(ngx_derp_region_t *region, ngx_derp_peer_t *peer,
    uint32_t bucket);
void ngx_derp_peer_free(ngx_derp_region_t *region, ngx_derp_peer_t *peer);

/* What follows from a peer's lists: its route, and the zone's counts. */
void ngx_derp_peer_settle(ngx_derp_region_t *region, ngx_derp_peer_t *peer);
void ngx_derp_peer_count(ngx_derp_zone_t *zone, uint32_t before,
    uint32_t after);

/*
 * Writes to the journal what has happened to a peer, and notes in the region
 * which workers are to be rung for that.
 */
void ngx_derp_peer_note(ngx_derp_region_t *region, ngx_derp_peer_t *peer,
    ngx_uint_t what);

/* An entry of no kind yet; NULL if there is no room. */
ngx_derp_conn_t *ngx_derp_conn_new(ngx_derp_region_t *region);
void ngx_derp_conn_free(ngx_derp_region_t *region, ngx_derp_conn_t *conn);

/* The connection at a route, or NULL if it is no more. */
ngx_derp_conn_t *ngx_derp_conn(ngx_derp_region_t *region,
    ngx_derp_route_t route);
ngx_derp_route_t ngx_derp_conn_route(ngx_derp_region_t *region,
    ngx_derp_conn_t *conn);

/* Into its place in the peer's list of its kind, and out of it. */
void ngx_derp_conn_attach(ngx_derp_region_t *region, ngx_derp_peer_t *peer,
    ngx_derp_conn_t *conn);
void ngx_derp_conn_detach(ngx_derp_region_t *region, ngx_derp_conn_t *conn);

/* Whether a stands before b in a list. */
ngx_uint_t ngx_derp_conn_before(ngx_derp_conn_t *a, ngx_derp_conn_t *b);


#endif /* _NGX_DERP_PEER_H_INCLUDED_ */
