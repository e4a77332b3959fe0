
/*
 * An outlet: the way to another worker.
 */


#include "ngx_derp_outlet.h"
#include "ngx_derp_inbox.h"
#include "ngx_derp_worker.h"


/* ms in which a worker has taken nothing, as far as this one could see */
#define NGX_DERP_SLOW         10
#define NGX_DERP_STALL        100

/* ticks after which a channel is idle, where others have none of their own */
#define NGX_DERP_IDLE         2

/* what may be parked for one worker, in bytes of buffers */
#define NGX_DERP_OUTLET_PARK  (2 * 1024 * 1024)


static ngx_int_t ngx_derp_outlet_ready(ngx_derp_outlet_t *outlet);
static ngx_int_t ngx_derp_outlet_open(ngx_derp_outlet_t *outlet);
static ngx_int_t ngx_derp_outlet_reserve(ngx_derp_session_t *s,
    ngx_derp_outlet_t *outlet, ngx_derp_record_t *record, u_char **p,
    ngx_uint_t *parked);
static ngx_int_t ngx_derp_outlet_put(ngx_derp_outlet_t *outlet,
    ngx_derp_record_t *record, u_char **p);
static void ngx_derp_outlet_commit(ngx_derp_outlet_t *outlet);
static void ngx_derp_outlet_look(ngx_derp_outlet_t *outlet);
static ngx_int_t ngx_derp_outlet_wait(ngx_derp_session_t *s,
    ngx_derp_outlet_t *outlet, size_t len);
static u_char *ngx_derp_outlet_park(ngx_derp_session_t *s,
    ngx_derp_outlet_t *outlet, ngx_derp_record_t *record);
static void ngx_derp_outlet_unpark(ngx_derp_outlet_t *outlet);
static void ngx_derp_outlet_put_back(ngx_derp_outlet_t *outlet,
    ngx_derp_buf_t *buf);
static void ngx_derp_outlet_stall_handler(ngx_event_t *ev);
static void ngx_derp_outlet_stalled(ngx_derp_outlet_t *outlet);
static void ngx_derp_outlet_close(ngx_derp_outlet_t *outlet);


ngx_derp_outlet_t *
ngx_derp_outlet_create(ngx_derp_relay_t *relay, ngx_uint_t slot,
    ngx_log_t *log)
{
    ngx_derp_outlet_t  *outlet;

    outlet = ngx_calloc(sizeof(ngx_derp_outlet_t), log);
    if (outlet == NULL) {
        return NULL;
    }

    ngx_queue_init(&outlet->waiting);
    ngx_queue_init(&outlet->parked);

    outlet->relay = relay;
    outlet->slot = slot;
    outlet->stall.handler = ngx_derp_outlet_stall_handler;
    outlet->stall.data = outlet;
    outlet->stall.log = log;

    return outlet;
}


/* Its channel is let go of with the slot of the worker, which exits. */

void
ngx_derp_outlet_destroy(ngx_derp_outlet_t *outlet)
{
    if (outlet->stall.timer_set) {
        ngx_del_timer(&outlet->stall);
    }

    ngx_free(outlet);
}


ngx_int_t
ngx_derp_outlet_send(ngx_derp_outlet_t *outlet, ngx_derp_session_t *s,
    ngx_derp_route_t route, ngx_derp_span_t *span, ngx_uint_t type,
    u_char *source)
{
    u_char             *p;
    ngx_int_t           rc;
    ngx_uint_t          parked;
    ngx_derp_record_t   record;

    rc = ngx_derp_outlet_ready(outlet);

    if (rc != NGX_OK) {
        return rc == NGX_AGAIN ? ngx_derp_session_wait(s) : rc;
    }

    ngx_derp_span_cut(span, ngx_derp_channel_span(outlet->producer.size));

    record.len = span->last - span->pos;
    record.packets = span->packets;
    record.route = route;
    record.born = s->born;

    rc = ngx_derp_outlet_reserve(s, outlet, &record, &p, &parked);

    if (rc != NGX_OK) {
        return rc == NGX_DECLINED ? NGX_ERROR : rc;
    }

    ngx_memcpy(p, span->pos, record.len);
    ngx_derp_span_turn(span, p, type, source);

    if (!parked) {
        ngx_derp_outlet_commit(outlet);
    }

    return NGX_OK;
}


/*
 * Opens it if it is not open.  NGX_DECLINED: that worker is no more; NGX_AGAIN:
 * another has the zone's lock; NGX_ERROR: there is no way to that worker.
 */

