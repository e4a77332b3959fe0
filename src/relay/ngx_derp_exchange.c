
/*
 * The exchange of packets with other workers.
 */


#include "ngx_derp_exchange.h"
#include "ngx_derp_inbox.h"
#include "ngx_derp_route.h"
#include "ngx_derp_worker.h"


/* ticks after which a channel is idle, where others have none of their own */
#define NGX_DERP_IDLE             2

/* what is taken of a channel in one turn, in bytes */
#define NGX_DERP_EXCHANGE_BUDGET  (256 * 1024)

/* what may be parked for one worker, in bytes of buffers */
#define NGX_DERP_EXCHANGE_PARK    (2 * 1024 * 1024)


typedef struct {
    ngx_derp_producer_t      producer;
    ngx_derp_producer_t      left;          /* to be closed, when it can be */
    ngx_queue_t              waiting;       /* sessions */
    ngx_queue_t              parked;        /* buffers: a record, its frames */
    size_t                   nparked;       /* bytes of these */
    ngx_event_t              stall;
    ngx_derp_relay_t        *relay;
    uint64_t                 seen;          /* the consumer's head, */
    ngx_msec_t               looked;        /* when it was last looked at */
    ngx_msec_t               stuck;         /* for how long it has not moved */
    ngx_uint_t               idle;          /* ticks since the last frame */
    unsigned                 stalled:1;     /* what comes for it is dropped */
    unsigned                 ring:1;        /* written to in this turn */
} ngx_derp_outlet_t;


typedef struct {
    ngx_derp_consumer_t      consumer;
    uint64_t                 mark;          /* the tail as it was noted */
    uint64_t                 born;          /* of who waits for the journal */
} ngx_derp_inlet_t;


struct ngx_derp_exchange_s {
    ngx_derp_outlet_t       *outlets[NGX_DERP_SLOTS];
    ngx_uint_t               noutlets;      /* slots up to the last of them */
    ngx_derp_inlet_t         inlets[NGX_DERP_SLOTS + 1];    /* and the inbox */
    ngx_uint_t               ninlets;
    uint32_t                 known;         /* state of the channels */
    uint32_t                 shortage;      /* of channels, as last seen */
    ngx_uint_t               nparked;       /* records, of all outlets */
    ngx_log_t               *log;
};


static ngx_derp_outlet_t *ngx_derp_exchange_outlet(ngx_derp_relay_t *relay,
    ngx_uint_t slot);
static ngx_int_t ngx_derp_exchange_open(ngx_derp_relay_t *relay,
    ngx_derp_outlet_t *outlet, ngx_uint_t slot);
static void ngx_derp_exchange_look(ngx_derp_outlet_t *outlet);
static ngx_int_t ngx_derp_exchange_reserve(ngx_derp_session_t *s,
    ngx_derp_outlet_t *outlet, ngx_derp_record_t *record, u_char **p,
    ngx_uint_t *parked);
static ngx_int_t ngx_derp_exchange_put(ngx_derp_outlet_t *outlet,
    ngx_derp_record_t *record, u_char **p);
static void ngx_derp_exchange_commit(ngx_derp_outlet_t *outlet);
static ngx_int_t ngx_derp_exchange_wait(ngx_derp_session_t *s,
    ngx_derp_outlet_t *outlet, size_t len);
static u_char *ngx_derp_exchange_park(ngx_derp_session_t *s,
    ngx_derp_outlet_t *outlet, ngx_derp_record_t *record);
static void ngx_derp_exchange_unpark(ngx_derp_outlet_t *outlet);
static void ngx_derp_exchange_drop_parked(ngx_derp_outlet_t *outlet,
    ngx_derp_session_t *s, ngx_derp_drop_e reason);
static void ngx_derp_exchange_put_back(ngx_derp_outlet_t *outlet,
    ngx_derp_buf_t *buf);
static void ngx_derp_exchange_stalled(ngx_derp_outlet_t *outlet);
static ngx_uint_t ngx_derp_exchange_has_room(ngx_derp_outlet_t *outlet);
static void ngx_derp_exchange_stall_handler(ngx_event_t *ev);
static void ngx_derp_exchange_resume(ngx_derp_outlet_t *outlet);
static void ngx_derp_exchange_close(ngx_derp_relay_t *relay,
    ngx_derp_outlet_t *outlet);
