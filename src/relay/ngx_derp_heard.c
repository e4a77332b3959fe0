
/*
 * Who heard whom.
 */


#include "ngx_derp_heard.h"


#define NGX_DERP_HEARD_BUCKETS  16384

/* a bound on what strangers can have remembered, a worker */
#define NGX_DERP_HEARD_MAX      1000000


typedef struct ngx_derp_source_s  ngx_derp_source_t;

struct ngx_derp_source_s {
    u_char               key[NGX_DERP_KEY_LEN];
    uint64_t             hash;
    ngx_derp_handle_t    handle;        /* its presence, if it is there */
    ngx_derp_source_t   *next;          /* in the bucket */
    ngx_queue_t          edges;
};


/* one session that has received from one source */

struct ngx_derp_edge_s {
    ngx_derp_source_t   *source;
    ngx_derp_session_t  *session;
    ngx_derp_edge_t     *chain;         /* in the bucket */
    ngx_derp_edge_t     *next;          /* of the session's, the last to be
                                           noted first */
    ngx_derp_edge_t    **prev;
    ngx_queue_t          queue;         /* of the source's */
};


struct ngx_derp_heard_s {
    ngx_derp_source_t   *sources[NGX_DERP_HEARD_BUCKETS];
    ngx_derp_edge_t     *edges[NGX_DERP_HEARD_BUCKETS];
    ngx_uint_t           nedges;
    ngx_log_t           *log;
};


static ngx_derp_source_t **ngx_derp_heard_source(ngx_derp_heard_t *heard,
    u_char *key, uint64_t hash);
static ngx_derp_edge_t **ngx_derp_heard_edge(ngx_derp_heard_t *heard,
    ngx_derp_session_t *s, u_char *key, uint64_t hash);
static ngx_derp_edge_t *ngx_derp_heard_add(ngx_derp_session_t *s, u_char *key,
    uint64_t hash);
static void ngx_derp_heard_link(ngx_derp_session_t *s, ngx_derp_edge_t *edge);
static void ngx_derp_heard_unlink(ngx_derp_edge_t *edge);
static void ngx_derp_heard_remove(ngx_derp_heard_t *heard,
    ngx_derp_edge_t *edge);
static void ngx_derp_heard_drop(ngx_derp_heard_t *heard,
    ngx_derp_edge_t *edge);
static void ngx_derp_heard_free_source(ngx_derp_heard_t *heard,
    ngx_derp_source_t *source);
static void ngx_derp_heard_tell(ngx_derp_session_t *s, u_char *key);


#define ngx_derp_heard_bucket(n)                                              \
    ((ngx_uint_t) (n) & (NGX_DERP_HEARD_BUCKETS - 1))

/* an edge's place depends on both of its ends */
#define ngx_derp_heard_pair(hash, s)                                          \
    ngx_derp_heard_bucket((hash)                                              \
                          ^ ngx_derp_route_index((s)->route) * 0x9e3779b1u)


ngx_int_t
ngx_derp_heard_init(ngx_derp_relay_t *relay, ngx_log_t *log)
{
    relay->heard = ngx_calloc(sizeof(ngx_derp_heard_t), log);

    if (relay->heard == NULL) {
        return NGX_ERROR;
    }

    relay->heard->log = log;

    return NGX_OK;
}


void
ngx_derp_heard_destroy(ngx_derp_relay_t *relay)
{
    /* its edges went with their sessions, and its sources with these */

    ngx_free(relay->heard);
    relay->heard = NULL;
}


void
ngx_derp_heard_note(ngx_derp_session_t *s, u_char *key)
{
    uint64_t          hash;
    ngx_derp_edge_t  *edge;

    edge = s->edges;

    if (edge && ngx_memcmp(edge->source->key, key, NGX_DERP_KEY_LEN) == 0) {
        return;
    }

    hash = ngx_derp_key_hash(key, s->relay->region.zone->secret);

    edge = *ngx_derp_heard_edge(s->relay->heard, s, key, hash);

    /* who has left by now is told of when the journal is read that far */

    if (edge) {
        ngx_derp_heard_unlink(edge);

    } else {
        edge = ngx_derp_heard_add(s, key, hash);
    }

    if (edge) {
        ngx_derp_heard_link(s, edge);
    }
}


static void
ngx_derp_heard_link(ngx_derp_session_t *s, ngx_derp_edge_t *edge)
{
    edge->next = s->edges;
    edge->prev = &s->edges;

    if (s->edges) {
        s->edges->prev = &edge->next;
    }

    s->edges = edge;
}


static void
ngx_derp_heard_unlink(ngx_derp_edge_t *edge)
{
    *edge->prev = edge->next;

    if (edge->next) {
        edge->next->prev = edge->prev;
    }
}


static ngx_derp_edge_t *
ngx_derp_heard_add(ngx_derp_session_t *s, u_char *key, uint64_t hash)
{
    ngx_derp_edge_t    *edge, **chain;
    ngx_derp_heard_t   *heard;
    ngx_derp_source_t  *source, **link;

    heard = s->relay->heard;

    if (heard->nedges == NGX_DERP_HEARD_MAX) {
        return NULL;
    }

    edge = ngx_alloc(sizeof(ngx_derp_edge_t), heard->log);
    if (edge == NULL) {
        return NULL;
    }

    link = ngx_derp_heard_source(heard, key, hash);
    source = *link;

    if (source == NULL) {
        source = ngx_alloc(sizeof(ngx_derp_source_t), heard->log);
        if (source == NULL) {
            ngx_free(edge);
            return NULL;
        }

        ngx_memcpy(source->key, key, NGX_DERP_KEY_LEN);
        source->hash = hash;
        source->next = NULL;
        ngx_queue_init(&source->edges);

        source->handle.generation = 0;
        (void) ngx_derp_registry_find(&s->relay->region, key, &source->handle);

        ngx_derp_registry_hear(&s->relay->region, key);

        *link = source;
    }

    edge->source = source;
    edge->session = s;
    ngx_queue_insert_tail(&source->edges, &edge->queue);

    chain = &heard->edges[ngx_derp_heard_pair(hash, s)];
    edge->chain = *chain;
    *chain = edge;

    heard->nedges++;

    return edge;
}