static ngx_int_t
ngx_derp_outlet_ready(ngx_derp_outlet_t *outlet)
{
    ngx_int_t  rc;

    if (outlet->producer.channel
        && ngx_derp_channel_broken(&outlet->relay->region, &outlet->producer))
    {
        ngx_derp_outlet_close(outlet);
    }

    if (outlet->producer.channel == NULL) {
        rc = ngx_derp_outlet_open(outlet);

        if (rc == NGX_AGAIN && !outlet->relay->stalled) {
            return NGX_AGAIN;
        }

        if (rc != NGX_OK) {
            return rc == NGX_DECLINED ? NGX_DECLINED : NGX_ERROR;
        }
    }

    outlet->idle = 0;

    if (!outlet->ring) {
        outlet->ring = 1;
        ngx_derp_worker_post();
        ngx_derp_outlet_look(outlet);
    }

    return NGX_OK;
}


/* An inbox takes no lock of the zone's, either. */

static ngx_int_t
ngx_derp_outlet_open(ngx_derp_outlet_t *outlet)
{
    ngx_int_t          rc, inbox;
    ngx_derp_relay_t  *relay;

    rc = NGX_OK;
    relay = outlet->relay;

    if (outlet->left.channel) {
        rc = ngx_derp_channel_close(&relay->region, &outlet->left);
    }

    if (rc == NGX_OK) {
        rc = ngx_derp_channel_open(&relay->region, outlet->slot,
                                   &outlet->producer);
    }

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, outlet->stall.log, 0,
                   "derp channel to slot %ui, rc:%i", outlet->slot, rc);

    if (rc == NGX_OK || rc == NGX_DECLINED) {
        return rc;
    }

    inbox = ngx_derp_inbox_open(&relay->region, outlet->slot,
                                &outlet->producer);

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
 * Room for a record in the channel, or behind what is parked: then *parked is
 * set. NGX_AGAIN: the session waits; NGX_DECLINED: the record must be dropped.
 */

static ngx_int_t
ngx_derp_outlet_reserve(ngx_derp_session_t *s, ngx_derp_outlet_t *outlet,
    ngx_derp_record_t *record, u_char **p, ngx_uint_t *parked)
{
    ngx_int_t  rc;

    *parked = 0;

    for ( ;; ) {

        rc = NGX_AGAIN;

        if (!ngx_queue_empty(&outlet->parked)) {
            ngx_derp_outlet_unpark(outlet);
        }

        if (ngx_queue_empty(&outlet->parked)) {
            rc = ngx_derp_outlet_put(outlet, record, p);
        }

        if (rc != NGX_AGAIN) {
            return rc;
        }

        rc = ngx_derp_outlet_wait(s, outlet, record->len);

        if (rc == NGX_BUSY) {
            *parked = 1;
            *p = ngx_derp_outlet_park(s, outlet, record);

            return *p ? NGX_OK : NGX_DECLINED;
        }

        if (rc != NGX_OK) {
            return rc;
        }
    }
}