static void ngx_derp_exchange_tidy_outlet(ngx_derp_relay_t *relay,
    ngx_derp_outlet_t *outlet, ngx_uint_t slot, ngx_uint_t shortage);
static void ngx_derp_exchange_accept(ngx_derp_relay_t *relay);
static ngx_uint_t ngx_derp_exchange_take(ngx_derp_relay_t *relay,
    ngx_derp_inlet_t *inlet);
static void ngx_derp_exchange_harmed(ngx_derp_relay_t *relay,
    ngx_derp_inlet_t *inlet);


/* of each frame of a record: what is not packet */
#define ngx_derp_exchange_head(record)                                        \
    ((record)->route & NGX_DERP_ROUTE_LINK ? NGX_DERP_FORWARD_OFFSET          \
                                           : NGX_DERP_PACKET_OFFSET)


ngx_int_t
ngx_derp_exchange_init(ngx_derp_relay_t *relay, ngx_log_t *log)
{
    /* not ngx_calloc(), which would touch the ends of all slots */

    relay->exchange = calloc(1, sizeof(ngx_derp_exchange_t));

    if (relay->exchange == NULL) {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                      "calloc() of a derp exchange failed");
        return NGX_ERROR;
    }

    relay->exchange->log = log;
    relay->exchange->shortage = relay->region.zone->channels_short;
    relay->exchange->known = relay->region.zone->channels_changed - 1;

    if (ngx_derp_inbox_accept(&relay->region,
                              &relay->exchange->inlets[0].consumer)
        == NGX_OK)
    {
        relay->exchange->ninlets = 1;
    }

    return NGX_OK;
}


ngx_int_t
ngx_derp_exchange_send(ngx_derp_session_t *s, ngx_derp_route_t route,
    ngx_derp_span_t *span, ngx_uint_t type, u_char *source)
{
    u_char             *p;
    ngx_int_t           rc;
    ngx_uint_t          slot, parked;
    ngx_derp_drop_e     reason;
    ngx_derp_record_t   record;
    ngx_derp_outlet_t  *outlet;

    parked = 0;
    reason = NGX_DERP_DROP_CHANNEL;
    slot = ngx_derp_route_slot(route);

    outlet = ngx_derp_exchange_outlet(s->relay, slot);

    if (outlet == NULL) {
        goto dropped;
    }

    if (outlet->producer.channel == NULL) {

        switch (ngx_derp_exchange_open(s->relay, outlet, slot)) {

        case NGX_OK:
            break;

        case NGX_AGAIN:
            if (!s->relay->stalled) {
                return ngx_derp_session_wait(s);
            }

            goto dropped;

        case NGX_DECLINED:
            reason = NGX_DERP_DROP_GONE_DISCONNECTED;
            goto dropped;

        default:
            goto dropped;
        }
    }

    outlet->idle = 0;

    ngx_derp_span_cut(span, ngx_derp_channel_span(outlet->producer.size));

    record.len = span->last - span->pos;
    record.packets = span->packets;
    record.route = route;
    record.born = s->born;

    if (!outlet->ring) {
        outlet->ring = 1;
        ngx_derp_worker_post();
        ngx_derp_exchange_look(outlet);
    }

    rc = ngx_derp_exchange_reserve(s, outlet, &record, &p, &parked);

    if (rc == NGX_AGAIN) {
        return NGX_AGAIN;
    }

    if (rc != NGX_OK) {
        goto dropped;
    }

    ngx_memcpy(p, span->pos, record.len);
    ngx_derp_span_turn(span, p, type, source);

    if (!parked) {
        ngx_derp_exchange_commit(outlet);
    }

    return NGX_OK;

dropped:

    ngx_derp_span_drop(span, &s->relay->region, reason);

    return NGX_OK;
}


/*
 * Room for a record in the channel, or behind what is parked: then *parked is set.
 * NGX_AGAIN: the session waits; NGX_DECLINED: the record must be dropped.
 */

