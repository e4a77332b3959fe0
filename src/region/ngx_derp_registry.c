
/*
 * The registry of a relay.
 *
 * Every change is one of a single peer and stands between _begin() and
 * _commit(): _begin() marks the peer and makes the sequence odd, _commit()
 * settles what follows from the peer's lists (route, counts, journal) and
 * makes it even again.  What a writer that dies in between leaves is made
 * whole by ngx_derp_repair(), for which the kind of a connection is the one
 * truth: it is written last, and cleared first.
 */


#include "ngx_derp_registry.h"
#include "ngx_derp_journal.h"
#include "ngx_derp_lock.h"
#include "ngx_derp_fault.h"


/* so many peers are looked at while the lock is held */
#define NGX_DERP_REGISTRY_SCAN   512

/* so many are taken away, and many more looked at for that */
#define NGX_DERP_REGISTRY_BATCH  256
#define NGX_DERP_REGISTRY_COST   32

/* a reader that meets this many changes takes the lock instead */
#define NGX_DERP_REGISTRY_TRIES  1000

/* of a peer, before a change */

typedef struct {
    uint32_t          index;
    uint32_t          nclients;
    ngx_uint_t        present;      /* by a client or a link */
} ngx_derp_change_t;


static void ngx_derp_registry_begin(ngx_derp_region_t *region,
    ngx_derp_peer_t *peer, ngx_derp_change_t *change);
static void ngx_derp_registry_commit(ngx_derp_region_t *region,
    ngx_derp_change_t *change);
static ngx_int_t ngx_derp_registry_remove_some(ngx_derp_region_t *region,
    ngx_derp_route_t link, ngx_uint_t slot, uint32_t *index);
static ngx_derp_route_t ngx_derp_registry_look(ngx_derp_region_t *region,
    uint32_t bucket, u_char *key, ngx_derp_handle_t *handle);
static void ngx_derp_registry_remove_conn(ngx_derp_region_t *region,
    ngx_derp_conn_t *conn);
static ngx_int_t ngx_derp_registry_put(ngx_derp_region_t *region, u_char *key,
    ngx_derp_conn_t *from, ngx_derp_conn_t **conn);
static ngx_derp_conn_t *ngx_derp_registry_announcement(
    ngx_derp_region_t *region, ngx_derp_route_t link, u_char *key);
static uint64_t ngx_derp_registry_inherit(ngx_derp_region_t *region,
    ngx_derp_route_t link, u_char *key);
static ngx_int_t ngx_derp_registry_copy_client(ngx_derp_region_t *region,
    uint32_t index, ngx_derp_client_t *client);


ngx_int_t
ngx_derp_registry_add(ngx_derp_region_t *region, ngx_derp_client_t *client,
    ngx_derp_route_t *route, ngx_derp_handle_t *handle)
{
    ngx_int_t         rc;
    ngx_derp_conn_t   from, *conn;

    ngx_memzero(&from, sizeof(ngx_derp_conn_t));

    ngx_memcpy(from.addr, client->addr, sizeof(from.addr));
    from.port = client->port;
    from.flags = client->flags;
    from.kind = NGX_DERP_CONN_CLIENT;

    if (ngx_derp_lock(region) != NGX_OK) {
        return NGX_AGAIN;
    }

    rc = ngx_derp_registry_put(region, client->key, &from, &conn);

    if (rc == NGX_OK) {
        *route = ngx_derp_conn_route(region, conn);

        handle->index = conn->peer;
        handle->generation = region->peers[conn->peer].generation;
    }

    ngx_derp_unlock(region);

    return rc;
}


ngx_uint_t
ngx_derp_registry_full(ngx_derp_region_t *region)
{
    return ngx_derp_load(&region->zone->conns_free) == 0
           && ngx_derp_load(&region->zone->conns_top)
              == region->zone->capacity;
}


ngx_int_t
ngx_derp_registry_remove(ngx_derp_region_t *region, ngx_derp_route_t route,
    uint32_t *index)
{
    ngx_int_t         rc;
    ngx_derp_conn_t  *conn;

    if (ngx_derp_lock(region) != NGX_OK) {
        return NGX_AGAIN;
    }

    rc = NGX_OK;
    conn = ngx_derp_conn(region, route);

    /* a link goes after all that it has announced */

    if (conn && conn->kind == NGX_DERP_CONN_LINK) {
        rc = ngx_derp_registry_remove_some(region, route, region->slot, index);
    }

    if (conn && rc == NGX_OK) {
        ngx_derp_registry_remove_conn(region, conn);
    }

    ngx_derp_unlock(region);

    return rc;
}


