
/*
 * The worker and its turns.
 */


#include "ngx_derp_worker.h"
#include "ngx_derp_client.h"
#include "ngx_derp_exchange.h"
#include "ngx_derp_heard.h"
#include "ngx_derp_mesh.h"
#include "ngx_derp_notice.h"
#include "ngx_derp_ssl.h"
#include "ngx_derp_watch.h"
#include "ngx_derp_zone.h"


/* how often a worker looks after others that may have died */
#define NGX_DERP_TICK            250

/* and how often it tries what another's lock has kept it from */
#define NGX_DERP_AGAIN           10

/* free buffers that a worker keeps when it has nothing to do */
#define NGX_DERP_KEEP            (1024 * 1024)

#define NGX_DERP_COMPLAIN        10


static ngx_int_t ngx_derp_worker_enter(void);
static ngx_int_t ngx_derp_worker_join(ngx_derp_relay_t *relay, ngx_log_t *log);
static void ngx_derp_worker_leave(ngx_derp_relay_t *relay);
static ngx_int_t ngx_derp_worker_add_bell(void);
static void ngx_derp_worker_bell_handler(ngx_event_t *ev);
static void ngx_derp_worker_tick_handler(ngx_event_t *ev);
static void ngx_derp_worker_exiting(void);
static void ngx_derp_worker_turn_handler(ngx_event_t *ev);
static ngx_uint_t ngx_derp_worker_take(void);
static ngx_uint_t ngx_derp_worker_take_relay(ngx_derp_relay_t *relay);
static ngx_uint_t ngx_derp_worker_reap(ngx_derp_relay_t *relay);
static void ngx_derp_worker_flush(void);
static void ngx_derp_worker_close(void);
static void ngx_derp_worker_ring(void);
static ngx_uint_t ngx_derp_worker_pending(void);
static void ngx_derp_worker_again(ngx_event_t *ev);
static void ngx_derp_worker_read_journal(ngx_derp_relay_t *relay,
    uint64_t limit);
static void ngx_derp_worker_close_marked(ngx_derp_relay_t *relay);


ngx_derp_worker_t  ngx_derp_worker = { .slot = NGX_DERP_NO_SLOT };


ngx_int_t
ngx_derp_worker_init(ngx_cycle_t *cycle, ngx_array_t *relays)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_DERP_HOLDERS; i++) {
        ngx_queue_init(&ngx_derp_worker.holders[i]);
    }

    ngx_derp_worker.relays = relays;
    ngx_derp_worker.log = cycle->log;
    ngx_derp_worker.dummy.fd = (ngx_socket_t) -1;

    ngx_queue_init(&ngx_derp_worker.touched);
    ngx_queue_init(&ngx_derp_worker.closing);
    ngx_queue_init(&ngx_derp_worker.holding);

    ngx_derp_worker.turn.handler = ngx_derp_worker_turn_handler;
    ngx_derp_worker.turn.data = &ngx_derp_worker.dummy;
    ngx_derp_worker.turn.log = cycle->log;
    ngx_derp_worker.turn.cancelable = 1;

    ngx_derp_worker.tick.handler = ngx_derp_worker_tick_handler;
    ngx_derp_worker.tick.data = &ngx_derp_worker.dummy;
    ngx_derp_worker.tick.log = cycle->log;
    ngx_derp_worker.tick.cancelable = 1;

    ngx_derp_worker.memory = ngx_alloc(NGX_DERP_READ_ROOM, cycle->log);
    if (ngx_derp_worker.memory == NULL) {
        return NGX_ERROR;
    }

    ngx_derp_worker.buffer = ngx_derp_worker.memory + NGX_DERP_READ_FRONT;

    if (ngx_derp_ssl_init(cycle->log) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_add_timer(&ngx_derp_worker.tick, 1);

    return ngx_derp_worker_enter() == NGX_ERROR ? NGX_ERROR : NGX_OK;
}


/* What else this worker does is none of our business: it goes on trying. */