static ngx_int_t
ngx_derp_exchange_reserve(ngx_derp_session_t *s, ngx_derp_outlet_t *outlet,
    ngx_derp_record_t *record, u_char **p, ngx_uint_t *parked)
{
    ngx_int_t  rc;

    *parked = 0;

    for ( ;; ) {

        rc = NGX_AGAIN;

        if (!ngx_queue_empty(&outlet->parked)) {
            ngx_derp_exchange_unpark(outlet);
        }

        if (ngx_queue_empty(&outlet->parked)) {
            rc = ngx_derp_exchange_put(outlet, record, p);
        }

        if (rc != NGX_AGAIN) {
            return rc;
        }

        rc = ngx_derp_exchange_wait(s, outlet, record->len);

        if (rc == NGX_BUSY) {
            *parked = 1;
            *p = ngx_derp_exchange_park(s, outlet, record);

            return *p ? NGX_OK : NGX_DECLINED;
        }

        if (rc != NGX_OK) {
            return rc;
        }
    }
}


static ngx_int_t
ngx_derp_exchange_put(ngx_derp_outlet_t *outlet, ngx_derp_record_t *record,
    u_char **p)
{
    if (ngx_derp_inbox_enter(&outlet->producer) != NGX_OK) {
        ngx_derp_worker_complain(outlet->relay, "finds an inbox locked by "
                                 "a worker that does not go on, packets "
                                 "for it are lost");
        return NGX_DECLINED;
    }

    *p = ngx_derp_channel_put(&outlet->producer, record->route, record->len,
                              record->packets, record->born);

    if (*p == NULL) {
        ngx_derp_inbox_leave(&outlet->producer);
        return NGX_AGAIN;
    }

    return NGX_OK;
}


static void
ngx_derp_exchange_commit(ngx_derp_outlet_t *outlet)
{
    ngx_derp_channel_publish(&outlet->producer);
    ngx_derp_inbox_leave(&outlet->producer);
}


/*
 * Once in a turn that writes to it, and while anybody waits.  A worker that has
 * itself been put off for long must not blame that on the other one, so what
 * counts is the time that it was there to look.
 */

static void
ngx_derp_exchange_look(ngx_derp_outlet_t *outlet)
{
    uint64_t             head;
    ngx_msec_t           elapsed;
    ngx_derp_channel_t  *ch;

    ch = outlet->producer.channel;
    head = ngx_derp_load_acquire(&ch->head);
    elapsed = ngx_current_msec - outlet->looked;

    outlet->looked = ngx_current_msec;

    if (head != outlet->seen || head == ngx_derp_load(&ch->tail)) {
        outlet->seen = head;
        outlet->stuck = 0;
        outlet->stalled = 0;

    } else {
        outlet->stuck += ngx_min(elapsed, 2 * NGX_DERP_SLOW);
    }
}


/* What is not read need not be kept: that costs a copy, and another. */

ngx_int_t
ngx_derp_exchange_test(ngx_derp_session_t *s)
{
    ngx_uint_t            slot;
    ngx_derp_route_t      route;
    ngx_derp_outlet_t    *outlet;
    ngx_derp_producer_t  *p;

    route = ngx_derp_registry_route(&s->relay->region, &s->last);
    slot = ngx_derp_route_slot(route);

    if (route == NGX_DERP_NO_ROUTE || slot == s->relay->region.slot) {
        return NGX_OK;
    }

    outlet = s->relay->exchange->outlets[slot];

    if (outlet == NULL || outlet->producer.channel == NULL) {
        return NGX_OK;
    }

    p = &outlet->producer;

    if (p->lock
        || p->tail - p->head <= p->size / 2
        || ngx_derp_channel_broken(&s->relay->region, p))
    {
        return NGX_OK;
    }

    return ngx_derp_exchange_wait(s, outlet, p->size / 2) == NGX_AGAIN
           ? NGX_AGAIN : NGX_OK;
}


static ngx_derp_outlet_t *
ngx_derp_exchange_outlet(ngx_derp_relay_t *relay, ngx_uint_t slot)
{
    ngx_derp_outlet_t    *outlet;
    ngx_derp_exchange_t  *ex;

    ex = relay->exchange;
    outlet = ex->outlets[slot];

    if (outlet && outlet->producer.channel
        && ngx_derp_channel_broken(&relay->region, &outlet->producer))
    {
        ngx_derp_exchange_close(relay, outlet);
    }

    if (outlet) {
        return outlet;
    }

    outlet = ngx_calloc(sizeof(ngx_derp_outlet_t), ex->log);
    if (outlet == NULL) {
        return NULL;
    }

    ngx_queue_init(&outlet->waiting);
    ngx_queue_init(&outlet->parked);

    outlet->relay = relay;
    outlet->stall.handler = ngx_derp_exchange_stall_handler;
    outlet->stall.data = outlet;
    outlet->stall.log = ex->log;

    ex->outlets[slot] = outlet;
    ex->noutlets = ngx_max(ex->noutlets, slot + 1);

    return outlet;
}