ngx_int_t
ngx_derp_registry_remove_slot(ngx_derp_region_t *region, ngx_uint_t slot,
    uint32_t *index)
{
    return ngx_derp_registry_remove_some(region, NGX_DERP_NO_ROUTE, slot,
                                         index);
}


/* Of a slot, or of a link of it: a part, so that the others get the lock. */

static ngx_int_t
ngx_derp_registry_remove_some(ngx_derp_region_t *region, ngx_derp_route_t link,
    ngx_uint_t slot, uint32_t *index)
{
    ngx_uint_t        n;
    ngx_derp_conn_t  *conn;

    n = 0;

    while (*index < region->zone->conns_top) {

        if (n >= NGX_DERP_REGISTRY_BATCH * NGX_DERP_REGISTRY_COST) {
            return NGX_AGAIN;
        }

        conn = &region->conns[(*index)++];
        n++;

        if (conn->kind == NGX_DERP_CONN_FREE
            || conn->slot != slot
            || (link && (conn->kind != NGX_DERP_CONN_ANNOUNCED
                         || conn->link != link)))
        {
            continue;
        }

        ngx_derp_registry_remove_conn(region, conn);
        NGX_DERP_FAULT(registry_remove_some);

        n += NGX_DERP_REGISTRY_COST - 1;
    }

    return NGX_OK;
}


ngx_int_t
ngx_derp_registry_activate(ngx_derp_region_t *region, ngx_derp_route_t route)
{
    ngx_derp_conn_t    *conn;
    ngx_derp_peer_t    *peer;
    ngx_derp_change_t   change;

    if (ngx_derp_lock(region) != NGX_OK) {
        return NGX_AGAIN;
    }

    conn = ngx_derp_conn(region, route);

    if (conn && conn->kind == NGX_DERP_CONN_CLIENT) {
        peer = &region->peers[conn->peer];

        ngx_derp_registry_begin(region, peer, &change);

        ngx_derp_conn_detach(region, conn);
        NGX_DERP_FAULT(registry_activate);
        conn->stamp = ++region->zone->stamp;
        ngx_derp_conn_attach(region, peer, conn);

        ngx_derp_registry_commit(region, &change);
    }

    ngx_derp_unlock(region);

    return NGX_OK;
}


/*
 * What is found is so, whoever is changing what.  That there is nothing is sure
 * if nothing has changed meanwhile, or if the same change was under way at two
 * looks: it is of one peer, whose way out of its chain may have led one of
 * them astray.  So a worker that stands still in a change holds up nobody here,
 * but in a repair, when there is no chain.
 */

ngx_derp_route_t
ngx_derp_registry_find(ngx_derp_region_t *region, u_char *key,
    ngx_derp_handle_t *handle)
{
    uint32_t           before, sequence, last, bucket, repairing;
    ngx_uint_t         n;
    ngx_derp_route_t   route;

    if (handle->generation
        && ngx_derp_equal_bytes(region->peers[handle->index].key, key,
                                NGX_DERP_KEY_LEN))
    {
        route = ngx_derp_registry_route(region, handle);

        if (route != NGX_DERP_NO_ROUTE) {
            return route;
        }
    }

    bucket = ngx_derp_peer_bucket(region, key);
    last = 0;

    for (n = 0; n < NGX_DERP_REGISTRY_TRIES; n++) {

        before = ngx_derp_load_acquire(&region->zone->sequence);
        route = ngx_derp_registry_look(region, bucket, key, handle);

        if (route != NGX_DERP_NO_ROUTE) {
            return route;
        }

        ngx_derp_acquire_fence();
        repairing = ngx_derp_load_acquire(&region->zone->repairing);
        sequence = ngx_derp_load(&region->zone->sequence);

        if (sequence == before
            && ((sequence & 1) == 0 || (sequence == last && !repairing)))
        {
            return NGX_DERP_NO_ROUTE;
        }

        last = (sequence == before && !repairing) ? sequence : 0;

        ngx_cpu_pause();
    }

    if (ngx_derp_lock(region) != NGX_OK) {
        return NGX_DERP_ROUTE_AGAIN;
    }

    route = ngx_derp_registry_look(region, bucket, key, handle);

    ngx_derp_unlock(region);

    return route;
}