static ngx_derp_source_t **
ngx_derp_heard_source(ngx_derp_heard_t *heard, u_char *key, uint64_t hash)
{
    ngx_derp_source_t  **p;

    for (p = &heard->sources[ngx_derp_heard_bucket(hash)];
         *p;
         p = &(*p)->next)
    {
        if (ngx_memcmp((*p)->key, key, NGX_DERP_KEY_LEN) == 0) {
            break;
        }
    }

    return p;
}


static ngx_derp_edge_t **
ngx_derp_heard_edge(ngx_derp_heard_t *heard, ngx_derp_session_t *s,
    u_char *key, uint64_t hash)
{
    ngx_derp_edge_t  **p;

    for (p = &heard->edges[ngx_derp_heard_pair(hash, s)];
         *p;
         p = &(*p)->chain)
    {
        if ((*p)->session == s
            && ngx_memcmp((*p)->source->key, key, NGX_DERP_KEY_LEN) == 0)
        {
            break;
        }
    }

    return p;
}


/* The source stays, even if nobody is left that has heard it. */

static void
ngx_derp_heard_remove(ngx_derp_heard_t *heard, ngx_derp_edge_t *edge)
{
    ngx_derp_edge_t     **p;
    ngx_derp_session_t   *s;

    s = edge->session;

    p = ngx_derp_heard_edge(heard, s, edge->source->key, edge->source->hash);
    *p = edge->chain;

    ngx_queue_remove(&edge->queue);

    ngx_derp_heard_unlink(edge);

    heard->nedges--;
    ngx_free(edge);
}


static void
ngx_derp_heard_free_source(ngx_derp_heard_t *heard, ngx_derp_source_t *source)
{
    ngx_derp_source_t  **p;

    p = ngx_derp_heard_source(heard, source->key, source->hash);
    *p = source->next;

    ngx_free(source);
}


void
ngx_derp_heard_gone(ngx_derp_relay_t *relay, u_char *key)
{
    uint64_t             hash;
    ngx_queue_t         *q;
    ngx_derp_edge_t     *edge;
    ngx_derp_source_t   *source;
    ngx_derp_session_t  *s;

    hash = ngx_derp_key_hash(key, relay->region.zone->secret);
    source = *ngx_derp_heard_source(relay->heard, key, hash);

    if (source == NULL) {
        return;
    }

    while (!ngx_queue_empty(&source->edges)) {
        q = ngx_queue_head(&source->edges);
        edge = ngx_queue_data(q, ngx_derp_edge_t, queue);
        s = edge->session;

        ngx_derp_heard_remove(relay->heard, edge);
        ngx_derp_heard_tell(s, key);
    }

    ngx_derp_heard_free_source(relay->heard, source);
}


static void
ngx_derp_heard_tell(ngx_derp_session_t *s, u_char *key)
{
    u_char  frame[NGX_DERP_PEER_GONE_FRAME];

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                   "derp client is told that a peer has left");

    ngx_derp_put_peer_gone(frame, key, NGX_DERP_GONE_DISCONNECTED);
    ngx_derp_outbox_frame(s, frame, sizeof(frame));

    s->relay->region.member->counters.peer_gone_disconnected++;
}


void
ngx_derp_heard_sweep(ngx_derp_relay_t *relay)
{
    u_char              key[NGX_DERP_KEY_LEN];
    ngx_uint_t          i;
    ngx_derp_route_t    route;
    ngx_derp_source_t  *source, *next;

    relay->sweep = 0;

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, relay->heard->log, 0,
                   "derp_relay \"%V\" looks up whom its clients have heard",
                   &relay->name);

    for (i = 0; i < NGX_DERP_HEARD_BUCKETS; i++) {

        for (source = relay->heard->sources[i]; source; source = next) {
            next = source->next;

            ngx_memcpy(key, source->key, NGX_DERP_KEY_LEN);

            /* a key that has left and come again has left, too */

            route = source->handle.generation
                    ? ngx_derp_registry_route(&relay->region, &source->handle)
                    : ngx_derp_registry_find(&relay->region, key,
                                             &source->handle);

            if (route == NGX_DERP_ROUTE_AGAIN) {
                relay->sweep = 1;
                return;
            }

            if (route == NGX_DERP_NO_ROUTE) {
                ngx_derp_heard_gone(relay, key);
            }
        }
    }
}


void
ngx_derp_heard_forget(ngx_derp_session_t *s)
{
    while (s->edges) {
        ngx_derp_heard_drop(s->relay->heard, s->edges);
    }
}


/* The source goes with the last that has heard it. */

static void
ngx_derp_heard_drop(ngx_derp_heard_t *heard, ngx_derp_edge_t *edge)
{
    ngx_derp_source_t  *source;

    source = edge->source;

    ngx_derp_heard_remove(heard, edge);

    if (ngx_queue_empty(&source->edges)) {
        ngx_derp_heard_free_source(heard, source);
    }
}
