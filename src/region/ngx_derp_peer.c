
/*
 * Peers and their connections.
 */


#include "ngx_derp_peer.h"
#include "ngx_derp_journal.h"
#include "ngx_derp_fault.h"


/* more than a chain is long */
#define NGX_DERP_PEER_STEPS  64


/* local beats remote; of the links the first to have announced it */

void
ngx_derp_peer_settle(ngx_derp_region_t *region, ngx_derp_peer_t *peer)
{
    ngx_derp_route_t  route;

    if (peer->clients) {
        route = ngx_derp_conn_route(region, &region->conns[peer->clients - 1]);

    } else if (peer->links) {
        route = region->conns[peer->links - 1].link;

    } else {
        route = NGX_DERP_NO_ROUTE;
    }

    ngx_derp_store_release(&peer->route, route);
}


void
ngx_derp_peer_count(ngx_derp_zone_t *zone, uint32_t before, uint32_t after)
{
    zone->clients += after - before;
    zone->keys += (after != 0) - (before != 0);
    zone->duplicate_keys += (after > 1) - (before > 1);
    zone->duplicate_clients += (after > 1 ? after : 0)
                               - (before > 1 ? before : 0);
}


void
ngx_derp_peer_note(ngx_derp_region_t *region, ngx_derp_peer_t *peer,
    ngx_uint_t what)
{
    ngx_derp_conn_t   *conn;
    ngx_derp_entry_t   entry;

    ngx_memzero(&entry, sizeof(ngx_derp_entry_t));

    ngx_memcpy(entry.key, peer->key, NGX_DERP_KEY_LEN);
    entry.peer = peer - region->peers;
    entry.what = what;

    if (peer->clients) {
        conn = &region->conns[peer->clients - 1];

        ngx_memcpy(entry.addr, conn->addr, sizeof(entry.addr));
        entry.port = conn->port;
        entry.flags = conn->flags;
    }

    ngx_derp_journal_append(region, &entry);

    if (what & NGX_DERP_JOURNAL_LEFT) {

        /* orders the entry before the look: see ngx_derp_registry_hear() */

        ngx_derp_barrier();
        region->heard |= ngx_derp_load(&peer->heard);
    }

    if (what & (NGX_DERP_JOURNAL_PRESENT|NGX_DERP_JOURNAL_GONE)) {
        region->watched = 1;
    }

    if (what & NGX_DERP_JOURNAL_CLOSE) {
        region->everybody = 1;
    }
}


uint32_t
ngx_derp_peer_bucket(ngx_derp_region_t *region, u_char *key)
{
    return ngx_derp_key_hash(key, region->zone->secret)
           & (region->zone->buckets - 1);
}


/*
 * Without the lock what is found is a guess, to be held against the sequence.
 * A chain may change under the reader's feet, and lead it into the list of free
 * entries: who has come far makes sure that it is not astray.
 */

ngx_derp_peer_t *
ngx_derp_peer_walk(ngx_derp_region_t *region, uint32_t bucket, u_char *key)
{
    uint32_t          i, n, sequence;
    ngx_derp_peer_t  *peer;

    sequence = ngx_derp_load_acquire(&region->zone->sequence);
    i = ngx_derp_load_acquire(&region->buckets[bucket]);

    for (n = 1;
         i && i <= region->zone->capacity && n <= region->zone->capacity;
         n++)
    {
        peer = &region->peers[i - 1];

        if (ngx_derp_equal_bytes(peer->key, key, NGX_DERP_KEY_LEN)) {
            return peer;
        }

        i = ngx_derp_load_acquire(&peer->next);

        if (n % NGX_DERP_PEER_STEPS == 0
            && ngx_derp_load(&region->zone->sequence) != sequence)
        {
            break;
        }
    }

    return NULL;
}


/*
 * The peer is not in use before a connection is attached to it: who dies in
 * between leaves it to the repair, as the sequence is odd meanwhile.
 */

ngx_derp_peer_t *
ngx_derp_peer_new(ngx_derp_region_t *region, uint32_t bucket, u_char *key)
{
    ngx_derp_peer_t  *peer;
    ngx_derp_zone_t  *zone;

    zone = region->zone;

    if (zone->peers_free == 0 && zone->peers_top == zone->capacity) {
        return NULL;
    }

    ngx_derp_store(&zone->sequence, zone->sequence + 1);
    ngx_derp_release_fence();

    if (zone->peers_free) {
        peer = &region->peers[zone->peers_free - 1];
        zone->peers_free = peer->next;

    } else {
        peer = &region->peers[zone->peers_top];
        peer->generation = 1;
        ngx_derp_store_release(&zone->peers_top, zone->peers_top + 1);
    }

    NGX_DERP_FAULT(registry_new_peer);
    ngx_derp_write_bytes(peer->key, key, NGX_DERP_KEY_LEN);
    ngx_derp_store(&peer->route, NGX_DERP_NO_ROUTE);
    ngx_derp_store(&peer->heard, 0);
    ngx_derp_store(&peer->clients, 0);
    peer->links = 0;
    peer->nclients = 0;

    ngx_derp_peer_insert(region, peer, bucket);
    NGX_DERP_FAULT(registry_insert_peer);

    ngx_derp_store_release(&zone->sequence, zone->sequence + 1);

    return peer;
}