/*
 * A free entry has no route, and gets one after its key: an entry that has one,
 * and then the key, and is still of one generation, is the key's.
 */

static ngx_derp_route_t
ngx_derp_registry_look(ngx_derp_region_t *region, uint32_t bucket, u_char *key,
    ngx_derp_handle_t *handle)
{
    ngx_derp_peer_t   *peer;
    ngx_derp_route_t   route;

    peer = ngx_derp_peer_walk(region, bucket, key);

    if (peer) {
        handle->index = peer - region->peers;
        handle->generation = ngx_derp_load_acquire(&peer->generation);

        route = ngx_derp_load_acquire(&peer->route);

        if (route != NGX_DERP_NO_ROUTE
            && ngx_derp_equal_bytes(peer->key, key, NGX_DERP_KEY_LEN)
            && ngx_derp_registry_route(region, handle) != NGX_DERP_NO_ROUTE)
        {
            return route;
        }
    }

    handle->generation = 0;

    return NGX_DERP_NO_ROUTE;
}


ngx_derp_route_t
ngx_derp_registry_route(ngx_derp_region_t *region, ngx_derp_handle_t *handle)
{
    ngx_derp_peer_t   *peer;
    ngx_derp_route_t   route;

    peer = &region->peers[handle->index];
    route = ngx_derp_load(&peer->route);

    /* if it is of the same generation now, then so was all that was read */

    ngx_derp_acquire_fence();

    if (ngx_derp_load(&peer->generation) != handle->generation) {
        return NGX_DERP_NO_ROUTE;
    }

    return route;
}


/*
 * Also of a peer that has lost its route, as its departure is yet to be written
 * to the journal; it is off the index only after that.
 */

void
ngx_derp_registry_hear(ngx_derp_region_t *region, u_char *key)
{
    uint32_t          bit;
    ngx_derp_peer_t  *peer;

    bit = ngx_derp_slot_bit(region->slot);
    peer = ngx_derp_peer_walk(region, ngx_derp_peer_bucket(region, key), key);

    if (peer && (ngx_derp_load(&peer->heard) & bit) == 0) {
        (void) ngx_derp_or(&peer->heard, bit);
    }

    /* orders it before the reading of the journal's head: see _note() */

    ngx_derp_barrier();
}


ngx_int_t
ngx_derp_registry_clients(ngx_derp_region_t *region, uint64_t cursor,
    uint32_t *index, ngx_derp_client_t *clients, ngx_uint_t *n)
{
    uint32_t    top;
    ngx_int_t   rc;
    ngx_uint_t  max, room;

    max = *n;
    room = max;

    if (ngx_derp_lock(region) != NGX_OK) {
        return NGX_AGAIN;
    }

    top = region->zone->peers_top;

    if (ngx_derp_journal_cursor(region) != cursor) {
        rc = NGX_DECLINED;

    } else if (*index >= top) {
        rc = NGX_DONE;

    } else {
        rc = NGX_OK;
        top = ngx_min(top, *index + NGX_DERP_REGISTRY_SCAN);

        while (room && *index < top) {
            if (ngx_derp_registry_copy_client(region, (*index)++, clients)
                == NGX_OK)
            {
                clients++;
                room--;
            }
        }
    }

    ngx_derp_unlock(region);

    *n = max - room;

    return rc;
}


static ngx_int_t
ngx_derp_registry_copy_client(ngx_derp_region_t *region, uint32_t index,
    ngx_derp_client_t *client)
{
    ngx_derp_conn_t  *conn;
    ngx_derp_peer_t  *peer;

    peer = &region->peers[index];

    if (peer->clients == 0) {
        return NGX_DECLINED;
    }

    conn = &region->conns[peer->clients - 1];

    ngx_memcpy(client->key, peer->key, NGX_DERP_KEY_LEN);
    ngx_memcpy(client->addr, conn->addr, sizeof(client->addr));
    client->port = conn->port;
    client->flags = conn->flags;

    return NGX_OK;
}


