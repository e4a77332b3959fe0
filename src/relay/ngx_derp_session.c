
/*
 * A session.
 */


#include "ngx_derp_session.h"
#include "ngx_derp_client.h"
#include "ngx_derp_exchange.h"
#include "ngx_derp_heard.h"
#include "ngx_derp_lock.h"
#include "ngx_derp_login.h"
#include "ngx_derp_mesh.h"
#include "ngx_derp_ssl.h"
#include "ngx_derp_watch.h"
#include "ngx_derp_worker.h"


/*
 * A worker that has had the zone's lock for so many ms holds up no packet any
 * more, and is said to hang after some more.
 */
#define NGX_DERP_LOCK_STALL    100
#define NGX_DERP_LOCK_HANG     500

/* derper's -tcp-user-timeout, in milliseconds */
#define NGX_DERP_USER_TIMEOUT  15000


typedef struct {
    const char   *name;

    /*
     * By a frame's header: NGX_OK, it is to be read whole; NGX_DECLINED, it is
     * to be read past; NGX_ERROR, the session has failed.
     */
    ngx_int_t   (*check)(ngx_derp_session_t *s, ngx_uint_t type, size_t len);

    /*
     * A whole frame of *len bytes.  What follows it before last may be taken
     * along, *len is then more.  NGX_AGAIN: it is to be offered again.
     */
    ngx_int_t   (*frame)(ngx_derp_session_t *s, u_char *frame, size_t *len,
                         u_char *last);

    void        (*timer)(ngx_derp_session_t *s);
} ngx_derp_state_t;


static void ngx_derp_session_tcp(ngx_connection_t *c);
static void ngx_derp_session_read_handler(ngx_event_t *rev);
static void ngx_derp_session_write_handler(ngx_event_t *wev);
static void ngx_derp_session_receive(ngx_derp_session_t *s);
static ngx_int_t ngx_derp_session_read(ngx_derp_session_t *s);
static size_t ngx_derp_session_rest(ngx_derp_session_t *s);
static ssize_t ngx_derp_session_recv(ngx_derp_session_t *s, size_t rest);
static void ngx_derp_session_process_held(ngx_derp_session_t *s);
static u_char *ngx_derp_session_process(ngx_derp_session_t *s, u_char *p,
    u_char *last);
static void ngx_derp_session_keep(ngx_derp_session_t *s, u_char *p,
    u_char *last);
static void ngx_derp_session_put_in(ngx_derp_session_t *s);
static void ngx_derp_session_resume(ngx_derp_session_t *s);
static ngx_uint_t ngx_derp_session_denied(ngx_derp_relay_t *relay);
static void ngx_derp_session_end(ngx_derp_session_t *s);
static void ngx_derp_session_hang_up(ngx_derp_session_t *s);
static void ngx_derp_session_unregister(ngx_derp_session_t *s);
static ngx_int_t ngx_derp_session_remove(ngx_derp_session_t *s);
static void ngx_derp_session_free(ngx_derp_session_t *s, ngx_int_t rc);
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

    [NGX_DERP_STATE_ENTERING] = {
        "awaiting the derp registry",
        ngx_derp_login_check,
        ngx_derp_login_enter,
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


ngx_uint_t
ngx_derp_session_refused(ngx_derp_relay_t *relay)
{
    if (relay->sessions == NULL || ngx_derp_worker.draining) {
        return 1;
    }

    if (ngx_derp_registry_full(&relay->region)) {
        ngx_derp_worker_complain(relay, "has no room for another client: "
                                 "increase its \"zone\"");
        return 1;
    }

    return 0;
}


ngx_int_t
ngx_derp_session_create(ngx_derp_relay_t *relay, ngx_connection_t *c,
    ngx_derp_client_t *client, u_char *data, size_t len)
{
    ngx_derp_session_t  *s;

    /* it would stay for ever, since those that are there are told only once */

    if (ngx_derp_worker.draining) {
        return NGX_ERROR;
    }

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
        ngx_derp_session_keep(s, data, data + len);
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

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                   "derp session state: %s", ngx_derp_states[state].name);
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

    s->seals = ngx_derp_ssl_adopt(c);

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

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, c->log, 0,
                   "derp session begins, fd:%d seals:%d", c->fd, s->seals);

    return s;
}