static ngx_int_t
ngx_derp_outlet_put(ngx_derp_outlet_t *outlet, ngx_derp_record_t *record,
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
ngx_derp_outlet_commit(ngx_derp_outlet_t *outlet)
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
ngx_derp_outlet_look(ngx_derp_outlet_t *outlet)
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


ngx_int_t
ngx_derp_outlet_test(ngx_derp_outlet_t *outlet, ngx_derp_session_t *s)
{
    ngx_derp_producer_t  *p;

    p = &outlet->producer;

    if (p->channel == NULL
        || p->lock
        || p->tail - p->head <= p->size / 2
        || ngx_derp_channel_broken(&s->relay->region, p))
    {
        return NGX_OK;
    }

    return ngx_derp_outlet_wait(s, outlet, p->size / 2) == NGX_AGAIN
           ? NGX_AGAIN : NGX_OK;
}


/*
 * NGX_AGAIN: the session waits; NGX_OK: there is room by now; NGX_BUSY: the
 * record should be parked; NGX_DECLINED: there is no use in waiting.
 */

static ngx_int_t
ngx_derp_outlet_wait(ngx_derp_session_t *s, ngx_derp_outlet_t *outlet,
    size_t len)
{
    ngx_queue_t     *q;
    ngx_derp_buf_t  *first;

    ngx_derp_outlet_look(outlet);

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

    /* a relay's packets may be of sources whose end comes by another way */

    if (outlet->stuck >= NGX_DERP_SLOW
        && outlet->nparked < NGX_DERP_OUTLET_PARK
        && !s->mesh)
    {
        return NGX_BUSY;
    }

    if (outlet->stuck >= NGX_DERP_STALL) {
        ngx_derp_outlet_stalled(outlet);
        return NGX_DECLINED;
    }

    if (!outlet->stall.timer_set) {
        ngx_add_timer(&outlet->stall, NGX_DERP_SLOW);
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
ngx_derp_outlet_park(ngx_derp_session_t *s, ngx_derp_outlet_t *outlet,
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
    ngx_derp_worker.parked += ngx_derp_buf_size(buf);

    return p;
}


/* As much as there is room for. */

static void
ngx_derp_outlet_unpark(ngx_derp_outlet_t *outlet)
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

        rc = ngx_derp_outlet_put(outlet, &record, &p);

        if (rc == NGX_OK) {
            ngx_memcpy(p, buf->pos + sizeof(ngx_derp_record_t), record.len);
            ngx_derp_outlet_commit(outlet);
            ngx_derp_outlet_put_back(outlet, buf);

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


void
ngx_derp_outlet_drop(ngx_derp_outlet_t *outlet, ngx_derp_session_t *s,
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
        span.head = ngx_derp_outlet_head(&record);

        ngx_derp_span_drop(&span, &outlet->relay->region, reason);
        ngx_derp_outlet_put_back(outlet, buf);
    }
}


static void
ngx_derp_outlet_put_back(ngx_derp_outlet_t *outlet, ngx_derp_buf_t *buf)
{
    ngx_queue_remove(&buf->queue);

    outlet->nparked -= ngx_derp_buf_size(buf);
    ngx_derp_worker.parked -= ngx_derp_buf_size(buf);

    ngx_derp_buf_put(&ngx_derp_worker.bufs, buf);
}


ngx_uint_t
ngx_derp_outlet_has_room(ngx_derp_outlet_t *outlet)
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
ngx_derp_outlet_stall_handler(ngx_event_t *ev)
{
    ngx_derp_outlet_t  *outlet;

    outlet = ev->data;

    if (ngx_queue_empty(&outlet->waiting) || outlet->producer.channel == NULL) {
        return;
    }

    ngx_derp_outlet_look(outlet);

    if (outlet->stuck == 0) {
        ngx_derp_outlet_resume(outlet);
        return;
    }

    /* they go on, and what they send there is parked or dropped */

    if (outlet->nparked < NGX_DERP_OUTLET_PARK
        || outlet->stuck >= NGX_DERP_STALL)
    {
        ngx_derp_session_resume_all(&outlet->waiting);

    } else {
        ngx_add_timer(ev, NGX_DERP_SLOW);
    }
}


static void
ngx_derp_outlet_stalled(ngx_derp_outlet_t *outlet)
{
    if (outlet->stalled) {
        return;
    }

    ngx_log_error(NGX_LOG_WARN, outlet->stall.log, 0,
                  "derp worker %P takes no packets, they are dropped",
                  ngx_derp_slot_pid(outlet->producer.channel->to));

    outlet->stalled = 1;
}


void
ngx_derp_outlet_resume(ngx_derp_outlet_t *outlet)
{
    if (outlet->stall.timer_set) {
        ngx_del_timer(&outlet->stall);
    }

    ngx_derp_outlet_unpark(outlet);

    if (ngx_queue_empty(&outlet->parked)) {
        ngx_derp_session_resume_all(&outlet->waiting);

    } else if (!ngx_queue_empty(&outlet->waiting)) {
        ngx_add_timer(&outlet->stall, NGX_DERP_SLOW);
    }
}


static void
ngx_derp_outlet_close(ngx_derp_outlet_t *outlet)
{
    if (outlet->producer.lock == NULL) {

        /* an earlier one was let go of before this one was opened */

        outlet->left = outlet->producer;
        (void) ngx_derp_channel_close(&outlet->relay->region, &outlet->left);
    }

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, outlet->stall.log, 0,
                   "derp channel to worker %P is let go of, parked:%uz",
                   ngx_derp_slot_pid(outlet->producer.channel->to),
                   outlet->nparked);

    outlet->producer.channel = NULL;
    outlet->stalled = 0;
    outlet->stuck = 0;
    outlet->ring = 0;

    ngx_derp_outlet_drop(outlet, NULL, NGX_DERP_DROP_GONE_DISCONNECTED);
    ngx_derp_outlet_resume(outlet);
}


void
ngx_derp_outlet_tidy(ngx_derp_outlet_t *outlet, ngx_uint_t shortage)
{
    ngx_derp_region_t    *region;
    ngx_derp_producer_t  *p, own;

    p = &outlet->producer;
    region = &outlet->relay->region;

    if (outlet->left.channel) {
        (void) ngx_derp_channel_close(region, &outlet->left);
    }

    if (p->channel == NULL) {
        return;
    }

    if (ngx_derp_channel_broken(region, p)) {
        ngx_derp_outlet_close(outlet);
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
        ngx_derp_outlet_close(outlet);
        return;
    }

    if (p->lock
        && outlet->left.channel == NULL
        && ngx_derp_channel_open(region, outlet->slot, &own) == NGX_OK)
    {
        *p = own;

        /* what was noted of a wait for the inbox is of no use any more */

        ngx_derp_outlet_resume(outlet);
    }
}