void
ngx_derp_peer_insert(ngx_derp_region_t *region, ngx_derp_peer_t *peer,
    uint32_t bucket)
{
    ngx_derp_store(&peer->next, region->buckets[bucket]);
    ngx_derp_store_release(&region->buckets[bucket],
                           (uint32_t) (peer - region->peers) + 1);
}


void
ngx_derp_peer_free(ngx_derp_region_t *region, ngx_derp_peer_t *peer)
{
    uint32_t  *p, index;

    index = peer - region->peers + 1;

    for (p = &region->buckets[ngx_derp_peer_bucket(region, peer->key)];
         *p != index;
         p = &region->peers[*p - 1].next)
    { /* void */ }

    ngx_derp_store(p, peer->next);
    NGX_DERP_FAULT(registry_free_peer);

    /* handles are stale from here on; 0 is no generation */

    ngx_derp_store_release(&peer->generation,
                           peer->generation + 1 ? peer->generation + 1 : 1);
    NGX_DERP_FAULT(registry_free_peer_stale);

    ngx_derp_store(&peer->next, region->zone->peers_free);
    region->zone->peers_free = index;
}


ngx_derp_conn_t *
ngx_derp_conn_new(ngx_derp_region_t *region)
{
    ngx_derp_conn_t  *conn;
    ngx_derp_zone_t  *zone;

    zone = region->zone;

    if (zone->conns_free) {
        conn = &region->conns[zone->conns_free - 1];
        zone->conns_free = conn->next;
        NGX_DERP_FAULT(registry_new_conn);
        return conn;
    }

    if (zone->conns_top == zone->capacity) {
        return NULL;
    }

    conn = &region->conns[zone->conns_top++];
    NGX_DERP_FAULT(registry_first_conn);
    conn->generation = 1;

    return conn;
}


void
ngx_derp_conn_free(ngx_derp_region_t *region, ngx_derp_conn_t *conn)
{
    ngx_derp_store_release(&conn->kind, NGX_DERP_CONN_FREE);
    NGX_DERP_FAULT(registry_free_conn);

    conn->generation = (conn->generation + 1) % NGX_DERP_ROUTE_GENERATIONS;
    conn->generation += (conn->generation == 0);
    NGX_DERP_FAULT(registry_free_conn_stale);

    conn->next = region->zone->conns_free;
    region->zone->conns_free = conn - region->conns + 1;
}


ngx_derp_conn_t *
ngx_derp_conn(ngx_derp_region_t *region, ngx_derp_route_t route)
{
    ngx_derp_conn_t  *conn;

    conn = &region->conns[ngx_derp_route_index(route)];

    if (conn->kind == NGX_DERP_CONN_FREE
        || conn->generation != ngx_derp_route_generation(route))
    {
        return NULL;
    }

    return conn;
}


ngx_derp_route_t
ngx_derp_conn_route(ngx_derp_region_t *region, ngx_derp_conn_t *conn)
{
    return ngx_derp_route(conn->slot, conn - region->conns, conn->generation)
           | (conn->kind == NGX_DERP_CONN_LINK ? NGX_DERP_ROUTE_LINK : 0);
}


/*
 * Clients stand by their stamps, the latest first, and announcements, the
 * earliest first, and of those that share one the newest.  A new client is the
 * first of its list in one step; links are few.
 */

void
ngx_derp_conn_attach(ngx_derp_region_t *region, ngx_derp_peer_t *peer,
    ngx_derp_conn_t *conn)
{
    uint32_t         *list, index, prev, next;
    ngx_uint_t        client;
    ngx_derp_conn_t  *c;

    client = (conn->kind == NGX_DERP_CONN_CLIENT);
    list = client ? &peer->clients : &peer->links;
    index = conn - region->conns + 1;

    prev = 0;

    for (next = *list; next; next = c->next) {
        c = &region->conns[next - 1];

        if (!ngx_derp_conn_before(c, conn)) {
            break;
        }

        prev = next;
    }

    conn->prev = prev;
    conn->next = next;

    NGX_DERP_FAULT(registry_attach);

    if (next) {
        region->conns[next - 1].prev = index;
    }

    NGX_DERP_FAULT(registry_attach_half);

    if (prev) {
        region->conns[prev - 1].next = index;

    } else {
        ngx_derp_store(list, index);
    }

    peer->nclients += client;
}


ngx_uint_t
ngx_derp_conn_before(ngx_derp_conn_t *a, ngx_derp_conn_t *b)
{
    return a->kind == NGX_DERP_CONN_CLIENT ? a->stamp > b->stamp
                                           : a->stamp < b->stamp;
}


void
ngx_derp_conn_detach(ngx_derp_region_t *region, ngx_derp_conn_t *conn)
{
    ngx_uint_t        client;
    ngx_derp_peer_t  *peer;

    client = (conn->kind == NGX_DERP_CONN_CLIENT);
    peer = &region->peers[conn->peer];

    NGX_DERP_FAULT(registry_detach);

    if (conn->next) {
        region->conns[conn->next - 1].prev = conn->prev;
    }

    NGX_DERP_FAULT(registry_detach_half);

    if (conn->prev) {
        region->conns[conn->prev - 1].next = conn->next;

    } else {
        ngx_derp_store(client ? &peer->clients : &peer->links, conn->next);
    }

    peer->nclients -= client;
}
