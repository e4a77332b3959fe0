
/*
 * Watchers of a relay's clients.
 */


#include "ngx_derp_watch.h"
#include "ngx_derp_worker.h"


/* what one watcher is told in one turn */
#define NGX_DERP_WATCH_BUDGET  1024

/* and what is copied at once while the registry is locked */
#define NGX_DERP_WATCH_SLICE   64

#define NGX_DERP_FLOODED       ((uint32_t) -1)


typedef struct {
    ngx_queue_t           queue;        /* in the relay's watchers */
    ngx_derp_session_t   *session;
    uint64_t              cursor;       /* in the journal */
    uint32_t              flood;        /* the next peer to be told of */
    uint32_t              passed;       /* where a flood before was, or 0 */
} ngx_derp_watch_t;


static ngx_derp_watch_t *ngx_derp_watch_find(ngx_derp_session_t *s);
static ngx_uint_t ngx_derp_watch_tell(ngx_derp_watch_t *w);
static ngx_int_t ngx_derp_watch_changes(ngx_derp_watch_t *w, ngx_uint_t *n);
static ngx_int_t ngx_derp_watch_flood(ngx_derp_watch_t *w, ngx_uint_t *n);
static void ngx_derp_watch_present(ngx_derp_session_t *s, u_char *key,
    u_char *addr, in_port_t port, ngx_uint_t flags);
static void ngx_derp_watch_gone(ngx_derp_session_t *s, u_char *key);


ngx_int_t
ngx_derp_watch_start(ngx_derp_session_t *s)
{
    ngx_derp_watch_t  *w;

    w = ngx_derp_watch_find(s);

    if (w == NULL) {
        w = ngx_alloc(sizeof(ngx_derp_watch_t), s->connection->log);
        if (w == NULL) {
            return NGX_ERROR;
        }

        w->session = s;
        s->watches = 1;

        ngx_queue_insert_tail(&s->relay->watchers, &w->queue);
        s->relay->region.member->gauges.watchers++;

        ngx_derp_region_watch(&s->relay->region, 1);

        w->cursor = ngx_derp_journal_cursor(&s->relay->region);
        w->passed = 0;

    } else {

        /* what it has been told of may have changed, and is still to be told */

        w->passed = ngx_max(w->passed, w->flood);
    }

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                   "derp watcher begins, journal:%uL passed:%uD",
                   w->cursor, w->passed);

    w->flood = 0;

    ngx_derp_worker_post();

    return NGX_OK;
}


void
ngx_derp_watch_stop(ngx_derp_session_t *s)
{
    ngx_derp_watch_t  *w;

    w = ngx_derp_watch_find(s);

    if (w == NULL) {
        return;
    }

    s->relay->region.member->gauges.watchers--;

    ngx_queue_remove(&w->queue);
    ngx_free(w);
    s->watches = 0;

    if (ngx_queue_empty(&s->relay->watchers)) {
        ngx_derp_region_watch(&s->relay->region, 0);
    }
}


/* They are few, and a session is to be small. */

static ngx_derp_watch_t *
ngx_derp_watch_find(ngx_derp_session_t *s)
{
    ngx_queue_t       *q;
    ngx_derp_watch_t  *w;

    if (!s->watches) {
        return NULL;
    }

    for (q = ngx_queue_head(&s->relay->watchers); ; q = ngx_queue_next(q)) {
        w = ngx_queue_data(q, ngx_derp_watch_t, queue);

        if (w->session == s) {
            return w;
        }
    }
}


ngx_uint_t
ngx_derp_watch_run(ngx_derp_relay_t *relay)
{
    ngx_uint_t         more;
    ngx_queue_t       *q;
    ngx_derp_watch_t  *w;

    more = 0;

    for (q = ngx_queue_head(&relay->watchers);
         q != ngx_queue_sentinel(&relay->watchers);
         q = ngx_queue_next(q))
    {
        w = ngx_queue_data(q, ngx_derp_watch_t, queue);

        more |= ngx_derp_watch_tell(w);
    }

    return more;
}


