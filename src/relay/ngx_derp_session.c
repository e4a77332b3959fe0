
/*
 * A session.
 */


#include "ngx_derp_session.h"
#include "ngx_derp_client.h"
#include "ngx_derp_heard.h"
#include "ngx_derp_login.h"
#include "ngx_derp_mesh.h"
#include "ngx_derp_watch.h"
#include "ngx_derp_worker.h"


/* derper's -tcp-user-timeout, in milliseconds */
#define NGX_DERP_USER_TIMEOUT  15000


typedef struct {
    const char   *name;

    /*
     * By a frame's header: NGX_OK, it is to be read whole; NGX_DECLINED, it is
     * to be read past; NGX_ERROR, the session has failed.
     */
    ngx_int_t   (*check)(ngx_derp_session_t *s, ngx_uint_t type, size_t len);

    /* NGX_AGAIN: the frame is to be offered again */
    ngx_int_t   (*frame)(ngx_derp_session_t *s, u_char *frame, size_t len);

    void        (*timer)(ngx_derp_session_t *s);
} ngx_derp_state_t;


static void ngx_derp_session_tcp(ngx_connection_t *c);
static void ngx_derp_session_read_handler(ngx_event_t *rev);
static void ngx_derp_session_write_handler(ngx_event_t *wev);
static void ngx_derp_session_receive(ngx_derp_session_t *s);
static void ngx_derp_session_process(ngx_derp_session_t *s, u_char *p,
    u_char *last);
static void ngx_derp_session_keep(ngx_derp_session_t *s, u_char *p, size_t len);
static void ngx_derp_session_put_in(ngx_derp_session_t *s);
static void ngx_derp_session_unregister(ngx_derp_session_t *s);
static void ngx_derp_session_log_end(ngx_derp_session_t *s);
static u_char *ngx_derp_session_log_error(ngx_log_t *log, u_char *buf,
    size_t len);


static const ngx_derp_state_t  ngx_derp_states[] = {

    [NGX_DERP_STATE_LOGIN] = {
        "awaiting derp client info",
        ngx_derp_login_check,
        ngx_derp_login_frame,
        ngx_derp_login_timer
    },

    [NGX_DERP_STATE_CLIENT] = {
        "relaying",
        ngx_derp_client_check,
        ngx_derp_client_frame,
        ngx_derp_client_timer
    },

    [NGX_DERP_STATE_LINK_LOGIN] = {
        "logging in",
        ngx_derp_mesh_login_check,
        ngx_derp_mesh_login,
        ngx_derp_login_timer
    },

    [NGX_DERP_STATE_LINK] = {
        "meshing",
        ngx_derp_mesh_check,
        ngx_derp_mesh_frame,
        ngx_derp_mesh_timer
    }
};