/* An inbox takes no lock of the zone's, either. */

static ngx_int_t
ngx_derp_exchange_open(ngx_derp_relay_t *relay, ngx_derp_outlet_t *outlet,
    ngx_uint_t slot)
{
    ngx_int_t  rc, inbox;

    rc = NGX_OK;

    if (outlet->left.channel) {
        rc = ngx_derp_channel_close(&relay->region, &outlet->left);
    }

    if (rc == NGX_OK) {
        rc = ngx_derp_channel_open(&relay->region, slot, &outlet->producer);
    }

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, relay->exchange->log, 0,
                   "derp channel to slot %ui, rc:%i", slot, rc);

    if (rc == NGX_OK || rc == NGX_DECLINED) {
        return rc;
    }

    inbox = ngx_derp_inbox_open(&relay->region, slot, &outlet->producer);

    if (inbox != NGX_BUSY) {
        return inbox;
    }

    if (rc == NGX_BUSY) {
        ngx_derp_worker_complain(relay, "has no channel left, packets to "
                                 "other workers are lost: "
                                 "increase its \"zone\"");
    }

    return rc;
}


/*
 * NGX_AGAIN: the session waits; NGX_OK: there is room by now; NGX_BUSY: the record
 * should be parked; NGX_DECLINED: there is no use in waiting.
 */

static ngx_int_t
ngx_derp_exchange_wait(ngx_derp_session_t *s, ngx_derp_outlet_t *outlet,
    size_t len)
{
    ngx_queue_t     *q;
    ngx_derp_buf_t  *first;

    ngx_derp_exchange_look(outlet);

    if (outlet->stuck >= NGX_DERP_STALL) {
        ngx_derp_exchange_stalled(outlet);
        return NGX_DECLINED;
    }

    /* what a waiting session has read is held meanwhile */

    if (ngx_derp_worker.held + ngx_derp_worker.parked > s->relay->buffers) {
        return NGX_DECLINED;
    }

    outlet->ring = 1;
    ngx_derp_worker_post();

    if (!ngx_queue_empty(&outlet->parked)) {
        q = ngx_queue_head(&outlet->parked);
        first = ngx_queue_data(q, ngx_derp_buf_t, queue);
        len = first->last - first->pos - sizeof(ngx_derp_record_t);
    }

    if (ngx_derp_channel_want(&outlet->producer, len) == NGX_OK) {
        return NGX_OK;
    }

    if (!outlet->stall.timer_set) {
        ngx_add_timer(&outlet->stall, NGX_DERP_SLOW);
    }

    /* a relay's packets may be of sources whose end comes by another way */

    if (outlet->stuck >= NGX_DERP_SLOW
        && outlet->nparked < NGX_DERP_EXCHANGE_PARK
        && !s->mesh)
    {
        return NGX_BUSY;
    }

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                   "derp session waits for worker %P, stuck:%M",
                   ngx_derp_slot_pid(outlet->producer.channel->to),
                   outlet->stuck);

    ngx_queue_insert_tail(&outlet->waiting, &s->waiting);
    s->paused = 1;

    return NGX_AGAIN;
}


/* Room for the frames behind what is parked already; NULL with no memory. */

static u_char *
ngx_derp_exchange_park(ngx_derp_session_t *s, ngx_derp_outlet_t *outlet,
    ngx_derp_record_t *record)
{
    u_char          *p;
    ngx_derp_buf_t  *buf;

    buf = ngx_derp_buf_get(&ngx_derp_worker.bufs,
                           sizeof(ngx_derp_record_t) + record->len,
                           s->connection->log);
    if (buf == NULL) {
        return NULL;
    }

    p = ngx_cpymem(buf->pos, record, sizeof(ngx_derp_record_t));

    buf->last = p + record->len;
    buf->owner = s;

    ngx_queue_insert_tail(&outlet->parked, &buf->queue);

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                   "derp packets parked:%uD size:%uD",
                   record->packets, record->len);

    outlet->nparked += ngx_derp_buf_size(buf);
    outlet->relay->exchange->nparked++;
    ngx_derp_worker.parked += ngx_derp_buf_size(buf);

    return p;
}