static ngx_int_t
ngx_derp_worker_enter(void)
{
    ngx_int_t           rc;
    ngx_derp_relay_t  **relay;

    if (ngx_derp_worker.slot == NGX_DERP_NO_SLOT) {
        ngx_derp_worker.slot = ngx_derp_slot_claim();
    }

    if (ngx_derp_worker.slot == NGX_DERP_NO_SLOT) {

        if (!ngx_derp_worker.late) {
            ngx_log_error(NGX_LOG_ERR, ngx_derp_worker.log, 0,
                          "all %d derp slots are taken by workers that are "
                          "still relaying, this one relays nothing until one "
                          "has gone: see \"worker_shutdown_timeout\"",
                          NGX_DERP_SLOTS);
        }

        ngx_derp_worker.late = 1;

        return NGX_AGAIN;
    }

    if (ngx_derp_worker.bell == NULL && ngx_derp_worker_add_bell() != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, ngx_derp_worker.log, 0,
                   "derp worker enters, slot:%ui configuration:%uD",
                   ngx_derp_worker.slot, ngx_derp_slots_configuration());

    relay = ngx_derp_worker.relays->elts;

    while (ngx_derp_worker.joined < ngx_derp_worker.relays->nelts) {

        rc = ngx_derp_worker_join(relay[ngx_derp_worker.joined],
                                  ngx_derp_worker.log);

        if (rc == NGX_AGAIN) {
            ngx_derp_worker_complain(relay[ngx_derp_worker.joined],
                                     "has its registry locked by a worker "
                                     "that does not go on: this one relays "
                                     "nothing yet");
            ngx_derp_worker.late = 1;
        }

        if (rc != NGX_OK) {
            return rc;
        }

        ngx_derp_worker.joined++;
    }

    if (ngx_derp_worker.late) {
        ngx_log_error(NGX_LOG_NOTICE, ngx_derp_worker.log, 0,
                      "derp relays from now on");
    }

    ngx_derp_worker_post();

    return NGX_OK;
}


