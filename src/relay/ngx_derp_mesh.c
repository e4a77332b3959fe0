
/*
 * The mesh of relays.
 */


#include "ngx_derp_mesh.h"
#include "ngx_derp_client_info.h"
#include "ngx_derp_dial.h"
#include "ngx_derp_lease.h"
#include "ngx_derp_worker.h"


/* between two tries, doubled from the least to the most, and jittered */
#define NGX_DERP_MESH_RETRY_MIN  250
#define NGX_DERP_MESH_RETRY_MAX  10000

/* tries that fail are all logged at first, and then one in so many seconds */
#define NGX_DERP_MESH_LOGGED     6
#define NGX_DERP_MESH_LOG_EVERY  60

/* a relay that is silent for so long is no more; it is asked in between */
#define NGX_DERP_MESH_PING       5000
#define NGX_DERP_MESH_SILENCE    15000

/*
 * A new link is up when it has heard of all clients.  Nothing marks the last of
 * them: it has been answered so long ago, and was told of few in a tick; but a
 * relay where many come all the time is not waited for longer than that.
 */
#define NGX_DERP_MESH_SETTLE     1000
#define NGX_DERP_MESH_FEW        100
#define NGX_DERP_MESH_RESTLESS   10000

/* a relay with clients for whom there was no room is asked again, if ever */
#define NGX_DERP_MESH_ASK_AGAIN  10000

/* an old worker's link stays so long for a new one that does not come up */
#define NGX_DERP_MESH_ORPHANED   30000

/* how long a relay may take to close what we have shut */
#define NGX_DERP_MESH_LINGER     5000

/* how long another relay may try to come back after a reload of ours */
#define NGX_DERP_MESH_TRY_FOR    60000


static void ngx_derp_mesh_tell(ngx_derp_relay_t *relay);
static ngx_uint_t ngx_derp_mesh_tick_link(ngx_derp_link_t *link,
    ngx_derp_lease_take_e take);
static void ngx_derp_mesh_tick_ours(ngx_derp_link_t *link);
static void ngx_derp_mesh_tick_others(ngx_derp_link_t *link,
    ngx_derp_lease_e lease);
static ngx_uint_t ngx_derp_mesh_ending(ngx_derp_link_t *link);
static ngx_uint_t ngx_derp_mesh_needed(ngx_derp_relay_t *relay);
static ngx_uint_t ngx_derp_mesh_asks_again(ngx_derp_link_t *link);
static void ngx_derp_mesh_settle(ngx_derp_link_t *link);
static void ngx_derp_mesh_leave(ngx_derp_line_t *line);
static void ngx_derp_mesh_tick_line(ngx_derp_line_t *line);
static ngx_derp_line_t *ngx_derp_mesh_line(ngx_derp_session_t *s);
static void ngx_derp_mesh_start(ngx_derp_link_t *link);
static void ngx_derp_mesh_cancel(ngx_derp_link_t *link);
static void ngx_derp_mesh_stop(ngx_derp_link_t *link, char *reason);
static void ngx_derp_mesh_retry_handler(ngx_event_t *ev);
static void ngx_derp_mesh_schedule(ngx_derp_link_t *link);
static u_char *ngx_derp_mesh_log_error(ngx_log_t *log, u_char *buf,
    size_t len);
static ngx_int_t ngx_derp_mesh_register(ngx_derp_session_t *s);
static ngx_int_t ngx_derp_mesh_own_key(ngx_derp_session_t *s);
static ngx_int_t ngx_derp_mesh_send_login(ngx_derp_session_t *s,
    u_char *server_key);
static void ngx_derp_mesh_ping(ngx_derp_session_t *s);
static void ngx_derp_mesh_pong(ngx_derp_session_t *s, u_char *data);
static ngx_int_t ngx_derp_mesh_present(ngx_derp_session_t *s, u_char *key);
static ngx_int_t ngx_derp_mesh_gone(ngx_derp_session_t *s, u_char *body,
    size_t len);


void
ngx_derp_mesh_tick(ngx_derp_relay_t *relay)
{
    ngx_uint_t              i;
    ngx_derp_link_t        *link;
    ngx_derp_lease_take_e   take;

    ngx_derp_mesh_tell(relay);

    if (relay->mesh == NULL) {
        return;
    }

    link = relay->mesh->links.elts;
    take = ngx_exiting ? NGX_DERP_LEASE_LOOK : NGX_DERP_LEASE_TAKE;

    for (i = 0; i < relay->mesh->links.nelts; i++) {

        /* of those that still work one a tick, so that all workers get some */

        if (ngx_derp_mesh_tick_link(&link[i], take)
            && take == NGX_DERP_LEASE_TAKE)
        {
            take = NGX_DERP_LEASE_TAKE_FREE;
        }
    }
}


