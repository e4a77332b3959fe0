
/*
 * What must hold after a turn and at the end: the books of the worker and of
 * the region.
 */


#include "session.h"


/* What the worker says that it holds is what its sessions hold. */

static void
fuzz_check_session(ngx_derp_session_t *s, size_t *held, size_t *queued)
{
    size_t            bytes;
    ngx_uint_t        n[3];
    ngx_derp_buf_t   *buf;

    stub_assert(fuzz_conn(s->connection) != NULL);

    if (s->in) {
        *held += ngx_derp_buf_size(s->in);
        stub_assert(s->in->owner == s && s->in->pos < s->in->last);
    }

    bytes = 0;
    ngx_memzero(n, sizeof(n));

    buf = s->out.queue;

    while (buf) {
        buf = buf->next;
        bytes += ngx_derp_buf_size(buf);
        n[buf->kind]++;

        if (buf == s->out.queue) {
            break;
        }
    }

    stub_assert(n[0] == s->out.queued[0] && n[1] == s->out.queued[1]
                && n[2] == s->out.queued[2]);
    stub_assert(s->linked
                ? bytes <= NGX_DERP_LINK_QUEUE + NGX_DERP_BUF_LARGE
                           + n[2] * 2 * NGX_DERP_MAX_PING
                : n[0] <= NGX_DERP_QUEUE && n[1] <= NGX_DERP_QUEUE);

    for (buf = s->out.buf; buf; buf = buf->next) {
        bytes += ngx_derp_buf_size(buf);
        stub_assert(buf->kind != NGX_DERP_SEALED || buf == s->out.buf);
    }

    stub_assert((fuzz_conn(s->connection)->sealed != 0)
                == (ngx_derp_outbox_sealed(s) != 0));

    *queued += bytes;

    stub_assert(s->out.held == bytes);
    stub_assert((s->out.holder != 0) == (n[0] != 0 || n[1] != 0));
    stub_assert(s->out.queue == NULL || s->out.blocked);

    /* what is in a socket that takes more goes out at the turn's end */

    stub_assert(s->out.buf == NULL || s->out.blocked);

    if (s->route) {
        stub_assert(fuzz_relay.sessions[ngx_derp_route_index(s->route)] == s);
    }
}


void
fuzz_check_worker(void)
{
    size_t        held, queued;
    ngx_queue_t  *q;

    held = 0;
    queued = 0;

    for (q = ngx_queue_head(&fuzz_relay.all);
         q != ngx_queue_sentinel(&fuzz_relay.all);
         q = ngx_queue_next(q))
    {
        fuzz_check_session(ngx_queue_data(q, ngx_derp_session_t, queue), &held,
                           &queued);
    }

    stub_assert(ngx_derp_worker.held == held);
    stub_assert(ngx_derp_worker.queued == queued);

    /* what another worker has spoilt is counted */

    stub_assert(stub_alerts
         <= fuzz_relay.region.member->counters.dropped[NGX_DERP_DROP_CHANNEL][0]
         );
    stub_assert(ngx_queue_empty(&ngx_derp_worker.touched)
                && ngx_derp_worker.ntouched == 0
                && ngx_queue_empty(&ngx_derp_worker.closing));
}


static uint32_t
fuzz_count_list(ngx_derp_region_t *region, uint32_t list, uint32_t peer,
    ngx_uint_t kind)
{
    uint32_t          i, n, prev;
    ngx_derp_conn_t  *conn;

    n = 0;
    prev = 0;

    for (i = list; i; i = conn->next) {
        conn = &region->conns[i - 1];

        stub_assert(conn->kind == kind && conn->peer == peer
                    && conn->prev == prev && n < FUZZ_CAPACITY);
        prev = i;
        n++;
    }

    return n;
}


static void
fuzz_check_region(ngx_derp_region_t *region)
{
    uint32_t          i, b, n, keys, clients, listed;
    ngx_derp_peer_t  *peer;
    ngx_derp_zone_t  *zone;

    zone = region->zone;
    keys = 0;
    clients = 0;
    listed = 0;

    stub_assert(zone->dirty == 0 && (zone->sequence & 1) == 0);

    for (b = 0; b < zone->buckets; b++) {
        for (i = region->buckets[b]; i; i = peer->next) {
            peer = &region->peers[i - 1];

            stub_assert(ngx_derp_peer_bucket(region, peer->key) == b
                        && peer->route != NGX_DERP_NO_ROUTE);

            n = fuzz_count_list(region, peer->clients, i - 1,
                                NGX_DERP_CONN_CLIENT);
            stub_assert(n == peer->nclients);

            keys += (n != 0);
            clients += n;
            listed += n + fuzz_count_list(region, peer->links, i - 1,
                                          NGX_DERP_CONN_ANNOUNCED);
        }
    }

    for (i = 0; i < zone->conns_top; i++) {
        listed -= (region->conns[i].kind == NGX_DERP_CONN_CLIENT
                   || region->conns[i].kind == NGX_DERP_CONN_ANNOUNCED);
    }

    stub_assert(listed == 0 && zone->keys == keys && zone->clients == clients);
}


/* what this worker had was taken away session by session */

static void
fuzz_check_gone(ngx_derp_region_t *region)
{
    uint32_t  i;

    for (i = 0; i < region->zone->conns_top; i++) {
        stub_assert(region->conns[i].kind == NGX_DERP_CONN_FREE
                    || region->conns[i].slot != region->slot);
    }
}


/* each login has come to something, once */

static void
fuzz_check_logins(ngx_derp_counters_t *counters)
{
    uint64_t    logins;
    ngx_uint_t  i;

    logins = counters->logins;

    for (i = 0; i < NGX_DERP_LOGIN_FAILURES; i++) {
        logins += counters->login_failures[i];
    }

    stub_assert(counters->accepts == logins);
}


void
fuzz_check_finished(void)
{
    stub_assert(ngx_queue_empty(&fuzz_relay.all));
    stub_assert(ngx_derp_worker.held == 0 && ngx_derp_worker.queued == 0);
    stub_assert(ngx_queue_empty(&ngx_derp_worker.holding));

    stub_assert(fuzz_relay.region.member->gauges.clients == 0
                && fuzz_relay.region.member->gauges.home == 0
                && fuzz_relay.region.member->gauges.not_ideal == 0
                && fuzz_relay.region.member->gauges.watchers == 0);

    fuzz_check_logins(&fuzz_relay.region.member->counters);

    fuzz_check_region(&fuzz_relay.region);
    fuzz_check_gone(&fuzz_relay.region);
}


void
fuzz_check_empty(ngx_derp_region_t *region)
{
    uint32_t  i;

    fuzz_check_region(region);

    for (i = 0; i < region->zone->conns_top; i++) {
        stub_assert(region->conns[i].kind == NGX_DERP_CONN_FREE);
    }

    for (i = 0; i < region->zone->channels; i++) {
        stub_assert(region->channels[i].used == 0);
    }

    for (i = 0; i < NGX_DERP_MAX_LINKS; i++) {
        stub_assert(region->zone->leases[i].generation == 0);
    }

    stub_assert(region->zone->keys == 0);
}