static ngx_int_t
ngx_derp_worker_join(ngx_derp_relay_t *relay, ngx_log_t *log)
{
    ngx_queue_init(&relay->all);
    ngx_queue_init(&relay->denied);
    ngx_queue_init(&relay->watchers);

    if (ngx_derp_zone_join(&relay->region, ngx_derp_worker.slot,
                           ngx_derp_worker.bell->fd, log)
        != NGX_OK)
    {
        return NGX_AGAIN;
    }

    relay->cursor = ngx_derp_journal_cursor(&relay->region);
    relay->head = relay->cursor;

    ngx_log_debug3(NGX_LOG_DEBUG_HTTP, log, 0,
                   "derp_relay \"%V\" joined, generation:%uD journal:%uL",
                   &relay->name, relay->region.generation, relay->cursor);

    relay->notice.data = ngx_alloc(NGX_DERP_NOTICE_MAX, log);
    if (relay->notice.data == NULL) {
        return NGX_ERROR;
    }

    /* not ngx_calloc(), which would touch all of it */

    relay->sessions = calloc(relay->region.zone->capacity,
                             sizeof(ngx_derp_session_t *));

    if (relay->sessions == NULL) {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                      "calloc() of derp sessions failed");
        return NGX_ERROR;
    }

    if (ngx_derp_exchange_init(relay, log) != NGX_OK
        || ngx_derp_heard_init(relay, log) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_derp_worker_add_bell(void)
{
    ngx_socket_t       s;
    ngx_connection_t  *c;

    s = ngx_derp_slot_bell(ngx_derp_worker.slot, ngx_derp_worker.log);
    if (s == (ngx_socket_t) -1) {
        return NGX_ERROR;
    }

    c = ngx_get_connection(s, ngx_derp_worker.log);
    if (c == NULL) {
        (void) ngx_close_socket(s);
        return NGX_ERROR;
    }

    /* nginx leaves it alone when it looks for connections to close */

    c->read->channel = 1;
    c->write->channel = 1;

    /* told to quit, nginx calls the handlers of idle connections, and this */

    c->idle = 1;

    c->read->log = ngx_derp_worker.log;
    c->write->log = ngx_derp_worker.log;
    c->read->handler = ngx_derp_worker_bell_handler;

    ngx_derp_worker.bell = c;

    /* level-triggered, since each ring that is left is an event of its own */

    return ngx_add_event(c->read, NGX_READ_EVENT, NGX_LEVEL_EVENT);
}


/*
 * On a graceful exit the clients have gone, on a fast one they go here, before
 * nginx complains of open connections: either way what the zones say of this
 * worker goes, too.
 */

void
ngx_derp_worker_exit(void)
{
    ngx_uint_t          i;
    ngx_derp_relay_t  **relay;

    /* be it without relays: older workers may have some, and are to know */

    if (ngx_exiting) {
        ngx_derp_slots_quit();
    }

    if (ngx_derp_worker.slot == NGX_DERP_NO_SLOT) {
        return;
    }

    relay = ngx_derp_worker.relays->elts;

    if (ngx_derp_worker.turn.timer_set) {
        ngx_del_timer(&ngx_derp_worker.turn);
    }

    for (i = 0; i < ngx_derp_worker.joined; i++) {
        ngx_derp_mesh_exit(relay[i]);
        ngx_derp_session_discard(relay[i]);
        ngx_derp_zone_leave(&relay[i]->region);
        ngx_derp_worker_leave(relay[i]);
    }

    ngx_derp_slot_release(ngx_derp_worker.slot);
    ngx_derp_worker.slot = NGX_DERP_NO_SLOT;

    if (ngx_derp_worker.bell) {
        ngx_close_connection(ngx_derp_worker.bell);
        ngx_derp_worker.bell = NULL;
    }

    ngx_derp_buf_trim(&ngx_derp_worker.bufs, 0);
    ngx_free(ngx_derp_worker.memory);

    ngx_derp_ssl_exit();
}


static void
ngx_derp_worker_leave(ngx_derp_relay_t *relay)
{
    ngx_derp_exchange_destroy(relay);
    ngx_derp_heard_destroy(relay);

    free(relay->sessions);
    relay->sessions = NULL;

    ngx_free(relay->notice.data);
}


void
ngx_derp_worker_complain(ngx_derp_relay_t *relay, char *what)
{
    if (ngx_time() - relay->complained < NGX_DERP_COMPLAIN) {
        return;
    }

    relay->complained = ngx_time();

    ngx_log_error(NGX_LOG_ERR, ngx_derp_worker.log, 0,
                  "derp_relay \"%V\" %s", &relay->name, what);
}


void
ngx_derp_worker_post(void)
{
    if (ngx_derp_worker.turn.posted) {
        return;
    }

    ngx_post_event(&ngx_derp_worker.turn, &ngx_posted_events);

    /* until then nobody need ring */

    ngx_derp_slot_wake(ngx_derp_worker.slot);
}


static void
ngx_derp_worker_bell_handler(ngx_event_t *ev)
{
    u_char             ring;
    ngx_connection_t  *c;

    c = ev->data;

    (void) recv(c->fd, &ring, 1, 0);

    /* not at the next tick, since "drain" counts from the signal */

    if (ngx_exiting) {
        ngx_derp_worker_exiting();
    }

    ngx_derp_worker_post();
}


static void
ngx_derp_worker_tick_handler(ngx_event_t *ev)
{
    ngx_uint_t          i;
    ngx_derp_relay_t  **relay;

    ngx_add_timer(ev, NGX_DERP_TICK);

    if (ngx_derp_worker.joined < ngx_derp_worker.relays->nelts
        && ngx_derp_worker_enter() != NGX_OK)
    {
        return;
    }

    relay = ngx_derp_worker.relays->elts;

    for (i = 0; i < ngx_derp_worker.joined; i++) {

        relay[i]->reap = 1;

        ngx_derp_exchange_tidy(relay[i]);
        ngx_derp_client_notice(relay[i]);
        ngx_derp_mesh_tick(relay[i]);
    }

    if (ngx_exiting) {
        ngx_derp_worker_exiting();
    }

    /* one that took it upon itself to ring this worker may have died of it */

    ngx_derp_worker_post();

    ngx_derp_buf_trim(&ngx_derp_worker.bufs, NGX_DERP_KEEP);
}


/* On a reload clients stay; when nginx stops they are told, and go. */

static void
ngx_derp_worker_exiting(void)
{
    ngx_uint_t          i;
    ngx_derp_relay_t  **relay;

    ngx_derp_slots_quit();

    if (ngx_derp_worker.draining || !ngx_derp_slots_stopping()) {
        return;
    }

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, ngx_derp_worker.log, 0,
                   "derp worker lets its clients go");

    ngx_derp_worker.draining = 1;

    relay = ngx_derp_worker.relays->elts;

    for (i = 0; i < ngx_derp_worker.joined; i++) {
        ngx_derp_client_drain(relay[i]);
        ngx_derp_mesh_tick(relay[i]);

        /* old workers get no signal, so they are told by their bells */

        relay[i]->region.everybody = 1;
    }

    ngx_derp_worker_post();
}