/*
 * On a reload clients stay where they are, and would hold an old worker for
 * ever if they are other relays' links.  Those with this module are told, and
 * make a new link before they let go of this one; derper knows no such thing.
 */

static void
ngx_derp_mesh_tell(ngx_derp_relay_t *relay)
{
    u_char               frame[NGX_DERP_RESTARTING_FRAME];
    ngx_queue_t         *q;
    ngx_derp_session_t  *s;

    /* when nginx stops all are told, and a relay that is gone has no other */

    if (!ngx_exiting || ngx_derp_slots_stopping()
        || ngx_derp_lease_configured(&relay->region, 0) == NGX_AGAIN)
    {
        return;
    }

    ngx_derp_put_restarting(frame, 0, NGX_DERP_MESH_TRY_FOR);

    for (q = ngx_queue_head(&relay->all);
         q != ngx_queue_sentinel(&relay->all);
         q = ngx_queue_next(q))
    {
        s = ngx_queue_data(q, ngx_derp_session_t, queue);

        if (s->sibling && !s->told && s->state == NGX_DERP_STATE_CLIENT) {
            s->told = 1;
            ngx_derp_outbox_frame(s, frame, sizeof(frame));
        }
    }
}


/* Whether this worker has taken the link from another just now. */

static ngx_uint_t
ngx_derp_mesh_tick_link(ngx_derp_link_t *link, ngx_derp_lease_take_e take)
{
    ngx_uint_t        taken;
    ngx_derp_lease_e  lease;

    lease = ngx_derp_lease(&link->relay->region, link->id, take,
                           link->line.up || link->old.up);

    if (lease == NGX_DERP_LEASE_AGAIN && !ngx_derp_mesh_ending(link)) {
        return 0;
    }

    taken = (lease == NGX_DERP_LEASE_OURS && !link->owned);

    if (link->owned != (lease == NGX_DERP_LEASE_OURS)) {
        ngx_log_debug2(NGX_LOG_DEBUG_HTTP, ngx_derp_worker.log, 0,
                       "derp lease on %V, now:%d", &link->url.url, lease);
    }

    link->owned = (lease == NGX_DERP_LEASE_OURS);

    ngx_derp_mesh_tick_line(&link->line);
    ngx_derp_mesh_tick_line(&link->old);

    if (ngx_derp_mesh_ending(link)) {

        /* whoever has the lease, the link stays as long as clients do */

        if (ngx_derp_slots_stopping()) {
            ngx_derp_mesh_cancel(link);
        }

        if (!ngx_derp_mesh_needed(link->relay)) {
            ngx_derp_mesh_stop(link, "worker is shutting down");
        }

    } else if (ngx_derp_lease_configured(&link->relay->region, link->id)
               == NGX_DECLINED)
    {
        ngx_derp_mesh_stop(link, "it is configured no more");

    } else if (link->owned && !ngx_exiting) {
        ngx_derp_mesh_tick_ours(link);

    } else {
        ngx_derp_mesh_tick_others(link, lease);
    }

    return taken;
}


static void
ngx_derp_mesh_tick_ours(ngx_derp_link_t *link)
{
    ngx_derp_mesh_settle(link);

    if ((link->line.restart || ngx_derp_mesh_asks_again(link))
        && link->old.session == NULL)
    {

        /* a new line first */

        link->old = link->line;
        ngx_memzero(&link->line, sizeof(ngx_derp_line_t));
        link->state = NGX_DERP_LINK_DOWN;
    }

    if (link->state == NGX_DERP_LINK_DOWN && !link->retry.timer_set) {
        ngx_derp_mesh_start(link);
    }
}


/*
 * The worker exits, or a newer one has the link.  A new link needs a while to
 * hear of all clients: what goes by the old one until then goes on.  Where none
 * comes up the worker is not to stay for this one.
 */