static void
ngx_derp_session_tcp(ngx_connection_t *c)
{
    if (c->sockaddr && c->sockaddr->sa_family == AF_UNIX) {
        return;
    }

    /* without it small packets wait for the acknowledgement of others */

    (void) ngx_tcp_nodelay(c);

    ngx_derp_session_user_timeout(c, NGX_DERP_USER_TIMEOUT);
}


void
ngx_derp_session_user_timeout(ngx_connection_t *c, ngx_msec_t msec)
{
    int  timeout;

    if (c->sockaddr && c->sockaddr->sa_family == AF_UNIX) {
        return;
    }

    timeout = (int) msec;

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
    uint32_t             index;
    ngx_derp_session_t  *s;

    index = ngx_derp_route_index(route);

    /* the route may have come from another worker */

    if (index >= relay->region.zone->capacity) {
        return NULL;
    }

    s = relay->sessions[index];

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
        ngx_derp_session_login_fails(s, NGX_DERP_LOGIN_SHUTDOWN);
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
    ngx_uint_t    resumed;
    ngx_event_t  *rev;

    rev = s->connection->read;

    resumed = s->resumed;
    s->resumed = 0;

    if (resumed && s->in) {
        ngx_derp_session_process_held(s);

    } else if (ngx_derp_exchange_test(s) == NGX_AGAIN
               || ngx_derp_session_read(s) != NGX_OK)
    {
        return;
    }

    /* the others come first, then what is left in the socket */

    if (rev->ready && !rev->posted && !s->paused
        && s->state != NGX_DERP_STATE_CLOSING)
    {
        ngx_post_event(rev, &ngx_posted_next_events);
    }
}


static ngx_int_t
ngx_derp_session_read(ngx_derp_session_t *s)
{
    u_char   *p, *last;
    size_t    rest, held;
    ssize_t   n;

    rest = ngx_derp_session_rest(s);
    n = ngx_derp_session_recv(s, rest);

    if (n <= 0) {
        return NGX_ERROR;
    }

    /*
     * Of several connections with a key the last to speak is the active one;
     * who cannot become it now does when it speaks again.
     */

    if (s->state == NGX_DERP_STATE_CLIENT
        && ngx_derp_registry_route(&s->relay->region, &s->peer) != s->route)
    {
        ngx_log_debug0(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                       "derp client becomes the active one of its key");

        (void) ngx_derp_registry_activate(&s->relay->region, s->route);
    }

    p = ngx_derp_worker.buffer;
    last = p + n;

    if (rest) {
        s->in->last += ngx_min((size_t) n, rest);

        if ((size_t) n < rest) {
            return NGX_OK;
        }

        last -= rest;

        if (ngx_derp_session_process(s, s->in->pos, s->in->last) == s->in->last)
        {
            ngx_derp_session_put_in(s);
        }
    }

    if (s->in) {
        held = s->in->last - s->in->pos;
        p -= held;
        ngx_memcpy(p, s->in->pos, held);
    }

    if (!s->paused) {
        p = ngx_derp_session_process(s, p, last);
    }

    if (s->state != NGX_DERP_STATE_CLOSING) {
        ngx_derp_session_keep(s, p, last);
    }

    return NGX_OK;
}


/* What is missing of a large frame, which has a buffer that holds it whole. */

static size_t
ngx_derp_session_rest(ngx_derp_session_t *s)
{
    size_t           len, held;
    ngx_derp_buf_t  *in;

    in = s->in;

    if (in == NULL || in->last - in->pos < NGX_DERP_HEADER_LEN) {
        return 0;
    }

    held = in->last - in->pos;
    len = ngx_derp_frame_len(in->pos);

    if (len < NGX_DERP_RECORD || len > (size_t) (in->end - in->pos)) {
        return 0;
    }

    return len - held;
}