static void
ngx_derp_worker_turn_handler(ngx_event_t *ev)
{
    ngx_uint_t  more;

    more = ngx_derp_worker_take();

    ngx_derp_worker_flush();
    ngx_derp_worker_close();
    ngx_derp_worker_ring();

    if (!more) {

        /* who publishes something after this rings */

        ngx_derp_slot_sleep(ngx_derp_worker.slot);

        more = ngx_derp_worker_pending();
    }

    if (more && !ev->posted) {
        ngx_post_event(ev, &ngx_posted_next_events);
        ngx_derp_slot_wake(ngx_derp_worker.slot);
    }

    ngx_derp_worker_again(ev);
}


/* Whatever the lock of a zone has kept from being done is tried in a turn. */

static void
ngx_derp_worker_again(ngx_event_t *ev)
{
    ngx_uint_t          i;
    ngx_derp_relay_t  **relay;

    relay = ngx_derp_worker.relays->elts;

    for (i = 0; i < ngx_derp_worker.joined; i++) {
        if (relay[i]->region.denied && !ev->timer_set) {
            ngx_add_timer(ev, NGX_DERP_AGAIN);
        }
    }
}


static ngx_uint_t
ngx_derp_worker_take(void)
{
    ngx_uint_t          i, more;
    ngx_derp_relay_t  **relay;

    more = 0;
    relay = ngx_derp_worker.relays->elts;

    for (i = 0; i < ngx_derp_worker.joined; i++) {

        ngx_derp_session_retry(relay[i]);

        more |= ngx_derp_worker_reap(relay[i]);
        more |= ngx_derp_worker_take_relay(relay[i]);
        more |= ngx_derp_watch_run(relay[i]);
    }

    return more;
}


/* A part of what has died, in each turn: others are to get the lock, too. */

static ngx_uint_t
ngx_derp_worker_reap(ngx_derp_relay_t *relay)
{
    if (!relay->reap) {
        return 0;
    }

    relay->reap = (ngx_derp_zone_reap(&relay->region) == NGX_AGAIN);

    return relay->reap && !relay->region.denied;
}


/*
 * A client's last packets were published before the journal said that it has
 * left, and those of one who came again after that.  So the head comes first,
 * then all packets that were there by then, and then the journal, up to the
 * head, or to where a packet waits for it to be read.
 */

static ngx_uint_t
ngx_derp_worker_take_relay(ngx_derp_relay_t *relay)
{
    ngx_uint_t  more;

    if (relay->head == relay->cursor) {
        relay->head = ngx_derp_journal_cursor(&relay->region);

        if (relay->head != relay->cursor) {
            ngx_derp_exchange_mark(relay);
        }
    }

    more = ngx_derp_exchange_receive(relay);

    ngx_derp_worker_read_journal(relay, ngx_derp_exchange_limit(relay));

    return more;
}