/* As much as there is room for. */

static void
ngx_derp_exchange_unpark(ngx_derp_outlet_t *outlet)
{
    u_char             *p;
    ngx_int_t           rc;
    ngx_queue_t        *q;
    ngx_derp_buf_t     *buf;
    ngx_derp_record_t   record;

    while (!ngx_queue_empty(&outlet->parked)) {
        q = ngx_queue_head(&outlet->parked);
        buf = ngx_queue_data(q, ngx_derp_buf_t, queue);

        ngx_memcpy(&record, buf->pos, sizeof(ngx_derp_record_t));

        rc = ngx_derp_exchange_put(outlet, &record, &p);

        if (rc == NGX_OK) {
            ngx_memcpy(p, buf->pos + sizeof(ngx_derp_record_t), record.len);
            ngx_derp_exchange_commit(outlet);
            ngx_derp_exchange_put_back(outlet, buf);

            outlet->ring = 1;
            continue;
        }

        if (rc == NGX_DECLINED
            || ngx_derp_channel_want(&outlet->producer, record.len)
               == NGX_AGAIN)
        {
            return;
        }
    }
}


/* Of one sender, or of all. */

static void
ngx_derp_exchange_drop_parked(ngx_derp_outlet_t *outlet, ngx_derp_session_t *s,
    ngx_derp_drop_e reason)
{
    ngx_queue_t        *q, *next;
    ngx_derp_buf_t     *buf;
    ngx_derp_span_t     span;
    ngx_derp_record_t   record;

    for (q = ngx_queue_head(&outlet->parked);
         q != ngx_queue_sentinel(&outlet->parked);
         q = next)
    {
        next = ngx_queue_next(q);
        buf = ngx_queue_data(q, ngx_derp_buf_t, queue);

        if (s && buf->owner != s) {
            continue;
        }

        ngx_memcpy(&record, buf->pos, sizeof(ngx_derp_record_t));

        span.pos = buf->pos + sizeof(ngx_derp_record_t);
        span.last = buf->last;
        span.packets = record.packets;
        span.head = ngx_derp_exchange_head(&record);

        ngx_derp_span_drop(&span, &outlet->relay->region, reason);
        ngx_derp_exchange_put_back(outlet, buf);
    }
}


static void
ngx_derp_exchange_put_back(ngx_derp_outlet_t *outlet, ngx_derp_buf_t *buf)
{
    ngx_queue_remove(&buf->queue);

    outlet->nparked -= ngx_derp_buf_size(buf);
    outlet->relay->exchange->nparked--;
    ngx_derp_worker.parked -= ngx_derp_buf_size(buf);

    ngx_derp_buf_put(&ngx_derp_worker.bufs, buf);
}


void
ngx_derp_exchange_forget(ngx_derp_session_t *s)
{
    ngx_uint_t            i;
    ngx_derp_exchange_t  *ex;

    ex = s->relay->exchange;

    for (i = 0; ex->nparked && i < ex->noutlets; i++) {
        if (ex->outlets[i]) {
            ngx_derp_exchange_drop_parked(ex->outlets[i], s,
                                          NGX_DERP_DROP_GONE_DISCONNECTED);
        }
    }
}


static ngx_uint_t
ngx_derp_exchange_has_room(ngx_derp_outlet_t *outlet)
{
    ngx_derp_producer_t  *p;

    if (ngx_queue_empty(&outlet->waiting) && ngx_queue_empty(&outlet->parked)) {
        return 0;
    }

    p = &outlet->producer;

    if (ngx_derp_load(&p->channel->wanted) == 0) {
        return 1;
    }

    /* in an inbox it may be another's mark, who came to wait after that */

    return p->lock && ngx_derp_load(&p->channel->head) != outlet->seen;
}


