
/*
 * The repair of a registry.
 */


#include "ngx_derp_repair.h"
#include "ngx_derp_peer.h"
#include "ngx_derp_journal.h"
#include "ngx_derp_fault.h"


static void ngx_derp_repair_collect(ngx_derp_region_t *region,
    ngx_derp_conn_t *conn);
static void ngx_derp_repair_sort(ngx_derp_region_t *region, uint32_t *list);
static uint32_t ngx_derp_repair_sort_part(ngx_derp_region_t *region,
    uint32_t list, uint32_t n);
static uint32_t ngx_derp_repair_merge(ngx_derp_region_t *region, uint32_t a,
    uint32_t b);


void
ngx_derp_repair(ngx_derp_region_t *region)
{
    uint32_t          i, dirty;
    ngx_derp_conn_t  *conn;
    ngx_derp_peer_t  *peer;
    ngx_derp_zone_t  *zone;

    zone = region->zone;
    dirty = zone->dirty;

    ngx_derp_store(&zone->sequence, zone->sequence | 1);
    ngx_derp_store(&zone->repairing, 1);
    ngx_derp_release_fence();

    for (i = 0; i < zone->buckets; i++) {
        ngx_derp_store(&region->buckets[i], 0);
    }

    NGX_DERP_FAULT(repair_buckets);

    zone->peers_free = 0;
    zone->conns_free = 0;
    zone->keys = 0;
    zone->clients = 0;
    zone->duplicate_keys = 0;
    zone->duplicate_clients = 0;

    for (i = 0; i < zone->peers_top; i++) {
        peer = &region->peers[i];

        ngx_derp_store(&peer->clients, 0);
        peer->links = 0;
        peer->nclients = 0;
    }

    for (i = 0; i < zone->conns_top; i++) {
        conn = &region->conns[i];

        switch (conn->kind) {

        case NGX_DERP_CONN_FREE:
            NGX_DERP_FAULT(repair_conns);
            ngx_derp_conn_free(region, conn);
            break;

        case NGX_DERP_CONN_LINK:
            break;

        default:
            ngx_derp_repair_collect(region, conn);
        }
    }

    for (i = 0; i < zone->peers_top; i++) {
        peer = &region->peers[i];

        ngx_derp_peer_insert(region, peer,
                             ngx_derp_peer_bucket(region, peer->key));
        ngx_derp_repair_sort(region, &peer->clients);
        ngx_derp_repair_sort(region, &peer->links);
        ngx_derp_peer_settle(region, peer);
        ngx_derp_peer_count(zone, 0, peer->nclients);
        NGX_DERP_FAULT(repair_peers);

        /* what of this change has been told is unknown: it is told again */

        if (i + 1 == dirty) {
            ngx_derp_peer_note(region, peer,
                               (peer->nclients ? NGX_DERP_JOURNAL_PRESENT
                                               : NGX_DERP_JOURNAL_GONE)
                               | (peer->route ? 0 : NGX_DERP_JOURNAL_LEFT));
        }

        if (peer->route == NGX_DERP_NO_ROUTE) {
            ngx_derp_peer_free(region, peer);
        }
    }

    NGX_DERP_FAULT(repair_done);
    ngx_derp_store_release(&zone->sequence, zone->sequence + 1);
    NGX_DERP_FAULT(repair_even);
    ngx_derp_store_release(&zone->repairing, 0);
    ngx_derp_zone_clear(zone);
}


/*
 * A stranger may have a key ten thousand times, in any order: the repair puts
 * them into their lists first, and sorts these afterwards.
 */

static void
ngx_derp_repair_collect(ngx_derp_region_t *region, ngx_derp_conn_t *conn)
{
    uint32_t         *list;
    ngx_uint_t        client;
    ngx_derp_peer_t  *peer;

    client = (conn->kind == NGX_DERP_CONN_CLIENT);
    peer = &region->peers[conn->peer];
    list = client ? &peer->clients : &peer->links;

    conn->next = *list;
    ngx_derp_store(list, (uint32_t) (conn - region->conns) + 1);

    peer->nclients += client;
}


static void
ngx_derp_repair_sort(ngx_derp_region_t *region, uint32_t *list)
{
    uint32_t          i, n, prev;
    ngx_derp_conn_t  *conn;

    n = 0;

    for (i = *list; i; i = region->conns[i - 1].next) {
        n++;
    }

    if (n == 0) {
        return;
    }

    ngx_derp_store(list, ngx_derp_repair_sort_part(region, *list, n));

    prev = 0;

    for (i = *list; i; i = conn->next) {
        conn = &region->conns[i - 1];
        conn->prev = prev;
        prev = i;
    }
}


/* The first n of a list, sorted and cut off. */

static uint32_t
ngx_derp_repair_sort_part(ngx_derp_region_t *region, uint32_t list, uint32_t n)
{
    uint32_t  i, second;

    if (n == 1) {
        region->conns[list - 1].next = 0;
        return list;
    }

    second = list;

    for (i = 0; i < n / 2; i++) {
        second = region->conns[second - 1].next;
    }

    second = ngx_derp_repair_sort_part(region, second, n - n / 2);
    list = ngx_derp_repair_sort_part(region, list, n / 2);

    return ngx_derp_repair_merge(region, list, second);
}


static uint32_t
ngx_derp_repair_merge(ngx_derp_region_t *region, uint32_t a, uint32_t b)
{
    uint32_t  list, *last, *first;

    last = &list;

    while (a && b) {
        first = ngx_derp_conn_before(&region->conns[a - 1],
                                     &region->conns[b - 1])
                ? &a : &b;

        *last = *first;
        last = &region->conns[*first - 1].next;
        *first = *last;
    }

    *last = a ? a : b;

    return list;
}