void
ngx_derp_worker_catch_up(ngx_derp_relay_t *relay, uint64_t born)
{
    while (relay->cursor < born) {
        (void) ngx_derp_worker_take_relay(relay);
    }
}


static void
ngx_derp_worker_flush(void)
{
    ngx_queue_t         *q;
    ngx_derp_session_t  *s;

    while (!ngx_queue_empty(&ngx_derp_worker.touched)) {
        q = ngx_queue_head(&ngx_derp_worker.touched);
        s = ngx_queue_data(q, ngx_derp_session_t, out.link);

        ngx_derp_outbox_flush(s);
    }
}


static void
ngx_derp_worker_close(void)
{
    ngx_queue_t  *q;

    while (!ngx_queue_empty(&ngx_derp_worker.closing)) {
        q = ngx_queue_head(&ngx_derp_worker.closing);

        ngx_derp_session_close(ngx_queue_data(q, ngx_derp_session_t, waiting));
    }
}


static void
ngx_derp_worker_ring(void)
{
    ngx_uint_t          i;
    ngx_derp_relay_t  **relay;

    relay = ngx_derp_worker.relays->elts;

    for (i = 0; i < ngx_derp_worker.joined; i++) {

        ngx_derp_region_ring(&relay[i]->region);
        ngx_derp_exchange_ring(relay[i]);
    }
}


static ngx_uint_t
ngx_derp_worker_pending(void)
{
    ngx_uint_t          i;
    ngx_derp_relay_t  **relay;

    relay = ngx_derp_worker.relays->elts;

    for (i = 0; i < ngx_derp_worker.joined; i++) {

        if (ngx_derp_journal_cursor(&relay[i]->region) != relay[i]->cursor
            || ngx_derp_exchange_pending(relay[i]))
        {
            return 1;
        }
    }

    return 0;
}


static void
ngx_derp_worker_read_journal(ngx_derp_relay_t *relay, uint64_t limit)
{
    ngx_int_t         rc;
    ngx_derp_entry_t  entry;

    if (relay->sweep) {
        ngx_derp_heard_sweep(relay);
    }

    while (relay->cursor < limit) {

        rc = ngx_derp_journal_read(&relay->region, &relay->cursor, &entry);

        if (rc == NGX_DONE) {
            return;
        }

        if (rc == NGX_DECLINED) {

            ngx_log_debug3(NGX_LOG_DEBUG_HTTP, ngx_derp_worker.log, 0,
                           "derp_relay \"%V\" was overrun by its journal, "
                           "%uL of %uL", &relay->name, relay->cursor, limit);

            /* what was to be done is found by looking */

            relay->cursor = limit;
            ngx_derp_heard_sweep(relay);
            ngx_derp_worker_close_marked(relay);
            continue;
        }

        ngx_log_debug2(NGX_LOG_DEBUG_HTTP, ngx_derp_worker.log, 0,
                       "derp journal %uL, what:%d", entry.number,
                       (int) entry.what);

        if (entry.what & NGX_DERP_JOURNAL_LEFT) {
            ngx_derp_heard_gone(relay, entry.key);
        }

        if (entry.what & NGX_DERP_JOURNAL_CLOSE) {
            ngx_derp_worker_close_marked(relay);
        }
    }
}


/* What a mesh peer has had closed: rarely, so all sessions are looked at. */

static void
ngx_derp_worker_close_marked(ngx_derp_relay_t *relay)
{
    ngx_queue_t         *q;
    ngx_derp_session_t  *s;

    for (q = ngx_queue_head(&relay->all);
         q != ngx_queue_sentinel(&relay->all);
         q = ngx_queue_next(q))
    {
        s = ngx_queue_data(q, ngx_derp_session_t, queue);

        if (s->state == NGX_DERP_STATE_CLIENT
            && ngx_derp_registry_closing(&relay->region, s->route))
        {
            ngx_derp_session_fail(s, "closed by a mesh peer");
        }
    }
}