/* To where the rest of a large frame belongs, and on to the worker's buffer. */

static ssize_t
ngx_derp_session_recv(ngx_derp_session_t *s, size_t rest)
{
    ssize_t            n;
    ngx_buf_t          frame, buffer;
    ngx_chain_t        in[2];
    ngx_connection_t  *c;

    c = s->connection;

    buffer.last = ngx_derp_worker.buffer;
    buffer.end = buffer.last + NGX_DERP_READ_SIZE;

    in[1].buf = &buffer;
    in[1].next = NULL;

    if (rest) {
        frame.last = s->in->last;
        frame.end = frame.last + rest;

        in[0].buf = &frame;
        in[0].next = &in[1];
    }

    n = ngx_derp_outbox_recv(s, rest ? &in[0] : &in[1]);

    if (n == NGX_AGAIN) {
        if (ngx_handle_read_event(c->read, 0) != NGX_OK) {
            ngx_derp_session_fail(s, "read event failed");
        }

    } else if (n == NGX_ERROR) {
        c->error = 1;
        ngx_derp_session_fail(s, "read failed");

    } else if (n == 0) {
        ngx_derp_session_fail(s, s->linked ? "mesh peer closed"
                                           : "client closed");
    }

    return n;
}


/* What a paused session has kept is processed where it is. */

static void
ngx_derp_session_process_held(ngx_derp_session_t *s)
{
    u_char          *p;
    size_t           len;
    ngx_derp_buf_t  *in;

    in = s->in;
    p = ngx_derp_session_process(s, in->pos, in->last);

    if (s->state == NGX_DERP_STATE_CLOSING) {
        return;
    }

    if (s->paused) {
        in->pos = p;
        return;
    }

    len = in->last - p;

    ngx_memcpy(ngx_derp_worker.buffer, p, len);
    ngx_derp_session_keep(s, ngx_derp_worker.buffer,
                          ngx_derp_worker.buffer + len);
}


/*
 * Frame by frame, or as many as the state takes at once.  Returns what is left:
 * half a frame, or what is to be offered again.
 */

static u_char *
ngx_derp_session_process(ngx_derp_session_t *s, u_char *p, u_char *last)
{
    size_t                   len;
    const ngx_derp_state_t  *state;

    while (s->state != NGX_DERP_STATE_CLOSING) {

        if (s->skip) {
            len = ngx_min(s->skip, (size_t) (last - p));
            s->skip -= len;
            p += len;
        }

        if (last - p < NGX_DERP_HEADER_LEN) {
            return p;
        }

        state = &ngx_derp_states[s->state];
        len = ngx_derp_frame_len(p);

        switch (state->check(s, p[0], len - NGX_DERP_HEADER_LEN)) {

        case NGX_OK:
            break;

        case NGX_DECLINED:
            p += NGX_DERP_HEADER_LEN;
            s->skip = len - NGX_DERP_HEADER_LEN;
            continue;

        default:
            return p;
        }

        if ((size_t) (last - p) < len
            || state->frame(s, p, &len, last) != NGX_OK)
        {
            return p;
        }

        p += len;
    }

    return p;
}


/* What is left of what was read is all that a session has of its own. */