ngx_int_t
ngx_derp_registry_close(ngx_derp_region_t *region, u_char *key, ngx_uint_t *n)
{
    uint32_t          i;
    ngx_derp_conn_t  *conn;
    ngx_derp_peer_t  *peer;

    *n = 0;

    if (ngx_derp_lock(region) != NGX_OK) {
        return NGX_AGAIN;
    }

    peer = ngx_derp_peer_walk(region, ngx_derp_peer_bucket(region, key), key);

    for (i = peer ? peer->clients : 0; i; i = conn->next) {
        conn = &region->conns[i - 1];

        ngx_derp_store(&conn->closing, 1);
        (*n)++;
    }

    if (*n) {
        ngx_derp_peer_note(region, peer, NGX_DERP_JOURNAL_CLOSE);
    }

    ngx_derp_unlock(region);

    return NGX_OK;
}


ngx_uint_t
ngx_derp_registry_closing(ngx_derp_region_t *region, ngx_derp_route_t route)
{
    return ngx_derp_load(&region->conns[ngx_derp_route_index(route)].closing);
}


ngx_int_t
ngx_derp_registry_add_link(ngx_derp_region_t *region, uint64_t id,
    ngx_derp_route_t *route)
{
    ngx_int_t         rc;
    ngx_derp_conn_t  *conn;

    if (ngx_derp_lock(region) != NGX_OK) {
        return NGX_AGAIN;
    }

    rc = NGX_BUSY;

    ngx_derp_zone_mark(region->zone, NGX_DERP_ZONE_DIRTY);

    conn = ngx_derp_conn_new(region);

    if (conn) {
        conn->slot = region->slot;
        conn->link = id;
        NGX_DERP_FAULT(registry_add_link);
        ngx_derp_store_release(&conn->kind, NGX_DERP_CONN_LINK);

        *route = ngx_derp_conn_route(region, conn);
        rc = NGX_OK;
    }

    ngx_derp_zone_clear(region->zone);

    ngx_derp_unlock(region);

    return rc;
}


ngx_int_t
ngx_derp_registry_announce(ngx_derp_region_t *region, ngx_derp_route_t link,
    u_char *key)
{
    ngx_int_t         rc;
    ngx_derp_conn_t   from, *conn;

    ngx_memzero(&from, sizeof(ngx_derp_conn_t));

    from.link = link;
    from.kind = NGX_DERP_CONN_ANNOUNCED;

    if (ngx_derp_lock(region) != NGX_OK) {
        return NGX_AGAIN;
    }

    rc = NGX_OK;

    if (ngx_derp_registry_announcement(region, link, key) == NULL) {
        from.stamp = ngx_derp_registry_inherit(region, link, key);
        rc = ngx_derp_registry_put(region, key, &from, &conn);
    }

    ngx_derp_unlock(region);

    return rc;
}


ngx_int_t
ngx_derp_registry_withdraw(ngx_derp_region_t *region, ngx_derp_route_t link,
    u_char *key)
{
    ngx_derp_conn_t  *conn;

    if (ngx_derp_lock(region) != NGX_OK) {
        return NGX_AGAIN;
    }

    conn = ngx_derp_registry_announcement(region, link, key);

    if (conn) {
        ngx_derp_registry_remove_conn(region, conn);
    }

    ngx_derp_unlock(region);

    return NGX_OK;
}


static ngx_derp_conn_t *
ngx_derp_registry_announcement(ngx_derp_region_t *region,
    ngx_derp_route_t link, u_char *key)
{
    uint32_t          i;
    ngx_derp_conn_t  *conn;
    ngx_derp_peer_t  *peer;

    peer = ngx_derp_peer_walk(region, ngx_derp_peer_bucket(region, key), key);

    for (i = peer ? peer->links : 0; i; i = conn->next) {
        conn = &region->conns[i - 1];

        if (conn->link == link) {
            return conn;
        }
    }

    return NULL;
}


/* The stamp of an announcement by another link to the same relay, or 0. */

static uint64_t
ngx_derp_registry_inherit(ngx_derp_region_t *region, ngx_derp_route_t link,
    u_char *key)
{
    uint32_t          i;
    ngx_derp_conn_t  *conn, *own, *other;
    ngx_derp_peer_t  *peer;

    own = ngx_derp_conn(region, link);
    peer = ngx_derp_peer_walk(region, ngx_derp_peer_bucket(region, key), key);

    for (i = peer && own ? peer->links : 0; i; i = conn->next) {
        conn = &region->conns[i - 1];
        other = ngx_derp_conn(region, conn->link);

        if (other && other->link == own->link) {
            return conn->stamp;
        }
    }

    return 0;
}


/* A connection like *from, but for what only the registry knows. */