static void
ngx_derp_mesh_tick_others(ngx_derp_link_t *link, ngx_derp_lease_e lease)
{
    ngx_derp_mesh_cancel(link);

    if (ngx_exiting && link->orphaned == 0) {
        link->orphaned = ngx_current_msec;
    }

    if (lease == NGX_DERP_LEASE_REPLACED
        || (ngx_exiting
            && ngx_current_msec - link->orphaned >= NGX_DERP_MESH_ORPHANED))
    {
        ngx_derp_mesh_leave(&link->line);
        ngx_derp_mesh_leave(&link->old);
    }
}


/* nginx stops, or its newest configuration has the whole relay no more */

static ngx_uint_t
ngx_derp_mesh_ending(ngx_derp_link_t *link)
{
    return ngx_exiting
           && (ngx_derp_slots_stopping()
               || ngx_derp_lease_configured(&link->relay->region, link->id)
                  == NGX_AGAIN);
}


/* Whether any worker has clients, but for the other relays' links. */

static ngx_uint_t
ngx_derp_mesh_needed(ngx_derp_relay_t *relay)
{
    ngx_uint_t          i;
    uint64_t            clients, watchers;
    ngx_derp_member_t  *member;

    clients = 0;
    watchers = 0;

    for (i = 0; i < ngx_derp_slots_top(); i++) {
        member = &relay->region.zone->members[i];

        if (ngx_derp_load(&member->generation)) {
            clients += ngx_derp_load(&member->gauges.clients);
            watchers += ngx_derp_load(&member->gauges.watchers);
        }
    }

    return clients > watchers;
}


/* A client is announced once in a line; if there is room a new one is made. */

static ngx_uint_t
ngx_derp_mesh_asks_again(ngx_derp_link_t *link)
{
    ngx_derp_line_t  *line;

    line = &link->line;

    return line->up && line->missed
           && ngx_current_msec - line->answered >= NGX_DERP_MESH_ASK_AGAIN
           && !ngx_derp_registry_full(&link->relay->region);
}


static void
ngx_derp_mesh_settle(ngx_derp_link_t *link)
{
    ngx_msec_t        since;
    ngx_uint_t        told;
    ngx_derp_line_t  *line;

    line = &link->line;

    told = line->told;
    line->told = 0;

    if (line->up || !line->pong || line->leaving) {
        return;
    }

    since = ngx_current_msec - line->answered;

    if (since < NGX_DERP_MESH_SETTLE
        || (told > NGX_DERP_MESH_FEW && since < NGX_DERP_MESH_RESTLESS))
    {
        return;
    }

    /* an older worker lets go of its own as soon as the lease says so */

    line->up = 1;
    link->attempt = 0;

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, line->session->connection->log, 0,
                   "derp link is up after %M, told of %ui clients in a tick",
                   since, told);

    ngx_derp_mesh_leave(&link->old);
}


/*
 * The end of a line that another has replaced, in steps.  All that it announced
 * the other one announces too, and goes before it, so nothing new is sent by
 * this one; but what was on its way to it in other workers may still come.
 */

static void
ngx_derp_mesh_leave(ngx_derp_line_t *line)
{
    ngx_derp_session_t  *s;

    s = line->session;

    if (s == NULL || line->leaving) {
        return;
    }

    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                   "derp link is replaced, and sends what it has");

    line->leaving = 1;

    if (s->state != NGX_DERP_STATE_LINK) {
        ngx_derp_session_fail(s, "another worker has the link");
    }
}


/*
 * A tick later nothing comes any more.  When all has been sent the line is off
 * the registry, and says that it is done.  It is closed by the other relay, not
 * here: whatever still arrives at a closed socket resets the connection, and
 * with it goes what the other one has not read yet.
 */

static void
ngx_derp_mesh_tick_line(ngx_derp_line_t *line)
{
    uint32_t             index;
    ngx_int_t            rc;
    ngx_derp_relay_t    *relay;
    ngx_derp_session_t  *s;

    s = line->session;

    if (s == NULL || !line->leaving || line->shut
        || s->state != NGX_DERP_STATE_LINK || !ngx_derp_outbox_empty(s))
    {
        return;
    }

    relay = s->relay;

    ngx_derp_worker_post();

    index = 0;

    do {
        rc = ngx_derp_registry_remove(&relay->region, s->route, &index);
    } while (rc == NGX_AGAIN && !relay->region.denied);

    if (rc == NGX_AGAIN) {
        return;
    }

    relay->sessions[ngx_derp_route_index(s->route)] = NULL;
    s->route = NGX_DERP_NO_ROUTE;

    line->shut = 1;
    ngx_derp_dial_shut(s->connection);

    ngx_add_timer(s->connection->read, NGX_DERP_MESH_LINGER);
}