static void
ngx_derp_session_keep(ngx_derp_session_t *s, u_char *p, u_char *last)
{
    size_t               len, size;
    ngx_queue_t         *q;
    ngx_derp_buf_t      *buf;
    ngx_derp_session_t  *other;

    ngx_derp_session_put_in(s);

    len = last - p;
    size = len;

    if (len == 0) {
        return;
    }

    /* the rest of a large packet is read to where it is kept */

    if (s->state == NGX_DERP_STATE_CLIENT && !s->paused
        && len >= NGX_DERP_HEADER_LEN)
    {
        size = ngx_max(size, ngx_derp_frame_len(p));
    }

    s->in = ngx_derp_buf_get(&ngx_derp_worker.bufs, size, s->connection->log);

    if (s->in == NULL) {
        ngx_derp_session_login_fails(s, NGX_DERP_LOGIN_MEMORY);
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
        ngx_derp_session_login_fails(other, NGX_DERP_LOGIN_MEMORY);
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


static void
ngx_derp_session_resume(ngx_derp_session_t *s)
{
    /*
     * Not from here: the caller may be in the midst of what the worker's
     * buffer holds.
     */

    s->resumed = 1;
    ngx_post_event(s->connection->read, &ngx_posted_events);
}


ngx_int_t
ngx_derp_session_wait(ngx_derp_session_t *s)
{
    ngx_queue_insert_tail(&s->relay->denied, &s->waiting);
    s->paused = 1;

    /* one that is closed has no connection any more */

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, ngx_derp_worker.log, 0,
                   "derp session %p waits for the lock of the zone", s);

    ngx_derp_worker_post();

    return NGX_AGAIN;
}


void
ngx_derp_session_retry(ngx_derp_relay_t *relay)
{
    if (!ngx_derp_session_denied(relay)) {
        ngx_derp_session_resume_all(&relay->denied);
    }
}


void
ngx_derp_session_resume_all(ngx_queue_t *waiting)
{
    ngx_queue_t          queue, *q;
    ngx_derp_session_t  *s;

    if (ngx_queue_empty(waiting)) {
        return;
    }

    /* who has to wait again does so in the new queue, behind the others */

    ngx_queue_init(&queue);
    ngx_queue_add(&queue, waiting);
    ngx_queue_init(waiting);

    while (!ngx_queue_empty(&queue)) {
        q = ngx_queue_head(&queue);
        s = ngx_queue_data(q, ngx_derp_session_t, waiting);

        ngx_queue_remove(q);

        /* one that is closed waits for the zone's lock, and no more */

        if (s->state == NGX_DERP_STATE_CLOSING) {
            ngx_derp_session_free(s, ngx_derp_session_remove(s));
            continue;
        }

        s->paused = 0;
        ngx_derp_session_resume(s);

        ngx_log_debug0(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                       "derp session is resumed");
    }
}


void
ngx_derp_session_discard(ngx_derp_relay_t *relay)
{
    ngx_queue_t         *q, *next;
    ngx_derp_session_t  *s;

    while (!ngx_queue_empty(&relay->all)) {
        q = ngx_queue_head(&relay->all);
        s = ngx_queue_data(q, ngx_derp_session_t, queue);

        ngx_derp_session_login_fails(s, NGX_DERP_LOGIN_SHUTDOWN);
        ngx_derp_session_fail(s, "worker is shutting down");
        ngx_derp_session_end(s);
        ngx_derp_session_hang_up(s);

        ngx_free(s);
    }

    for (q = ngx_queue_head(&relay->denied);
         q != ngx_queue_sentinel(&relay->denied);
         q = next)
    {
        next = ngx_queue_next(q);
        s = ngx_queue_data(q, ngx_derp_session_t, waiting);

        if (s->state == NGX_DERP_STATE_CLOSING) {
            ngx_queue_remove(q);
            ngx_free(s);
        }
    }
}


/* Whether all that waits for the lock of the zone is to wait on. */

static ngx_uint_t
ngx_derp_session_denied(ngx_derp_relay_t *relay)
{
    uint32_t    locks;
    ngx_msec_t  waited;

    if (!relay->region.denied
        && !relay->stalled
        && ngx_queue_empty(&relay->denied))
    {
        relay->denied_since = 0;
        return 1;
    }

    if (ngx_derp_lock(&relay->region) == NGX_OK) {
        ngx_derp_unlock(&relay->region);

        relay->denied_since = 0;
        relay->stalled = 0;

        return 0;
    }

    /* many may want it, and get it, before this worker does */

    locks = ngx_derp_load(&relay->region.zone->locks);

    if (relay->denied_since == 0 || relay->denied_locks != locks) {
        relay->denied_since = ngx_current_msec;
        relay->denied_locks = locks;
    }

    waited = ngx_current_msec - relay->denied_since;

    if (waited >= NGX_DERP_LOCK_HANG) {
        ngx_derp_worker_complain(relay, "has its registry locked by a worker "
                                 "that does not go on: nobody can log in");
    }

    if (relay->stalled || waited < NGX_DERP_LOCK_STALL) {
        return 1;
    }

    /* a session that can do without it goes on now, and waits no more */

    relay->stalled = 1;

    return 0;
}


void
ngx_derp_session_unblocked(ngx_derp_session_t *s)
{
    s->pong = 0;

    if (s->watches) {
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

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                   "derp session fails: %s", reason);

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
ngx_derp_session_login_fails(ngx_derp_session_t *s, ngx_derp_login_e reason)
{
    if (s->state == NGX_DERP_STATE_LOGIN
        || s->state == NGX_DERP_STATE_ENTERING)
    {
        s->login = reason;
    }
}


void
ngx_derp_session_close(ngx_derp_session_t *s)
{
    ngx_int_t  rc;

    ngx_derp_session_end(s);

    /* off the registry, which is to be before the client can come again */

    s->removed = 0;
    rc = ngx_derp_session_remove(s);

    ngx_derp_session_hang_up(s);
    ngx_derp_session_free(s, rc);
}


/* All but its place in the registry, its connection and itself. */

static void
ngx_derp_session_end(ngx_derp_session_t *s)
{
    /* off the worker's lists: nobody in this worker finds it any more */

    ngx_queue_remove(&s->waiting);
    ngx_queue_remove(&s->queue);

    ngx_derp_heard_forget(s);
    ngx_derp_watch_stop(s);
    ngx_derp_exchange_forget(s);

    /* packets of other workers on the way are dropped from here on */

    if (s->route) {
        ngx_derp_session_unregister(s);
    }

    ngx_derp_outbox_destroy(s);

    ngx_derp_session_put_in(s);

    if (!s->linked && s->login != NGX_DERP_LOGIN_OK) {
        s->relay->region.member->counters.login_failures[s->login]++;
    }

    ngx_derp_session_log_end(s);
}


/* The connection may take a while to close, and logs without a session. */

static void
ngx_derp_session_hang_up(ngx_derp_session_t *s)
{
    ngx_connection_t  *c;

    c = s->connection;

    c->log->handler = NULL;

    if (c->ssl) {
        c->ssl->no_wait_shutdown = 1;
    }

    if (s->linked) {
        ngx_derp_mesh_closed(s);

    } else {
        s->relay->close(c);
    }
}


/* NGX_AGAIN: another has the zone's lock, or it is a link with much on it */

static ngx_int_t
ngx_derp_session_remove(ngx_derp_session_t *s)
{
    if (s->route == NGX_DERP_NO_ROUTE) {
        return NGX_OK;
    }

    return ngx_derp_registry_remove(&s->relay->region, s->route, &s->removed);
}


/* What the registry still knows of stays until that is told, too. */

static void
ngx_derp_session_free(ngx_derp_session_t *s, ngx_int_t rc)
{
    if (rc == NGX_AGAIN) {
        (void) ngx_derp_session_wait(s);

    } else {
        ngx_free(s);
    }
}


static void
ngx_derp_session_unregister(ngx_derp_session_t *s)
{
    ngx_derp_relay_t   *relay;
    ngx_derp_gauges_t  *gauges;

    relay = s->relay;

    relay->sessions[ngx_derp_route_index(s->route)] = NULL;

    if (s->linked) {
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
                     &s->relay->name, s->linked ? "mesh" : "client",
                     &s->connection->addr_text);
    len -= p - buf;
    buf = p;

    if (!ngx_derp_key_is_zero(s->key)) {
        ngx_derp_key_hex(hex, s->key);
        p = ngx_snprintf(buf, len, ", nodekey:%*s", sizeof(hex), hex);
    }

    return p;
}