ngx_int_t
ngx_derp_session_create(ngx_derp_relay_t *relay, ngx_connection_t *c,
    ngx_derp_client_t *client, u_char *data, size_t len)
{
    ngx_derp_session_t  *s;

    s = ngx_derp_session_alloc(relay, c, NGX_DERP_STATE_LOGIN);
    if (s == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(s->origin.addr, client->addr, sizeof(s->origin.addr));
    s->origin.port = client->port;
    s->flags = client->flags;

    relay->region.member->counters.accepts++;

    ngx_add_timer(c->read, relay->handshake_timeout);

    ngx_derp_session_begin(s, data, len);

    return NGX_OK;
}


void
ngx_derp_session_begin(ngx_derp_session_t *s, u_char *data, size_t len)
{
    ngx_event_t  *rev;

    rev = s->connection->read;

    if (len) {
        ngx_derp_session_keep(s, data, len);
        ngx_derp_session_resume(s);

    } else if (rev->ready) {
        ngx_post_event(rev, &ngx_posted_events);
    }

    if (ngx_handle_read_event(rev, 0) != NGX_OK) {
        ngx_derp_session_fail(s, "read event failed");
    }
}


void
ngx_derp_session_state(ngx_derp_session_t *s, ngx_derp_state_e state)
{
    s->state = state;
    s->connection->log->action = (char *) ngx_derp_states[state].name;
}


ngx_derp_session_t *
ngx_derp_session_alloc(ngx_derp_relay_t *relay, ngx_connection_t *c,
    ngx_derp_state_e state)
{
    ngx_derp_session_t  *s;

    /* in the connection's pool it would take a block twice its size */

    s = ngx_calloc(sizeof(ngx_derp_session_t), c->log);
    if (s == NULL) {
        return NULL;
    }

    s->connection = c;
    s->relay = relay;
    s->started = ngx_current_msec;

    ngx_queue_insert_tail(&relay->all, &s->queue);

    c->data = s;
    c->read->handler = ngx_derp_session_read_handler;
    c->write->handler = ngx_derp_session_write_handler;
    c->log->handler = ngx_derp_session_log_error;
    c->log->data = s;

    ngx_derp_session_state(s, state);

    /* on a reload it stays, and it is not for nginx to run short of */

    c->idle = 0;
    ngx_reusable_connection(c, 0);

    if (c->read->timer_set) {
        ngx_del_timer(c->read);
    }

    if (c->write->timer_set) {
        ngx_del_timer(c->write);
    }

    ngx_derp_session_tcp(c);

#if (NGX_SSL)
    if (c->ssl) {

        /* what a blocked connection is to be sent is kept elsewhere */

        (void) SSL_set_mode(c->ssl->connection,
                            SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    }
#endif

    return s;
}


static void
ngx_derp_session_tcp(ngx_connection_t *c)
{
    int  timeout;

    if (c->sockaddr && c->sockaddr->sa_family == AF_UNIX) {
        return;
    }

    /* without it small packets wait for the acknowledgement of others */

    (void) ngx_tcp_nodelay(c);

    /* whoever is cut off is noticed by what it does not acknowledge */

    timeout = NGX_DERP_USER_TIMEOUT;

    if (setsockopt(c->fd, IPPROTO_TCP, TCP_USER_TIMEOUT,
                   (const void *) &timeout, sizeof(int))
        == -1)
    {
        ngx_connection_error(c, ngx_socket_errno,
                             "setsockopt(TCP_USER_TIMEOUT) failed");
    }
}


ngx_derp_session_t *
ngx_derp_session_find(ngx_derp_relay_t *relay, ngx_derp_route_t route)
{
    ngx_derp_session_t  *s;

    s = relay->sessions[ngx_derp_route_index(route)];

    if (s == NULL || s->route != route || s->state == NGX_DERP_STATE_CLOSING) {
        return NULL;
    }

    return s;
}


static void
ngx_derp_session_read_handler(ngx_event_t *rev)
{
    ngx_connection_t    *c;
    ngx_derp_session_t  *s;

    c = rev->data;
    s = c->data;

    if (s->state == NGX_DERP_STATE_CLOSING) {
        return;
    }

    if (c->close || c->error) {
        ngx_derp_session_fail(s, "worker is shutting down");
        return;
    }

    if (rev->timedout) {
        rev->timedout = 0;
        ngx_derp_states[s->state].timer(s);
        return;
    }

    if (!s->paused) {
        ngx_derp_session_receive(s);
    }
}


static void
ngx_derp_session_write_handler(ngx_event_t *wev)
{
    ngx_connection_t    *c;
    ngx_derp_session_t  *s;

    c = wev->data;
    s = c->data;

    if (s->state == NGX_DERP_STATE_CLOSING) {
        return;
    }

    if (wev->timedout) {
        s->relay->region.member->counters.write_timeouts++;
        c->timedout = 1;
        ngx_derp_session_fail(s, "write timed out");
        return;
    }

    if (s->out.blocked) {
        ngx_derp_outbox_flush(s);
    }
}


/* One read, of as much as the worker's buffer takes, and what follows of it. */

static void
ngx_derp_session_receive(ngx_derp_session_t *s)
{
    size_t             held;
    u_char            *buf;
    ssize_t            n;
    ngx_event_t       *rev;
    ngx_connection_t  *c;

    c = s->connection;
    rev = c->read;
    buf = ngx_derp_worker.buffer;
    held = s->in ? s->in->last - s->in->pos : 0;

    if (s->resumed) {
        s->resumed = 0;

        ngx_memcpy(buf, s->in->pos, held);
        ngx_derp_session_process(s, buf, buf + held);

        if (rev->ready && !s->paused && s->state != NGX_DERP_STATE_CLOSING) {
            ngx_post_event(rev, &ngx_posted_next_events);
        }

        return;
    }

    n = c->recv(c, buf + held, NGX_DERP_READ_SIZE);

    if (n == NGX_AGAIN) {
        if (ngx_handle_read_event(rev, 0) != NGX_OK) {
            ngx_derp_session_fail(s, "read event failed");
        }

        return;
    }

    if (n == NGX_ERROR) {
        c->error = 1;
        ngx_derp_session_fail(s, "read failed");
        return;
    }

    if (n == 0) {
        ngx_derp_session_fail(s, "client closed");
        return;
    }

    if (held) {
        ngx_memcpy(buf, s->in->pos, held);
    }

    /* of several connections with a key the last to speak is the active one */

    if (s->state == NGX_DERP_STATE_CLIENT
        && ngx_derp_registry_route(&s->relay->region, &s->peer) != s->route)
    {
        ngx_derp_registry_activate(&s->relay->region, s->route);
    }

    ngx_derp_session_process(s, buf, buf + held + n);

    /* the others come first, then what is left in the socket */

    if (rev->ready && !rev->posted && !s->paused
        && s->state != NGX_DERP_STATE_CLOSING)
    {
        ngx_post_event(rev, &ngx_posted_next_events);
    }
}


static void
ngx_derp_session_process(ngx_derp_session_t *s, u_char *p, u_char *last)
{
    size_t                   len;
    const ngx_derp_state_t  *state;

    for ( ;; ) {

        if (s->skip) {
            len = ngx_min(s->skip, (size_t) (last - p));
            s->skip -= len;
            p += len;
        }

        if (last - p < NGX_DERP_HEADER_LEN) {
            break;
        }

        state = &ngx_derp_states[s->state];
        len = ngx_derp_get_uint32(p + 1);

        switch (state->check(s, p[0], len)) {

        case NGX_OK:
            break;

        case NGX_DECLINED:
            p += NGX_DERP_HEADER_LEN;
            s->skip = len;
            continue;

        default:
            return;
        }

        len += NGX_DERP_HEADER_LEN;

        if ((size_t) (last - p) < len) {
            break;
        }

        switch (state->frame(s, p, len)) {

        case NGX_OK:
            p += len;
            break;

        case NGX_AGAIN:
            goto done;

        default:
            return;
        }

        if (s->state == NGX_DERP_STATE_CLOSING) {
            return;
        }
    }

done:

    ngx_derp_session_keep(s, p, last - p);
}


/* What is left of what was read is all that a session has of its own. */

static void
ngx_derp_session_keep(ngx_derp_session_t *s, u_char *p, size_t len)
{
    ngx_queue_t         *q;
    ngx_derp_buf_t      *buf;
    ngx_derp_bufs_t     *bufs;
    ngx_derp_session_t  *other;

    bufs = &ngx_derp_worker.bufs;

    ngx_derp_session_put_in(s);

    if (len == 0) {
        return;
    }

    s->in = ngx_derp_buf_get(bufs, len, s->connection->log);

    if (s->in == NULL) {
        ngx_derp_session_fail(s, "no memory for half a frame");
        return;
    }

    s->in->owner = s;
    s->in->last = ngx_cpymem(s->in->pos, p, len);

    ngx_queue_insert_tail(&ngx_derp_worker.holding, &s->in->queue);
    ngx_derp_worker.held += ngx_derp_buf_size(s->in);

    /* where memory ends, who has not gone on for longest makes room */

    while (ngx_derp_worker.held > s->relay->buffers) {
        q = ngx_queue_head(&ngx_derp_worker.holding);
        buf = ngx_queue_data(q, ngx_derp_buf_t, queue);
        other = buf->owner;

        if (other == s) {
            break;
        }

        ngx_derp_session_put_in(other);
        ngx_derp_session_fail(other, "too much memory is in use");
    }
}


static void
ngx_derp_session_put_in(ngx_derp_session_t *s)
{
    if (s->in) {
        ngx_queue_remove(&s->in->queue);
        ngx_derp_worker.held -= ngx_derp_buf_size(s->in);
        ngx_derp_buf_put(&ngx_derp_worker.bufs, s->in);
        s->in = NULL;
    }
}


void
ngx_derp_session_resume(ngx_derp_session_t *s)
{
    /*
     * Not from here: the caller may be in the midst of what the worker's
     * buffer holds.
     */

    s->resumed = 1;
    ngx_post_event(s->connection->read, &ngx_posted_events);
}


void
ngx_derp_session_unblocked(ngx_derp_session_t *s)
{
    if (s->watch) {
        ngx_derp_worker_post();
    }
}


ngx_int_t
ngx_derp_session_breach(ngx_derp_session_t *s, char *what, const char *name,
    size_t len)
{
    ngx_log_error(NGX_LOG_INFO, s->connection->log, 0,
                  "client sent %s of %uz bytes %s", name, len, what);

    ngx_derp_session_fail(s, "protocol error");

    return NGX_ERROR;
}


void
ngx_derp_session_fail(ngx_derp_session_t *s, char *reason)
{
    if (s->state == NGX_DERP_STATE_CLOSING) {
        return;
    }

    s->reason = reason;
    s->state = NGX_DERP_STATE_CLOSING;

    if (s->paused) {
        ngx_queue_remove(&s->waiting);
        s->paused = 0;
    }

    ngx_queue_insert_tail(&ngx_derp_worker.closing, &s->waiting);
    ngx_derp_worker_post();
}


void
ngx_derp_session_close(ngx_derp_session_t *s)
{
    ngx_connection_t  *c;
    ngx_derp_relay_t  *relay;

    c = s->connection;
    relay = s->relay;

    /* off the worker's lists: nobody in this worker finds it any more */

    ngx_queue_remove(&s->waiting);
    ngx_queue_remove(&s->queue);

    ngx_derp_heard_forget(s);
    ngx_derp_watch_stop(s);

    /* off the registry: packets of other workers on the way are dropped */

    if (s->route) {
        ngx_derp_session_unregister(s);
    }

    ngx_derp_outbox_destroy(s);

    ngx_derp_session_put_in(s);

    ngx_derp_session_log_end(s);

    /* the connection may take a while to close, and logs without a session */

    c->log->handler = NULL;

#if (NGX_SSL)
    if (c->ssl) {
        c->ssl->no_wait_shutdown = 1;
    }
#endif

    if (s->link) {
        ngx_derp_mesh_closed(s);

    } else {
        relay->close(c);
    }

    ngx_free(s);
}


static void
ngx_derp_session_unregister(ngx_derp_session_t *s)
{
    ngx_derp_relay_t   *relay;
    ngx_derp_gauges_t  *gauges;

    relay = s->relay;

    relay->sessions[ngx_derp_route_index(s->route)] = NULL;

    ngx_derp_registry_remove(&relay->region, s->route);
    relay->changed = 1;

    if (s->link) {
        return;
    }

    gauges = &relay->region.member->gauges;

    gauges->clients--;
    gauges->home -= s->preferred;

    if (s->flags & NGX_DERP_PRESENT_NOT_IDEAL) {
        gauges->not_ideal--;
    }
}


static void
ngx_derp_session_log_end(ngx_derp_session_t *s)
{
    ngx_msec_t           elapsed;
    ngx_derp_traffic_t  *t, none;

    ngx_memzero(&none, sizeof(ngx_derp_traffic_t));

    t = s->route ? &s->traffic : &none;
    elapsed = ngx_current_msec - s->started;

    s->connection->log->action = NULL;

    ngx_log_error(NGX_LOG_INFO, s->connection->log, 0,
                  "derp session ended: %s, %M.%03Ms, "
                  "in: %uL packets, %uL bytes, out: %uL packets, %uL bytes",
                  s->reason, elapsed / 1000, elapsed % 1000,
                  t->packets_in, t->bytes_in, t->packets_out, t->bytes_out);
}


static u_char *
ngx_derp_session_log_error(ngx_log_t *log, u_char *buf, size_t len)
{
    u_char              *p, hex[NGX_DERP_HEX_LEN];
    ngx_derp_session_t  *s;

    s = log->data;
    p = buf;

    if (log->action) {
        p = ngx_snprintf(buf, len, " while %s", log->action);
        len -= p - buf;
        buf = p;
    }

    p = ngx_snprintf(buf, len, ", derp_relay: \"%V\", %s: %V",
                     &s->relay->name, s->link ? "mesh" : "client",
                     &s->connection->addr_text);
    len -= p - buf;
    buf = p;

    if (!ngx_derp_key_is_zero(s->key)) {
        ngx_derp_key_hex(hex, s->key);
        p = ngx_snprintf(buf, len, ", nodekey:%*s", sizeof(hex), hex);
    }

    return p;
}