static ngx_derp_line_t *
ngx_derp_mesh_line(ngx_derp_session_t *s)
{
    return s->link->line.session == s ? &s->link->line : &s->link->old;
}


static void
ngx_derp_mesh_start(ngx_derp_link_t *link)
{
    link->log = *ngx_derp_worker.log;
    link->log.handler = ngx_derp_mesh_log_error;
    link->log.data = link;
    link->log.action = NULL;

    if (link->attempt >= NGX_DERP_MESH_LOGGED
        && ngx_time() - link->logged < NGX_DERP_MESH_LOG_EVERY)
    {
        link->log.log_level = ngx_min(link->log.log_level, NGX_LOG_CRIT);

    } else {
        link->logged = ngx_time();
    }

    link->retry.handler = ngx_derp_mesh_retry_handler;
    link->retry.data = link;
    link->retry.log = &link->log;
    link->retry.cancelable = 1;

    link->orphaned = 0;
    link->state = NGX_DERP_LINK_DIALING;

    ngx_derp_dial(link);
}


static u_char *
ngx_derp_mesh_log_error(ngx_log_t *log, u_char *buf, size_t len)
{
    ngx_derp_link_t  *link;

    link = log->data;

    return ngx_snprintf(buf, len, " while dialing, derp_relay: \"%V\", "
                        "mesh: %V", &link->relay->name, &link->url.url);
}


/* Makes no new line, or not for now. */

static void
ngx_derp_mesh_cancel(ngx_derp_link_t *link)
{
    if (link->retry.timer_set) {
        ngx_del_timer(&link->retry);
    }

    if (link->state == NGX_DERP_LINK_DIALING) {
        ngx_derp_dial_cancel(link);
        link->state = NGX_DERP_LINK_DOWN;
    }
}


/* The lines are closed at the end of the turn: see ngx_derp_mesh_closed(). */

static void
ngx_derp_mesh_stop(ngx_derp_link_t *link, char *reason)
{
    ngx_derp_mesh_cancel(link);

    if (link->line.session) {
        link->line.leaving = 1;
        ngx_derp_session_fail(link->line.session, reason);
    }

    if (link->old.session) {
        ngx_derp_session_fail(link->old.session, reason);
    }
}


void
ngx_derp_mesh_exit(ngx_derp_relay_t *relay)
{
    ngx_uint_t        i;
    ngx_derp_link_t  *link;

    if (relay->mesh == NULL) {
        return;
    }

    link = relay->mesh->links.elts;

    for (i = 0; i < relay->mesh->links.nelts; i++) {
        ngx_derp_mesh_stop(&link[i], "worker is shutting down");
    }
}


void
ngx_derp_mesh_failed(ngx_derp_link_t *link, const char *reason)
{
    ngx_derp_lease_error(&link->relay->region, link->id, reason);

    ngx_derp_dial_cancel(link);
    ngx_derp_mesh_schedule(link);
}


static void
ngx_derp_mesh_schedule(ngx_derp_link_t *link)
{
    ngx_msec_t  delay;

    delay = NGX_DERP_MESH_RETRY_MIN << ngx_min(link->attempt, 6);
    delay = ngx_min(delay, NGX_DERP_MESH_RETRY_MAX);

    link->attempt++;
    link->state = NGX_DERP_LINK_DOWN;

    ngx_log_debug3(NGX_LOG_DEBUG_HTTP, ngx_derp_worker.log, 0,
                   "derp link to %V, try %ui within %M", &link->url.url,
                   link->attempt, delay);

    ngx_add_timer(&link->retry, delay / 2 + ngx_random() % (delay / 2));
}


static void
ngx_derp_mesh_retry_handler(ngx_event_t *ev)
{
    ngx_derp_link_t  *link;

    link = ev->data;

    /* the lease may have gone to another worker meanwhile */

    (void) ngx_derp_mesh_tick_link(link, ngx_exiting ? NGX_DERP_LEASE_LOOK
                                                   : NGX_DERP_LEASE_TAKE_FREE);
}