static ngx_uint_t
ngx_derp_watch_tell(ngx_derp_watch_t *w)
{
    ngx_int_t            rc;
    ngx_uint_t           n;
    ngx_derp_session_t  *s;

    s = w->session;
    n = NGX_DERP_WATCH_BUDGET;

    while (n && !s->out.blocked && s->state != NGX_DERP_STATE_CLOSING) {

        rc = ngx_derp_watch_changes(w, &n);

        if (rc == NGX_DECLINED) {

            /* it is to begin afresh, as after any loss of the connection */

            ngx_log_error(NGX_LOG_ERR, s->connection->log, 0,
                          "derp watcher has fallen behind");
            ngx_derp_session_fail(s, "fell behind as a watcher");
            return 0;
        }

        if (rc != NGX_DONE) {
            continue;
        }

        if (w->flood == NGX_DERP_FLOODED) {
            return 0;
        }

        if (ngx_derp_watch_flood(w, &n) == NGX_AGAIN) {
            return 0;
        }
    }

    /* a blocked one goes on when its socket takes more */

    return n == 0;
}


/* All that the journal has, but what the flood has still to come to. */

static ngx_int_t
ngx_derp_watch_changes(ngx_derp_watch_t *w, ngx_uint_t *n)
{
    ngx_int_t            rc;
    ngx_derp_entry_t     entry;
    ngx_derp_session_t  *s;

    s = w->session;

    while (*n && !s->out.blocked) {

        rc = ngx_derp_journal_read(&s->relay->region, &w->cursor, &entry);

        if (rc != NGX_OK) {
            return rc;
        }

        if (entry.peer >= w->flood && entry.peer >= w->passed) {
            continue;
        }

        if (entry.what & NGX_DERP_JOURNAL_PRESENT) {
            ngx_derp_watch_present(s, entry.key, entry.addr, entry.port,
                                   entry.flags);
            (*n)--;
        }

        if (entry.what & NGX_DERP_JOURNAL_GONE) {
            ngx_derp_watch_gone(s, entry.key);
            (*n)--;
        }
    }

    return NGX_AGAIN;
}


/* NGX_AGAIN: in a later turn, when the zone's lock is to be had. */

static ngx_int_t
ngx_derp_watch_flood(ngx_derp_watch_t *w, ngx_uint_t *n)
{
    ngx_uint_t           i, count;
    ngx_derp_client_t    clients[NGX_DERP_WATCH_SLICE], *client;
    ngx_derp_session_t  *s;

    s = w->session;
    count = ngx_min(*n, NGX_DERP_WATCH_SLICE);

    switch (ngx_derp_registry_clients(&s->relay->region, w->cursor, &w->flood,
                                      clients, &count))
    {
    case NGX_OK:
        break;

    case NGX_DONE:
        ngx_log_debug1(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                       "derp watcher knows all clients, journal:%uL",
                       w->cursor);

        w->flood = NGX_DERP_FLOODED;
        return NGX_OK;

    case NGX_AGAIN:
        return NGX_AGAIN;

    default: /* NGX_DECLINED: the journal comes first */
        return NGX_OK;
    }

    for (i = 0; i < count; i++) {
        client = &clients[i];

        ngx_derp_watch_present(s, client->key, client->addr, client->port,
                               client->flags);
    }

    *n -= count;

    return NGX_OK;
}


static void
ngx_derp_watch_present(ngx_derp_session_t *s, u_char *key, u_char *addr,
    in_port_t port, ngx_uint_t flags)
{
    u_char  frame[NGX_DERP_PEER_PRESENT_FRAME];

    ngx_derp_put_peer_present(frame, key, addr, port, flags);
    ngx_derp_outbox_frame(s, frame, sizeof(frame));
}


static void
ngx_derp_watch_gone(ngx_derp_session_t *s, u_char *key)
{
    u_char  frame[NGX_DERP_PEER_GONE_FRAME];

    ngx_derp_put_peer_gone(frame, key, NGX_DERP_GONE_DISCONNECTED);
    ngx_derp_outbox_frame(s, frame, sizeof(frame));
}
