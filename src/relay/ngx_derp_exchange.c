
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
    ngx_queue_t              waiting;       /* sessions */
    ngx_event_t              stall;
    ngx_derp_relay_t        *relay;
    uint64_t                 head;          /* when the wait began */
    ngx_uint_t               idle;          /* ticks since the last frame */
    unsigned                 stalled:1;
    unsigned                 ring:1;        /* written to in this turn */
} ngx_derp_outlet_t;


struct ngx_derp_exchange_s {
    ngx_derp_outlet_t       *outlets[NGX_DERP_SLOTS];
    ngx_uint_t               noutlets;      /* slots up to the last of them */
    ngx_derp_consumer_t      inlets[NGX_DERP_SLOTS + 1];    /* and the inbox */
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
    ngx_derp_consumer_t *inlet);


ngx_int_t
ngx_derp_exchange_init(ngx_derp_relay_t *relay, ngx_log_t *log)
{
    relay->exchange = ngx_calloc(sizeof(ngx_derp_exchange_t), log);

    if (relay->exchange == NULL) {
        return NGX_ERROR;
    }

    relay->exchange->log = log;
    relay->exchange->shortage = relay->region.zone->channels_short;
    relay->exchange->known = relay->region.zone->channels_changed - 1;

    if (ngx_derp_inbox_accept(&relay->region, &relay->exchange->inlets[0])
        == NGX_OK)
    {
        relay->exchange->ninlets = 1;
    }

    return NGX_OK;
}