static void
ngx_derp_exchange_stall_handler(ngx_event_t *ev)
{
    ngx_derp_outlet_t  *outlet;

    outlet = ev->data;

    if ((ngx_queue_empty(&outlet->waiting) && ngx_queue_empty(&outlet->parked))
        || outlet->producer.channel == NULL)
    {
        return;
    }

    ngx_derp_exchange_look(outlet);

    if (outlet->stuck == 0) {
        ngx_derp_exchange_resume(outlet);
        return;
    }

    if (outlet->stuck >= NGX_DERP_STALL) {
        ngx_derp_exchange_stalled(outlet);

    } else {
        ngx_add_timer(ev, NGX_DERP_SLOW);
    }

    /* they go on, and what they send there is parked or dropped */

    if (outlet->nparked < NGX_DERP_EXCHANGE_PARK) {
        ngx_derp_session_resume_all(&outlet->waiting);
    }
}


static void
ngx_derp_exchange_stalled(ngx_derp_outlet_t *outlet)
{
    if (outlet->stalled) {
        return;
    }

    ngx_log_error(NGX_LOG_WARN, outlet->stall.log, 0,
                  "derp worker %P takes no packets, they are dropped",
                  ngx_derp_slot_pid(outlet->producer.channel->to));

    outlet->stalled = 1;

    ngx_derp_exchange_drop_parked(outlet, NULL, NGX_DERP_DROP_CHANNEL);
}


static void
ngx_derp_exchange_resume(ngx_derp_outlet_t *outlet)
{
    if (outlet->stall.timer_set) {
        ngx_del_timer(&outlet->stall);
    }

    ngx_derp_exchange_unpark(outlet);

    if (ngx_queue_empty(&outlet->parked)) {
        ngx_derp_session_resume_all(&outlet->waiting);

    } else {
        ngx_add_timer(&outlet->stall, NGX_DERP_SLOW);
    }
}


static void
ngx_derp_exchange_close(ngx_derp_relay_t *relay, ngx_derp_outlet_t *outlet)
{
    if (outlet->producer.lock == NULL) {

        /* an earlier one was let go of before this one was opened */

        outlet->left = outlet->producer;
        (void) ngx_derp_channel_close(&relay->region, &outlet->left);
    }

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, relay->exchange->log, 0,
                   "derp channel to worker %P is let go of, parked:%uz",
                   ngx_derp_slot_pid(outlet->producer.channel->to),
                   outlet->nparked);

    outlet->producer.channel = NULL;
    outlet->stalled = 0;
    outlet->stuck = 0;
    outlet->ring = 0;

    ngx_derp_exchange_drop_parked(outlet, NULL,
                                  NGX_DERP_DROP_GONE_DISCONNECTED);
    ngx_derp_exchange_resume(outlet);
}


ngx_uint_t
ngx_derp_exchange_receive(ngx_derp_relay_t *relay)
{
    ngx_uint_t            i, more, slot;
    ngx_derp_inlet_t     *inlet;
    ngx_derp_outlet_t    *outlet;
    ngx_derp_exchange_t  *ex;

    ex = relay->exchange;

    if (ngx_derp_load_acquire(&relay->region.zone->channels_changed)
        != ex->known)
    {
        ngx_derp_exchange_accept(relay);
    }

    more = 0;

    for (i = 0; i < ex->ninlets; i++) {
        inlet = &ex->inlets[i];

        more |= ngx_derp_exchange_take(relay, inlet);

        slot = ngx_derp_channel_wanted(&inlet->consumer);

        if (slot == relay->region.slot) {

            /* the inbox: any of the others may be the one that waits */

            relay->region.everybody = 1;

        } else if (slot != NGX_DERP_NO_SLOT) {
            ngx_derp_slot_ring(slot, relay->region.bell, ex->log);
        }
    }

    for (i = 0; i < ex->noutlets; i++) {
        outlet = ex->outlets[i];

        if (outlet && ngx_derp_exchange_has_room(outlet)) {
            ngx_derp_exchange_resume(outlet);
        }
    }

    return more;
}


void
ngx_derp_exchange_mark(ngx_derp_relay_t *relay)
{
    ngx_uint_t            i;
    ngx_derp_inlet_t     *inlet;
    ngx_derp_exchange_t  *ex;

    ex = relay->exchange;

    if (ngx_derp_load_acquire(&relay->region.zone->channels_changed)
        != ex->known)
    {
        ngx_derp_exchange_accept(relay);
    }

    for (i = 0; i < ex->ninlets; i++) {
        inlet = &ex->inlets[i];
        inlet->mark = ngx_derp_load_acquire(&inlet->consumer.channel->tail);
    }
}