void
ngx_derp_mesh_connected(ngx_derp_link_t *link, u_char *data, size_t len)
{
    ngx_connection_t    *c;
    ngx_derp_session_t  *s;

    c = link->connection;

    s = ngx_derp_session_alloc(link->relay, c, NGX_DERP_STATE_LINK_LOGIN);

    if (s == NULL) {
        ngx_derp_mesh_failed(link, "no memory for a session");
        return;
    }

    s->link = link;
    s->linked = 1;

    link->connection = NULL;
    link->line.session = s;
    link->line.heard = ngx_current_msec;
    link->state = NGX_DERP_LINK_SESSION;

    /* what becomes of it is logged again, however many have failed */

    c->log->log_level = ngx_derp_worker.log->log_level;

    ngx_derp_session_user_timeout(c, NGX_DERP_MESH_USER_TIMEOUT);
    ngx_add_timer(c->read, link->relay->handshake_timeout);

    ngx_derp_session_begin(s, data, len);
}


void
ngx_derp_mesh_closed(ngx_derp_session_t *s)
{
    ngx_uint_t        leaving;
    ngx_derp_link_t  *link;
    ngx_derp_line_t  *line;

    link = s->link;
    line = ngx_derp_mesh_line(s);
    leaving = line->leaving;

    /* of those that were never logged in not every one: see _start() */

    if (s->route || line->shut || link->log.log_level >= NGX_LOG_NOTICE) {
        ngx_log_error(NGX_LOG_NOTICE, ngx_derp_worker.log, 0,
                      "derp_relay \"%V\" has %s its link to %V: %s",
                      &link->relay->name, leaving ? "let go of" : "lost",
                      &link->url.url,
                      line->shut ? "it was replaced" : s->reason);
    }

    if (line == &link->line && !leaving) {
        ngx_derp_lease_error(&link->relay->region, link->id, s->reason);
    }

    ngx_memzero(line, sizeof(ngx_derp_line_t));

    ngx_derp_dial_close(s->connection);

    /* while a new line is made nothing more is to be done for an old one */

    if (line == &link->old) {
        return;
    }

    if (link->state == NGX_DERP_LINK_SELF) {
        return;
    }

    if (leaving || ngx_exiting) {
        link->state = NGX_DERP_LINK_DOWN;
        return;
    }

    ngx_derp_mesh_schedule(link);
}


