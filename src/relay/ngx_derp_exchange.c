
/*
 * The exchange of packets with other workers.
 */


#include "ngx_derp_exchange.h"
#include "ngx_derp_inbox.h"
#include "ngx_derp_outlet.h"
#include "ngx_derp_route.h"
#include "ngx_derp_worker.h"


/* what is taken of a channel in one turn, in bytes */
#define NGX_DERP_EXCHANGE_BUDGET  (256 * 1024)

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
static void ngx_derp_exchange_accept(ngx_derp_relay_t *relay);
static ngx_uint_t ngx_derp_exchange_take(ngx_derp_relay_t *relay,
    ngx_derp_inlet_t *inlet);
static void ngx_derp_exchange_harmed(ngx_derp_relay_t *relay,
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
    ngx_int_t           rc;
    ngx_derp_outlet_t  *outlet;

    outlet = ngx_derp_exchange_outlet(s->relay, ngx_derp_route_slot(route));

    rc = outlet ? ngx_derp_outlet_send(outlet, s, route, span, type, source)
                : NGX_ERROR;

    if (rc == NGX_OK || rc == NGX_AGAIN) {
        return rc;
    }

    ngx_derp_span_drop(span, &s->relay->region,
                       rc == NGX_DECLINED ? NGX_DERP_DROP_GONE_DISCONNECTED
                                          : NGX_DERP_DROP_CHANNEL);

    return NGX_OK;
}


static ngx_derp_outlet_t *
ngx_derp_exchange_outlet(ngx_derp_relay_t *relay, ngx_uint_t slot)
{
    ngx_derp_exchange_t  *ex;

    ex = relay->exchange;

    if (ex->outlets[slot] == NULL) {
        ex->outlets[slot] = ngx_derp_outlet_create(relay, slot, ex->log);
        ex->noutlets = ngx_max(ex->noutlets, slot + 1);
    }

    return ex->outlets[slot];
}


/* What is not read need not be kept: that costs a copy, and another. */

ngx_int_t
ngx_derp_exchange_test(ngx_derp_session_t *s)
{
    ngx_uint_t          slot;
    ngx_derp_route_t    route;
    ngx_derp_outlet_t  *outlet;

    route = ngx_derp_registry_route(&s->relay->region, &s->last);
    slot = ngx_derp_route_slot(route);

    if (route == NGX_DERP_NO_ROUTE || slot == s->relay->region.slot) {
        return NGX_OK;
    }

    outlet = s->relay->exchange->outlets[slot];

    return outlet ? ngx_derp_outlet_test(outlet, s) : NGX_OK;
}


void
ngx_derp_exchange_forget(ngx_derp_session_t *s)
{
    ngx_uint_t            i;
    ngx_derp_exchange_t  *ex;

    ex = s->relay->exchange;

    for (i = 0; ngx_derp_worker.parked && i < ex->noutlets; i++) {
        if (ex->outlets[i]) {
            ngx_derp_outlet_drop(ex->outlets[i], s,
                                 NGX_DERP_DROP_GONE_DISCONNECTED);
        }
    }
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

        if (outlet && ngx_derp_outlet_has_room(outlet)) {
            ngx_derp_outlet_resume(outlet);
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
        span.head = ngx_derp_outlet_head(&record);

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


/*
 * How many packets there were nobody can tell, so one is counted.  The tail as
 * it was noted may be as wrong, and the journal must not wait for it.
 */

static void
ngx_derp_exchange_harmed(ngx_derp_relay_t *relay, ngx_derp_inlet_t *inlet)
{
    ngx_log_error(NGX_LOG_ALERT, relay->exchange->log, 0,
                  "derp_relay \"%V\" has found no packets where worker %P has "
                  "written some, they are dropped", &relay->name,
                  ngx_derp_slot_pid(ngx_min(inlet->consumer.channel->from,
                                            NGX_DERP_SLOTS - 1)));

    inlet->mark = 0;

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

        if (outlet && ngx_derp_outlet_has_room(outlet)) {
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

        if (outlet) {
            ngx_derp_outlet_tidy(outlet, n != ex->shortage);
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


void
ngx_derp_exchange_destroy(ngx_derp_relay_t *relay)
{
    ngx_uint_t            i;
    ngx_derp_exchange_t  *ex;

    ex = relay->exchange;

    for (i = 0; i < ex->noutlets; i++) {
        if (ex->outlets[i]) {
            ngx_derp_outlet_destroy(ex->outlets[i]);
        }
    }

    /* the ends themselves are let go of with the slot */

    free(ex);
    relay->exchange = NULL;
}