/*
 * Who waits was born at that head, or later: what stands before its packet in
 * the channel is all that was sent in it until then.
 */

uint64_t
ngx_derp_exchange_limit(ngx_derp_relay_t *relay)
{
    uint64_t              limit;
    ngx_uint_t            i;
    ngx_derp_inlet_t     *inlet;
    ngx_derp_exchange_t  *ex;

    ex = relay->exchange;
    limit = relay->head;

    for (i = 0; i < ex->ninlets; i++) {
        inlet = &ex->inlets[i];

        if (inlet->born) {
            limit = ngx_min(limit, inlet->born);

        } else if (inlet->consumer.head < inlet->mark) {
            return relay->cursor;
        }
    }

    return limit;
}


static void
ngx_derp_exchange_accept(ngx_derp_relay_t *relay)
{
    ngx_uint_t            i, index;
    ngx_derp_consumer_t   consumer;
    ngx_derp_exchange_t  *ex;

    ex = relay->exchange;
    ex->known = ngx_derp_load_acquire(&relay->region.zone->channels_changed);

    index = 0;

    while (ngx_derp_channel_accept(&relay->region, &index, &consumer)
           == NGX_OK)
    {
        for (i = 0; i < ex->ninlets; i++) {
            if (ex->inlets[i].consumer.channel == consumer.channel) {
                break;
            }
        }

        if (i < ex->ninlets) {
            continue;
        }

        if (i > NGX_DERP_SLOTS) {
            return;
        }

        ngx_log_debug1(NGX_LOG_DEBUG_HTTP, ex->log, 0,
                       "derp channel from worker %P is found",
                       ngx_derp_slot_pid(consumer.channel->from));

        ex->inlets[i].consumer = consumer;
        ex->inlets[i].mark = 0;
        ex->inlets[i].born = 0;
        ex->ninlets++;
    }
}


static ngx_uint_t
ngx_derp_exchange_take(ngx_derp_relay_t *relay, ngx_derp_inlet_t *inlet)
{
    size_t              taken;
    ngx_derp_span_t     span;
    ngx_derp_record_t   record;

    inlet->born = 0;

    for (taken = 0; taken < NGX_DERP_EXCHANGE_BUDGET; taken += record.len) {

        span.pos = ngx_derp_channel_get(&inlet->consumer, &record);

        if (span.pos == NULL) {

            if (inlet->consumer.harmed) {
                inlet->consumer.harmed = 0;
                ngx_derp_exchange_harmed(relay, inlet);
            }

            return 0;
        }

        span.last = span.pos + record.len;
        span.packets = record.packets;
        span.head = ngx_derp_exchange_head(&record);

        if (record.born > relay->cursor
            && record.born <= ngx_derp_journal_cursor(&relay->region))
        {
            inlet->born = record.born;
            return 1;
        }

        if (record.born > relay->cursor || !ngx_derp_span_whole(&span)) {
            ngx_derp_channel_discard(&inlet->consumer);
            ngx_derp_exchange_harmed(relay, inlet);
            return 0;
        }

        ngx_derp_route_deliver(relay, record.route, &span);

        ngx_derp_channel_take(&inlet->consumer, &record);
    }

    return 1;
}


/* How many packets there were nobody can tell, so one is counted. */

static void
ngx_derp_exchange_harmed(ngx_derp_relay_t *relay, ngx_derp_inlet_t *inlet)
{
    ngx_log_error(NGX_LOG_ALERT, relay->exchange->log, 0,
                  "derp_relay \"%V\" has found no packets where worker %P has "
                  "written some, they are dropped", &relay->name,
                  ngx_derp_slot_pid(ngx_min(inlet->consumer.channel->from,
                                            NGX_DERP_SLOTS - 1)));

    ngx_derp_count_drop(&relay->region, NGX_DERP_DROP_CHANNEL, 0, 0);
}