static ngx_int_t
ngx_derp_registry_put(ngx_derp_region_t *region, u_char *key,
    ngx_derp_conn_t *from, ngx_derp_conn_t **connp)
{
    uint32_t            bucket;
    ngx_derp_conn_t    *conn;
    ngx_derp_peer_t    *peer;
    ngx_derp_change_t   change;

    ngx_derp_zone_mark(region->zone, NGX_DERP_ZONE_DIRTY);

    conn = ngx_derp_conn_new(region);

    if (conn == NULL) {
        ngx_derp_zone_clear(region->zone);
        return NGX_BUSY;
    }

    bucket = ngx_derp_peer_bucket(region, key);
    peer = ngx_derp_peer_walk(region, bucket, key);

    if (peer == NULL) {
        peer = ngx_derp_peer_new(region, bucket, key);

        if (peer == NULL) {
            ngx_derp_conn_free(region, conn);
            ngx_derp_zone_clear(region->zone);
            return NGX_BUSY;
        }
    }

    ngx_derp_registry_begin(region, peer, &change);

    ngx_derp_write_bytes(conn->addr, from->addr, sizeof(conn->addr));
    ngx_derp_store(&conn->port, from->port);
    ngx_derp_store(&conn->flags, from->flags);
    ngx_derp_store(&conn->closing, 0);
    conn->slot = region->slot;
    conn->peer = peer - region->peers;
    conn->stamp = from->stamp ? from->stamp : ++region->zone->stamp;

    NGX_DERP_FAULT(registry_put);
    ngx_derp_store_release(&conn->kind, from->kind);
    NGX_DERP_FAULT(registry_put_kind);

    ngx_derp_conn_attach(region, peer, conn);

    ngx_derp_registry_commit(region, &change);

    *connp = conn;

    return NGX_OK;
}


static void
ngx_derp_registry_remove_conn(ngx_derp_region_t *region, ngx_derp_conn_t *conn)
{
    ngx_derp_change_t  change;

    if (conn->kind == NGX_DERP_CONN_LINK) {
        ngx_derp_zone_mark(region->zone, NGX_DERP_ZONE_DIRTY);
        ngx_derp_conn_free(region, conn);
        ngx_derp_zone_clear(region->zone);
        return;
    }

    ngx_derp_registry_begin(region, &region->peers[conn->peer], &change);

    ngx_derp_conn_detach(region, conn);
    NGX_DERP_FAULT(registry_remove);
    ngx_derp_conn_free(region, conn);

    ngx_derp_registry_commit(region, &change);
}


static void
ngx_derp_registry_begin(ngx_derp_region_t *region, ngx_derp_peer_t *peer,
    ngx_derp_change_t *change)
{
    change->index = peer - region->peers;
    change->nclients = peer->nclients;
    change->present = peer->clients || peer->links;

    ngx_derp_zone_mark(region->zone, change->index + 1);
    NGX_DERP_FAULT(registry_begin);

    ngx_derp_store(&region->zone->sequence, region->zone->sequence + 1);
    ngx_derp_release_fence();
}


static void
ngx_derp_registry_commit(ngx_derp_region_t *region, ngx_derp_change_t *change)
{
    ngx_uint_t        what;
    ngx_derp_peer_t  *peer;

    peer = &region->peers[change->index];

    ngx_derp_peer_settle(region, peer);
    NGX_DERP_FAULT(registry_settle);
    ngx_derp_peer_count(region->zone, change->nclients, peer->nclients);
    NGX_DERP_FAULT(registry_count);

    what = 0;

    if (change->nclients == 0 && peer->nclients) {
        what |= NGX_DERP_JOURNAL_PRESENT;
    }

    if (change->nclients && peer->nclients == 0) {
        what |= NGX_DERP_JOURNAL_GONE;
    }

    if (change->present && peer->route == NGX_DERP_NO_ROUTE) {
        what |= NGX_DERP_JOURNAL_LEFT;
    }

    if (what) {
        ngx_derp_peer_note(region, peer, what);
        NGX_DERP_FAULT(registry_note);
    }

    if (peer->route == NGX_DERP_NO_ROUTE) {
        ngx_derp_peer_free(region, peer);
    }

    NGX_DERP_FAULT(registry_commit);
    ngx_derp_store_release(&region->zone->sequence,
                           region->zone->sequence + 1);
    NGX_DERP_FAULT(registry_commit_even);
    ngx_derp_zone_clear(region->zone);
}