ngx_int_t
ngx_derp_exchange_send(ngx_derp_session_t *s, ngx_derp_route_t route,
    ngx_derp_packet_t *packet)
{
    u_char              *p;
    size_t               len;
    ngx_uint_t           slot;
    ngx_derp_drop_e      reason;
    ngx_derp_outlet_t   *outlet;

    reason = NGX_DERP_DROP_CHANNEL;
    slot = ngx_derp_route_slot(route);
    len = sizeof(packet->head) + packet->len;

    outlet = ngx_derp_exchange_outlet(s->relay, slot);

    if (outlet == NULL) {
        goto dropped;
    }

    if (outlet->producer.channel == NULL) {

        switch (ngx_derp_exchange_open(s->relay, outlet, slot)) {

        case NGX_OK:
            break;

        case NGX_DECLINED:
            reason = NGX_DERP_DROP_GONE_DISCONNECTED;
            goto dropped;

        default:
            goto dropped;
        }
    }

    outlet->idle = 0;

    for ( ;; ) {

        if (ngx_derp_inbox_enter(&outlet->producer) != NGX_OK) {
            ngx_derp_worker_complain(s->relay, "finds an inbox locked by "
                                     "a worker that does not go on, packets "
                                     "for it are lost");
            goto dropped;
        }

        p = ngx_derp_channel_put(&outlet->producer, route, len);

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

    outlet->stalled = 0;

    p = ngx_cpymem(p, packet->head, sizeof(packet->head));
    ngx_memcpy(p, packet->body, packet->len);

    ngx_derp_channel_publish(&outlet->producer);
    ngx_derp_inbox_leave(&outlet->producer);

    if (!outlet->ring) {
        outlet->ring = 1;
        ngx_derp_worker_post();
    }

    return NGX_OK;

dropped:

    ngx_derp_count_drop(&s->relay->region, reason, packet->kind, packet->size);

    return NGX_OK;
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


static ngx_int_t
ngx_derp_exchange_open(ngx_derp_relay_t *relay, ngx_derp_outlet_t *outlet,
    ngx_uint_t slot)
{
    ngx_int_t  rc;

    rc = ngx_derp_channel_open(&relay->region, slot, &outlet->producer);

    if (rc == NGX_BUSY) {
        rc = ngx_derp_inbox_open(&relay->region, slot, &outlet->producer);
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
    ngx_queue_t          queue, *q;
    ngx_derp_session_t  *s;

    if (outlet->stall.timer_set) {
        ngx_del_timer(&outlet->stall);
    }

    if (ngx_queue_empty(&outlet->waiting)) {
        return;
    }

    /* who finds no room again waits in the new queue, behind the others */

    ngx_queue_init(&queue);
    ngx_queue_add(&queue, &outlet->waiting);
    ngx_queue_init(&outlet->waiting);

    while (!ngx_queue_empty(&queue)) {
        q = ngx_queue_head(&queue);
        s = ngx_queue_data(q, ngx_derp_session_t, waiting);

        ngx_queue_remove(q);
        s->paused = 0;

        ngx_derp_session_resume(s);
    }
}


static void
ngx_derp_exchange_close(ngx_derp_relay_t *relay, ngx_derp_outlet_t *outlet)
{
    if (outlet->producer.lock) {
        outlet->producer.channel = NULL;

    } else {
        ngx_derp_channel_close(&relay->region, &outlet->producer);
    }

    outlet->stalled = 0;
    outlet->ring = 0;

    ngx_derp_exchange_resume(outlet);
}


ngx_uint_t
ngx_derp_exchange_receive(ngx_derp_relay_t *relay)
{
    ngx_uint_t            i, more, slot;
    ngx_derp_outlet_t    *outlet;
    ngx_derp_consumer_t  *inlet;
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

        slot = ngx_derp_channel_wanted(inlet);

        if (slot == relay->region.slot) {

            /* the inbox: it may be any of the others who waits */

            ngx_derp_region_ring(&relay->region);

        } else if (slot != NGX_DERP_NO_SLOT) {
            ngx_derp_slot_ring(slot, ex->log);
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


static void
ngx_derp_exchange_accept(ngx_derp_relay_t *relay)
{
    ngx_uint_t            i, index;
    ngx_derp_consumer_t   inlet;
    ngx_derp_exchange_t  *ex;

    ex = relay->exchange;
    ex->known = ngx_derp_load_acquire(&relay->region.zone->channels_changed);

    index = 0;

    while (ngx_derp_channel_accept(&relay->region, &index, &inlet) == NGX_OK) {

        for (i = 0; i < ex->ninlets; i++) {
            if (ex->inlets[i].channel == inlet.channel) {
                break;
            }
        }

        if (i < ex->ninlets) {
            continue;
        }

        if (i > NGX_DERP_SLOTS) {
            return;
        }

        ex->inlets[ex->ninlets++] = inlet;
    }
}


static ngx_uint_t
ngx_derp_exchange_take(ngx_derp_relay_t *relay, ngx_derp_consumer_t *inlet)
{
    u_char             *p;
    size_t              taken;
    ngx_derp_packet_t   packet;
    ngx_derp_record_t   record;

    for (taken = 0; taken < NGX_DERP_EXCHANGE_BUDGET; taken += record.size) {

        p = ngx_derp_channel_get(inlet, &record);

        if (p == NULL) {
            return 0;
        }

        ngx_memcpy(packet.head, p, sizeof(packet.head));

        packet.body = p + sizeof(packet.head);
        packet.len = record.len - sizeof(packet.head);
        packet.size = packet.len;

        p = packet.body;

        if (record.route & NGX_DERP_ROUTE_LINK) {
            p += NGX_DERP_KEY_LEN;
            packet.size -= NGX_DERP_KEY_LEN;
        }

        packet.kind = ngx_derp_is_disco(p, packet.size);

        ngx_derp_route_deliver(relay, record.route, &packet);

        ngx_derp_channel_take(inlet, &record);
    }

    return 1;
}


ngx_uint_t
ngx_derp_exchange_pending(ngx_derp_relay_t *relay)
{
    ngx_uint_t            i;
    ngx_derp_outlet_t    *outlet;
    ngx_derp_consumer_t  *inlet;
    ngx_derp_exchange_t  *ex;

    ex = relay->exchange;

    if (ngx_derp_load(&relay->region.zone->channels_changed) != ex->known) {
        return 1;
    }

    for (i = 0; i < ex->ninlets; i++) {
        inlet = &ex->inlets[i];

        if (ngx_derp_load(&inlet->channel->tail) != inlet->head) {
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
            ngx_derp_slot_ring(i, ex->log);
        }
    }
}


void
ngx_derp_exchange_tidy(ngx_derp_relay_t *relay)
{
    uint32_t              n;
    ngx_uint_t            i;
    ngx_derp_outlet_t    *outlet;
    ngx_derp_consumer_t  *inlet;
    ngx_derp_exchange_t  *ex;

    ex = relay->exchange;
    n = ngx_derp_load(&relay->region.zone->channels_short);

    for (i = 0; i < ex->noutlets; i++) {
        outlet = ex->outlets[i];

        if (outlet && outlet->producer.channel) {
            ngx_derp_exchange_tidy_outlet(relay, outlet, i, n != ex->shortage);
        }
    }

    ex->shortage = n;

    for (i = 0; i < ex->ninlets; /* void */) {
        inlet = &ex->inlets[i];

        /* nothing is published after the end, so empty is empty for good */

        if (ngx_derp_channel_ended(inlet)
            && ngx_derp_load_acquire(&inlet->channel->tail) == inlet->head)
        {
            ngx_derp_channel_release(&relay->region, inlet);
            *inlet = ex->inlets[--ex->ninlets];
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

    ngx_free(ex);
    relay->exchange = NULL;
}