ngx_uint_t
ngx_derp_exchange_pending(ngx_derp_relay_t *relay)
{
    ngx_uint_t            i;
    ngx_derp_outlet_t    *outlet;
    ngx_derp_consumer_t  *consumer;
    ngx_derp_exchange_t  *ex;

    ex = relay->exchange;

    if (ngx_derp_load(&relay->region.zone->channels_changed) != ex->known) {
        return 1;
    }

    for (i = 0; i < ex->ninlets; i++) {
        consumer = &ex->inlets[i].consumer;

        if (ngx_derp_load(&consumer->channel->tail) != consumer->head) {
            return 1;
        }
    }

    for (i = 0; i < ex->noutlets; i++) {
        outlet = ex->outlets[i];

        if (outlet && ngx_derp_exchange_has_room(outlet)) {
            return 1;
        }
    }

    return 0;
}


void
ngx_derp_exchange_ring(ngx_derp_relay_t *relay)
{
    ngx_uint_t            i;
    ngx_derp_outlet_t    *outlet;
    ngx_derp_exchange_t  *ex;

    ex = relay->exchange;

    for (i = 0; i < ex->noutlets; i++) {
        outlet = ex->outlets[i];

        if (outlet && outlet->ring) {
            outlet->ring = 0;
            ngx_derp_slot_ring(i, relay->region.bell, ex->log);
        }
    }
}


void
ngx_derp_exchange_tidy(ngx_derp_relay_t *relay)
{
    uint32_t              n;
    ngx_uint_t            i;
    ngx_derp_outlet_t    *outlet;
    ngx_derp_consumer_t  *consumer;
    ngx_derp_exchange_t  *ex;

    ex = relay->exchange;
    n = ngx_derp_load(&relay->region.zone->channels_short);

    for (i = 0; i < ex->noutlets; i++) {
        outlet = ex->outlets[i];

        if (outlet && outlet->left.channel) {
            (void) ngx_derp_channel_close(&relay->region, &outlet->left);
        }

        if (outlet && outlet->producer.channel) {
            ngx_derp_exchange_tidy_outlet(relay, outlet, i, n != ex->shortage);
        }
    }

    ex->shortage = n;

    for (i = 0; i < ex->ninlets; /* void */) {
        consumer = &ex->inlets[i].consumer;

        /* nothing is published after the end, so empty is empty for good */

        if (ngx_derp_channel_ended(consumer)
            && ngx_derp_load_acquire(&consumer->channel->tail)
               == consumer->head
            && ngx_derp_channel_release(&relay->region, consumer) == NGX_OK)
        {
            ex->inlets[i] = ex->inlets[--ex->ninlets];
            continue;
        }

        i++;
    }
}


static void
ngx_derp_exchange_tidy_outlet(ngx_derp_relay_t *relay,
    ngx_derp_outlet_t *outlet, ngx_uint_t slot, ngx_uint_t shortage)
{
    ngx_derp_producer_t  *p, own;

    p = &outlet->producer;

    if (ngx_derp_channel_broken(&relay->region, p)) {
        ngx_derp_exchange_close(relay, outlet);
        return;
    }

    /* another way is for what comes after all that went by this one */

    if (!ngx_queue_empty(&outlet->waiting)
        || !ngx_queue_empty(&outlet->parked)
        || !ngx_derp_channel_drained(p))
    {
        return;
    }

    if (p->lock || shortage) {
        outlet->idle++;
    }

    /* where channels run short an idle one is for others to use */

    if (outlet->idle > NGX_DERP_IDLE) {
        ngx_derp_exchange_close(relay, outlet);
        return;
    }

    if (p->lock
        && outlet->left.channel == NULL
        && ngx_derp_channel_open(&relay->region, slot, &own) == NGX_OK)
    {
        *p = own;

        /* what was noted of a wait for the inbox is of no use any more */

        ngx_derp_exchange_resume(outlet);
    }
}


void
ngx_derp_exchange_destroy(ngx_derp_relay_t *relay)
{
    ngx_uint_t            i;
    ngx_derp_exchange_t  *ex;

    ex = relay->exchange;

    for (i = 0; i < ex->noutlets; i++) {
        if (ex->outlets[i]) {

            if (ex->outlets[i]->stall.timer_set) {
                ngx_del_timer(&ex->outlets[i]->stall);
            }

            ngx_free(ex->outlets[i]);
        }
    }

    /* the ends themselves are let go of with the slot */

    free(ex);
    relay->exchange = NULL;
}