ngx_int_t
ngx_derp_mesh_login_check(ngx_derp_session_t *s, ngx_uint_t type, size_t len)
{
    if ((type != NGX_DERP_SERVER_KEY && type != NGX_DERP_SERVER_INFO)
        || len > NGX_DERP_MAX_PACKET)
    {
        ngx_derp_session_fail(s, "mesh peer does not speak DERP");
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* derp.Client.recvServerKey(), sendClientKey(), parseServerInfo() */

ngx_int_t
ngx_derp_mesh_login(ngx_derp_session_t *s, u_char *frame, size_t *len,
    u_char *last)
{
    u_char  *key, *body;

    body = frame + NGX_DERP_HEADER_LEN;

    if (!ngx_derp_key_is_zero(s->key) && frame[0] == NGX_DERP_SERVER_INFO) {

        /* it has taken our ClientInfo */

        return ngx_derp_mesh_register(s);
    }

    if (!ngx_derp_key_is_zero(s->key)
        || frame[0] != NGX_DERP_SERVER_KEY
        || ngx_derp_get_server_key(body, *len - NGX_DERP_HEADER_LEN, &key)
           != NGX_OK)
    {
        ngx_derp_session_fail(s, "mesh peer does not speak DERP");
        return NGX_ERROR;
    }

    ngx_memcpy(s->key, key, NGX_DERP_KEY_LEN);

    if (ngx_memcmp(key, s->relay->public_key, NGX_DERP_KEY_LEN) == 0) {
        return ngx_derp_mesh_own_key(s);
    }

    return ngx_derp_mesh_send_login(s, key);
}


/*
 * A list of all relays may name this one, too.  Another one with the same key
 * is the copy of an image, and neither sees the other's clients until one of
 * them has a key of its own.
 */

static ngx_int_t
ngx_derp_mesh_own_key(ngx_derp_session_t *s)
{
    ngx_derp_link_t  *link;

    link = s->link;

    if (link->self) {
        link->state = NGX_DERP_LINK_SELF;
        ngx_derp_session_fail(s, "it is this relay itself");
        return NGX_ERROR;
    }

    if (link->complained == 0
        || ngx_time() - link->complained >= NGX_DERP_MESH_LOG_EVERY)
    {
        link->complained = ngx_time();

        ngx_log_error(NGX_LOG_ERR, ngx_derp_worker.log, 0,
                      "derp_relay \"%V\" cannot be linked to %V, which is "
                      "another relay with the same key: "
                      "give each its own \"key_file\"",
                      &s->relay->name, &link->url.url);
    }

    ngx_derp_session_fail(s, "another relay has the same key");

    return NGX_ERROR;
}


static ngx_int_t
ngx_derp_mesh_send_login(ngx_derp_session_t *s, u_char *server_key)
{
    u_char  *p, *last, shared[NGX_DERP_KEY_LEN], json[NGX_DERP_CLIENT_INFO_LEN],
             frame[NGX_DERP_HEADER_LEN + NGX_DERP_KEY_LEN
                   + NGX_DERP_BOX_OVERHEAD + NGX_DERP_CLIENT_INFO_LEN];

    if (ngx_derp_box_shared(shared, server_key, s->relay->private_key)
        != NGX_OK)
    {
        ngx_derp_session_fail(s, "mesh peer has an impossible key");
        return NGX_ERROR;
    }

    last = ngx_derp_client_info_json(json, s->relay->mesh_key);

    p = ngx_derp_put_header(frame, NGX_DERP_CLIENT_INFO,
                            sizeof(frame) - NGX_DERP_HEADER_LEN);
    p = ngx_cpymem(p, s->relay->public_key, NGX_DERP_KEY_LEN);
    (void) ngx_derp_box_seal(p, json, last - json, shared);

    ngx_derp_key_wipe(json, sizeof(json));
    ngx_derp_key_wipe(shared, sizeof(shared));

    ngx_derp_outbox_frame(s, frame, sizeof(frame));

    ngx_derp_put_header(frame, NGX_DERP_WATCH_CONNS, 0);
    ngx_derp_outbox_frame(s, frame, NGX_DERP_HEADER_LEN);

    return NGX_OK;
}


static ngx_int_t
ngx_derp_mesh_register(ngx_derp_session_t *s)
{
    ngx_int_t          rc;
    ngx_derp_link_t   *link;
    ngx_derp_relay_t  *relay;

    link = s->link;
    relay = s->relay;

    rc = ngx_derp_registry_add_link(&relay->region, link->id, &s->route);

    if (rc == NGX_AGAIN) {
        return ngx_derp_session_wait(s);
    }

    if (rc != NGX_OK) {
        ngx_derp_worker_complain(relay, "has no room for a link: "
                                 "increase its \"zone\"");
        ngx_derp_session_fail(s, "registry is full");
        return NGX_ERROR;
    }

    relay->sessions[ngx_derp_route_index(s->route)] = s;

    ngx_derp_session_state(s, NGX_DERP_STATE_LINK);

    ngx_log_error(NGX_LOG_NOTICE, ngx_derp_worker.log, 0,
                  "derp_relay \"%V\" is linked to %V", &relay->name,
                  &link->url.url);

    ngx_derp_mesh_ping(s);
    ngx_add_timer(s->connection->read, NGX_DERP_MESH_PING);

    return NGX_OK;
}


ngx_int_t
ngx_derp_mesh_check(ngx_derp_session_t *s, ngx_uint_t type, size_t len)
{
    ngx_uint_t        ok;
    ngx_derp_line_t  *line;

    line = ngx_derp_mesh_line(s);
    line->heard = ngx_current_msec;

    if (len > NGX_DERP_MAX_SERVER_FRAME) {
        ngx_derp_session_fail(s, "mesh peer sent too long a frame");
        return NGX_ERROR;
    }

    /* nothing is done for what is said to a line that is done */

    if (line->shut) {
        return NGX_DECLINED;
    }

    switch (type) {

    case NGX_DERP_PEER_PRESENT:
    case NGX_DERP_PEER_GONE:
        ok = (len >= NGX_DERP_KEY_LEN && len <= NGX_DERP_MAX_PING);
        break;

    case NGX_DERP_PING:
        ok = (len >= NGX_DERP_PING_LEN && len <= NGX_DERP_MAX_PING);
        break;

    case NGX_DERP_PONG:
        line->answered = line->pong ? line->answered : ngx_current_msec;
        line->pong = 1;
        return NGX_DECLINED;

    case NGX_DERP_RESTARTING:
        ngx_log_debug0(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                       "derp mesh peer restarts, another link is made");
        line->restart = 1;
        return NGX_DECLINED;

    default:
        return NGX_DECLINED;
    }

    if (!ok) {
        ngx_derp_session_fail(s, "mesh peer sent a frame out of bounds");
        return NGX_ERROR;
    }

    return NGX_OK;
}


ngx_int_t
ngx_derp_mesh_frame(ngx_derp_session_t *s, u_char *frame, size_t *len,
    u_char *last)
{
    u_char  *body;

    body = frame + NGX_DERP_HEADER_LEN;

    switch (frame[0]) {

    case NGX_DERP_PING:
        ngx_derp_mesh_pong(s, body);
        return NGX_OK;

    case NGX_DERP_PEER_PRESENT:
        return ngx_derp_mesh_present(s, body);

    default: /* NGX_DERP_PEER_GONE */
        return ngx_derp_mesh_gone(s, body, *len - NGX_DERP_HEADER_LEN);
    }
}


static void
ngx_derp_mesh_ping(ngx_derp_session_t *s)
{
    u_char  *p, frame[NGX_DERP_PONG_FRAME];

    p = ngx_derp_put_header(frame, NGX_DERP_PING, NGX_DERP_PING_LEN);
    ngx_memzero(p, NGX_DERP_PING_LEN);

    ngx_derp_outbox_frame(s, frame, sizeof(frame));
}


static void
ngx_derp_mesh_pong(ngx_derp_session_t *s, u_char *data)
{
    u_char  frame[NGX_DERP_PONG_FRAME];

    if (s->out.blocked) {
        return;
    }

    ngx_derp_put_pong(frame, data);
    ngx_derp_outbox_frame(s, frame, sizeof(frame));
}


static ngx_int_t
ngx_derp_mesh_present(ngx_derp_session_t *s, u_char *key)
{
    ngx_int_t         rc;
    ngx_derp_line_t  *line;

    line = ngx_derp_mesh_line(s);
    line->told++;

    /* this link is a client over there, and none to be sent anything */

    if (ngx_memcmp(key, s->relay->public_key, NGX_DERP_KEY_LEN) == 0) {
        return NGX_OK;
    }

    rc = ngx_derp_registry_announce(&s->relay->region, s->route, key);

    if (rc == NGX_AGAIN) {
        return ngx_derp_session_wait(s);
    }

    if (rc != NGX_OK) {
        ngx_derp_worker_complain(s->relay, "has no room for a mesh peer's "
                                 "client: increase its \"zone\"");
        line->missed = 1;
        return NGX_OK;
    }

    ngx_derp_worker_post();

    return NGX_OK;
}


static ngx_int_t
ngx_derp_mesh_gone(ngx_derp_session_t *s, u_char *body, size_t len)
{
    ngx_uint_t  reason;

    /* the first versions had no reason */

    reason = len > NGX_DERP_KEY_LEN ? body[NGX_DERP_KEY_LEN]
                                    : NGX_DERP_GONE_DISCONNECTED;

    /*
     * "Not here" answers a packet that we have forwarded, and may be older
     * than what we have heard since; who leaves is told of by itself.
     */

    if (reason != NGX_DERP_GONE_DISCONNECTED) {
        return NGX_OK;
    }

    if (ngx_derp_registry_withdraw(&s->relay->region, s->route, body)
        != NGX_OK)
    {
        return ngx_derp_session_wait(s);
    }

    ngx_derp_worker_post();

    return NGX_OK;
}


void
ngx_derp_mesh_timer(ngx_derp_session_t *s)
{
    ngx_msec_t        silent;
    ngx_derp_line_t  *line;

    line = ngx_derp_mesh_line(s);

    if (line->shut) {
        ngx_derp_session_fail(s, "mesh peer does not close");
        return;
    }

    /* a ping would wait for all that is before it, which has its own timer */

    if (s->out.blocked) {
        line->heard = ngx_current_msec;
    }

    silent = ngx_current_msec - line->heard;

    if (silent >= NGX_DERP_MESH_SILENCE) {
        ngx_derp_session_fail(s, "mesh peer is silent");
        return;
    }

    if (!s->out.blocked) {
        ngx_derp_mesh_ping(s);
    }

    ngx_add_timer(s->connection->read,
                  ngx_min(NGX_DERP_MESH_PING, NGX_DERP_MESH_SILENCE - silent));
}
