
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


typedef struct {
    ngx_derp_producer_t      producer;
    ngx_derp_producer_t      left;          /* to be closed, when it can be */
    ngx_queue_t              waiting;       /* sessions */
    ngx_event_t              stall;
    ngx_derp_relay_t        *relay;
    uint64_t                 head;          /* when the wait began */
    ngx_uint_t               idle;          /* ticks since the last frame */
    unsigned                 stalled:1;
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
    ngx_log_t               *log;
};


static ngx_derp_outlet_t *ngx_derp_exchange_outlet(ngx_derp_relay_t *relay,
    ngx_uint_t slot);
static ngx_int_t ngx_derp_exchange_open(ngx_derp_relay_t *relay,
    ngx_derp_outlet_t *outlet, ngx_uint_t slot);
static ngx_int_t ngx_derp_exchange_wait(ngx_derp_session_t *s,
    ngx_derp_outlet_t *outlet, size_t len);
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
    u_char              *p;
    size_t               len;
    ngx_uint_t           slot;
    ngx_derp_drop_e      reason;
    ngx_derp_outlet_t   *outlet;

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
    len = span->last - span->pos;

    for ( ;; ) {

        if (ngx_derp_inbox_enter(&outlet->producer) != NGX_OK) {
            ngx_derp_worker_complain(s->relay, "finds an inbox locked by "
                                     "a worker that does not go on, packets "
                                     "for it are lost");
            goto dropped;
        }

        p = ngx_derp_channel_put(&outlet->producer, route, len,
                                 span->packets, s->born);

        if (p) {
            break;
        }

        ngx_derp_inbox_leave(&outlet->producer);

        switch (ngx_derp_exchange_wait(s, outlet, len)) {

        case NGX_OK:
            break;

        case NGX_AGAIN:
            return NGX_AGAIN;

        default:
            goto dropped;
        }
    }

    /* there may have been room all the while: that says nothing of the other */

    outlet->stalled &= (outlet->producer.head == outlet->head);

    ngx_memcpy(p, span->pos, len);
    ngx_derp_span_turn(span, p, type, source);

    ngx_derp_channel_publish(&outlet->producer);
    ngx_derp_inbox_leave(&outlet->producer);

    if (!outlet->ring) {
        outlet->ring = 1;
        ngx_derp_worker_post();
    }

    return NGX_OK;

dropped:

    ngx_derp_span_drop(span, &s->relay->region, reason);

    return NGX_OK;
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

    return ngx_derp_exchange_wait(s, outlet, p->size / 2);
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
 * NGX_AGAIN: the session waits; NGX_OK: there is room by now; NGX_DECLINED:
 * there is no use in waiting.
 */

static ngx_int_t
ngx_derp_exchange_wait(ngx_derp_session_t *s, ngx_derp_outlet_t *outlet,
    size_t len)
{
    /* the head was loaded anew just now, when the frame did not fit */

    if (outlet->stalled && outlet->producer.head == outlet->head) {
        return NGX_DECLINED;
    }

    outlet->stalled = 0;

    /* what a waiting session has read is held meanwhile */

    if (ngx_derp_worker.held > s->relay->buffers) {
        return NGX_DECLINED;
    }

    outlet->ring = 1;
    ngx_derp_worker_post();

    if (ngx_derp_channel_want(&outlet->producer, len) == NGX_OK) {
        return NGX_OK;
    }

    if (!outlet->stall.timer_set) {
        outlet->head = outlet->producer.head;
        ngx_add_timer(&outlet->stall, NGX_DERP_STALL);
    }

    ngx_queue_insert_tail(&outlet->waiting, &s->waiting);
    s->paused = 1;

    return NGX_AGAIN;
}


static ngx_uint_t
ngx_derp_exchange_has_room(ngx_derp_outlet_t *outlet)
{
    ngx_derp_producer_t  *p;

    if (ngx_queue_empty(&outlet->waiting)) {
        return 0;
    }

    p = &outlet->producer;

    if (ngx_derp_load(&p->channel->wanted) == 0) {
        return 1;
    }

    /* in an inbox it may be another's mark, who came to wait after that */

    return p->lock && ngx_derp_load(&p->channel->head) != outlet->head;
}


static void
ngx_derp_exchange_stall_handler(ngx_event_t *ev)
{
    uint64_t              head;
    ngx_derp_outlet_t    *outlet;
    ngx_derp_producer_t  *p;

    outlet = ev->data;
    p = &outlet->producer;

    if (ngx_queue_empty(&outlet->waiting) || p->channel == NULL) {
        return;
    }

    head = ngx_derp_load_acquire(&p->channel->head);

    if (head != outlet->head) {
        ngx_derp_exchange_resume(outlet);
        return;
    }

    ngx_log_error(NGX_LOG_WARN, ev->log, 0,
                  "derp worker %P takes no packets, they are dropped",
                  ngx_derp_slot_pid(p->channel->to));

    outlet->stalled = 1;
    ngx_derp_exchange_resume(outlet);
}


static void
ngx_derp_exchange_resume(ngx_derp_outlet_t *outlet)
{
    if (outlet->stall.timer_set) {
        ngx_del_timer(&outlet->stall);
    }

    ngx_derp_session_resume_all(&outlet->waiting);
}


static void
ngx_derp_exchange_close(ngx_derp_relay_t *relay, ngx_derp_outlet_t *outlet)
{
    if (outlet->producer.lock == NULL) {

        /* an earlier one was let go of before this one was opened */

        outlet->left = outlet->producer;
        (void) ngx_derp_channel_close(&relay->region, &outlet->left);
    }

    outlet->producer.channel = NULL;
    outlet->stalled = 0;
    outlet->ring = 0;

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
            return 0;
        }

        if (record.born > relay->cursor) {
            inlet->born = record.born;
            return 1;
        }

        span.last = span.pos + record.len;
        span.packets = record.packets;
        span.head = record.route & NGX_DERP_ROUTE_LINK
                    ? NGX_DERP_FORWARD_OFFSET : NGX_DERP_PACKET_OFFSET;

        ngx_derp_route_deliver(relay, record.route, &span);

        ngx_derp_channel_take(&inlet->consumer, &record);
    }

    return 1;
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

    if (!ngx_queue_empty(&outlet->waiting) || !ngx_derp_channel_drained(p)) {
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
