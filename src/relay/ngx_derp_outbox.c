
/*
 * The outbox of a connection.
 */


#include "ngx_derp_outbox.h"
#include "ngx_derp_backlog.h"
#include "ngx_derp_ssl.h"
#include "ngx_derp_worker.h"


/* so many outboxes may hold a large buffer before they are flushed early */
#define NGX_DERP_MAX_TOUCHED   256

/* room for what OpenSSL answers to a client that does not read, in bytes */
#define NGX_DERP_ANSWERS       256


static void ngx_derp_outbox_append(ngx_derp_session_t *s, u_char *p,
    u_char *last);
static ngx_int_t ngx_derp_outbox_touch(ngx_derp_session_t *s);
static ngx_derp_buf_t *ngx_derp_outbox_untouch(ngx_derp_outbox_t *out);
static void ngx_derp_outbox_pass(ngx_derp_session_t *s, u_char *p,
    u_char *last);
static void ngx_derp_outbox_flush_blocked(ngx_derp_session_t *s);
static ngx_int_t ngx_derp_outbox_write_buf(ngx_derp_session_t *s,
    ngx_derp_buf_t *buf);
static ngx_int_t ngx_derp_outbox_write(ngx_derp_session_t *s, u_char **pos,
    u_char *last);
static ssize_t ngx_derp_outbox_send(ngx_derp_session_t *s, u_char *p,
    size_t size);
static void ngx_derp_outbox_went(ngx_connection_t *c);
static ssize_t ngx_derp_outbox_seal(ngx_derp_session_t *s, u_char *p,
    size_t size);
static ssize_t ngx_derp_outbox_write_sealed(ngx_derp_session_t *s, u_char *p,
    size_t size);
static ngx_int_t ngx_derp_outbox_keep_sealed(ngx_derp_session_t *s, u_char *p,
    size_t size);
static ngx_int_t ngx_derp_outbox_answer(ngx_derp_session_t *s,
    ngx_str_t *sealed);
static void ngx_derp_outbox_block(ngx_derp_session_t *s, u_char *frame,
    u_char *pos, u_char *last);
static void ngx_derp_outbox_keep(ngx_derp_session_t *s, u_char *p,
    size_t len);
static void ngx_derp_outbox_wait(ngx_derp_session_t *s);
static void ngx_derp_outbox_unblock(ngx_derp_session_t *s);
static void ngx_derp_outbox_put_buf(ngx_derp_session_t *s);
static void ngx_derp_outbox_drop_buf(ngx_derp_session_t *s,
    ngx_derp_buf_t *buf);


void
ngx_derp_outbox_span(ngx_derp_session_t *s, ngx_derp_span_t *span)
{
    size_t                size;
    ngx_derp_counters_t  *counters;

    size = ngx_derp_span_bytes(span);
    counters = &s->relay->region.member->counters;

    s->traffic.packets_out += span->packets;
    s->traffic.bytes_out += size;
    counters->packets_sent += span->packets;
    counters->bytes_sent += size;

    ngx_derp_outbox_append(s, span->pos, span->last);
}


void
ngx_derp_outbox_frame(ngx_derp_session_t *s, u_char *frame, size_t len)
{
    ngx_derp_outbox_append(s, frame, frame + len);
}


/* Whole frames: written as they are, gathered, or queued. */

static void
ngx_derp_outbox_append(ngx_derp_session_t *s, u_char *p, u_char *last)
{
    size_t              len;
    ngx_derp_outbox_t  *out;

    out = &s->out;
    len = last - p;

    while (!out->blocked && s->state != NGX_DERP_STATE_CLOSING) {

        if (out->buf == NULL) {

            if (len >= NGX_DERP_RECORD) {
                ngx_derp_outbox_pass(s, p, last);
                return;
            }

            if (ngx_derp_outbox_touch(s) != NGX_OK) {
                return;
            }
        }

        if (len <= (size_t) (out->buf->end - out->buf->last)) {
            out->buf->last = ngx_cpymem(out->buf->last, p, len);
            return;
        }

        ngx_derp_outbox_flush(s);
    }

    ngx_derp_backlog_add(s, p, last);
}


static ngx_int_t
ngx_derp_outbox_touch(ngx_derp_session_t *s)
{
    ngx_queue_t        *q;
    ngx_derp_outbox_t  *out;

    out = &s->out;

    if (ngx_derp_worker.ntouched >= NGX_DERP_MAX_TOUCHED) {
        q = ngx_queue_head(&ngx_derp_worker.touched);
        ngx_derp_outbox_flush(ngx_queue_data(q, ngx_derp_session_t, out.link));
    }

    out->buf = ngx_derp_buf_get(&ngx_derp_worker.bufs, NGX_DERP_BUF_LARGE,
                                s->connection->log);
    if (out->buf == NULL) {
        ngx_derp_session_fail(s, "no memory for its outbox");
        return NGX_ERROR;
    }

    ngx_queue_insert_tail(&ngx_derp_worker.touched, &out->link);
    ngx_derp_worker.ntouched++;
    ngx_derp_worker_post();

    return NGX_OK;
}


/* Its buffer is the caller's from here on, or there is none. */

static ngx_derp_buf_t *
ngx_derp_outbox_untouch(ngx_derp_outbox_t *out)
{
    ngx_derp_buf_t  *buf;

    buf = out->buf;

    if (buf) {
        ngx_queue_remove(&out->link);
        ngx_derp_worker.ntouched--;

        out->buf = NULL;
    }

    return buf;
}


/* From where it lies to the socket: a copy would cost more than the write. */

static void
ngx_derp_outbox_pass(ngx_derp_session_t *s, u_char *p, u_char *last)
{
    u_char  *pos;

    pos = p;

    switch (ngx_derp_outbox_write(s, &pos, last)) {

    case NGX_OK:
        break;

    case NGX_AGAIN:
        ngx_derp_outbox_block(s, p, pos, last);
        break;

    default:
        ngx_derp_session_fail(s, "write failed");
    }
}


void
ngx_derp_outbox_flush(ngx_derp_session_t *s)
{
    ngx_derp_buf_t  *buf;

    if (s->out.blocked) {
        ngx_derp_outbox_flush_blocked(s);
        return;
    }

    buf = ngx_derp_outbox_untouch(&s->out);

    if (buf) {

        /* where a write has failed nothing follows: a record may be missing */

        if (!s->connection->write->error) {
            ngx_derp_outbox_pass(s, buf->start, buf->last);
        }

        ngx_derp_buf_put(&ngx_derp_worker.bufs, buf);
    }
}


static void
ngx_derp_outbox_flush_blocked(ngx_derp_session_t *s)
{
    ngx_int_t           rc;
    ngx_derp_outbox_t  *out;

    out = &s->out;

    while (out->buf || ngx_derp_backlog_refill(s)) {

        rc = ngx_derp_outbox_write_buf(s, out->buf);

        if (rc == NGX_AGAIN) {
            ngx_derp_backlog_bound(s);
            ngx_derp_outbox_wait(s);
            return;
        }

        if (rc == NGX_ERROR) {
            ngx_derp_session_fail(s, "write failed");
            return;
        }

        ngx_derp_outbox_put_buf(s);
    }

    ngx_derp_outbox_unblock(s);
}


static ngx_int_t
ngx_derp_outbox_write_buf(ngx_derp_session_t *s, ngx_derp_buf_t *buf)
{
    ssize_t    n;
    ngx_int_t  rc;

    if (buf->kind != NGX_DERP_SEALED) {
        rc = ngx_derp_outbox_write(s, &buf->pos, buf->last);

        if (rc == NGX_AGAIN && buf->pos == buf->last) {

            /* all of it is sealed, and in another one before it */

            s->out.buf->next = NULL;
            ngx_derp_outbox_drop_buf(s, buf);
        }

        return rc;
    }

    n = ngx_derp_outbox_write_sealed(s, buf->pos, buf->last - buf->pos);

    if (n == NGX_ERROR) {
        return NGX_ERROR;
    }

    buf->pos += n;

    return buf->pos < buf->last ? NGX_AGAIN : NGX_OK;
}


static ngx_int_t
ngx_derp_outbox_write(ngx_derp_session_t *s, u_char **pos, u_char *last)
{
    ssize_t            n;
    ngx_connection_t  *c;

    c = s->connection;

    while (*pos < last) {

        n = ngx_derp_outbox_send(s, *pos, last - *pos);

        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (n > 0) {
            *pos += n;
        }

        if (ngx_derp_outbox_sealed(s)) {
            return NGX_AGAIN;
        }

        if (n == NGX_AGAIN || !c->write->ready) {
            return *pos < last ? NGX_AGAIN : NGX_OK;
        }
    }

    return NGX_OK;
}


static ssize_t
ngx_derp_outbox_send(ngx_derp_session_t *s, u_char *p, size_t size)
{
    ssize_t            n;
    ngx_connection_t  *c;

    if (s->seals) {
        return ngx_derp_outbox_seal(s, p, size);
    }

    c = s->connection;

    n = c->send(c, p, c->ssl ? ngx_min(size, NGX_DERP_RECORD) : size);

    if (n > 0) {
        ngx_derp_outbox_went(c);
    }

    return n;
}


/* A new try to write begins with every byte that goes out. */

static void
ngx_derp_outbox_went(ngx_connection_t *c)
{
    if (c->write->timer_set) {
        ngx_del_timer(c->write);
    }
}


static ssize_t
ngx_derp_outbox_seal(ngx_derp_session_t *s, u_char *p, size_t size)
{
    ssize_t    done, n;
    ngx_str_t  sealed;

    done = ngx_derp_ssl_seal(s->connection, p, size, &sealed);

    if (done == NGX_ERROR) {
        return NGX_ERROR;
    }

    n = ngx_derp_outbox_write_sealed(s, sealed.data, sealed.len);

    if (n < (ssize_t) sealed.len) {

        if (n == NGX_ERROR
            || ngx_derp_outbox_keep_sealed(s, sealed.data + n, sealed.len - n)
               != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return done;
}


static ssize_t
ngx_derp_outbox_write_sealed(ngx_derp_session_t *s, u_char *p, size_t size)
{
    ssize_t  n;

    n = ngx_send(s->connection, p, size);

    if (n > 0) {
        ngx_derp_outbox_went(s->connection);
    }

    return n == NGX_AGAIN ? 0 : n;
}


/* What is sealed is to go out as it is, and before anything else. */

static ngx_int_t
ngx_derp_outbox_keep_sealed(ngx_derp_session_t *s, u_char *p, size_t size)
{
    ngx_derp_buf_t  *buf;

    buf = ngx_derp_buf_get(&ngx_derp_worker.bufs, size + NGX_DERP_ANSWERS,
                           s->connection->log);
    if (buf == NULL) {

        /* nothing goes out behind half a record */

        s->connection->ssl->no_send_shutdown = 1;
        return NGX_ERROR;
    }

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                   "derp outbox keeps %uz sealed bytes", size);

    buf->kind = NGX_DERP_SEALED;
    buf->last = ngx_cpymem(buf->last, p, size);

    buf->next = s->out.buf;
    s->out.buf = buf;

    ngx_derp_backlog_hold(s, ngx_derp_buf_size(buf));

    return NGX_OK;
}


ssize_t
ngx_derp_outbox_recv(ngx_derp_session_t *s, ngx_chain_t *in)
{
    ssize_t            n;
    ngx_str_t          sealed;
    ngx_connection_t  *c;

    c = s->connection;

    if (!s->seals) {

        /* what readv() does for one buffer recv() does with less */

        if (in->next == NULL) {
            return c->recv(c, in->buf->last, in->buf->end - in->buf->last);
        }

        return c->recv_chain(c, in, 0);
    }

    n = ngx_derp_ssl_recv(c, in, &sealed);

    if (sealed.len && ngx_derp_outbox_answer(s, &sealed) != NGX_OK) {
        return NGX_ERROR;
    }

    return n;
}


/* It goes before what is not sealed yet, and behind what is. */

static ngx_int_t
ngx_derp_outbox_answer(ngx_derp_session_t *s, ngx_str_t *sealed)
{
    ssize_t          n;
    ngx_int_t        rc;
    ngx_derp_buf_t  *buf;

    if (ngx_derp_outbox_sealed(s)) {
        buf = s->out.buf;

        if (sealed->len > (size_t) (buf->end - buf->last)) {
            return NGX_ERROR;
        }

        buf->last = ngx_cpymem(buf->last, sealed->data, sealed->len);
        return NGX_OK;
    }

    n = ngx_derp_outbox_write_sealed(s, sealed->data, sealed->len);

    if (n == NGX_ERROR || n == (ssize_t) sealed->len) {
        return n == NGX_ERROR ? NGX_ERROR : NGX_OK;
    }

    buf = s->out.blocked ? NULL : ngx_derp_outbox_untouch(&s->out);

    rc = ngx_derp_outbox_keep_sealed(s, sealed->data + n, sealed->len - n);

    if (buf) {
        ngx_derp_outbox_block(s, buf->start, buf->start, buf->last);
        ngx_derp_buf_put(&ngx_derp_worker.bufs, buf);

    } else if (!s->out.blocked) {
        ngx_derp_outbox_block(s, NULL, NULL, NULL);
    }

    return rc;
}


/*
 * The socket takes no more: of what is behind pos in these frames, that which
 * has begun to go out is kept, and the rest queues.  A TLS record that the
 * kernel was to seal has begun, as it is to be tried again with the same bytes.
 */

static void
ngx_derp_outbox_block(ngx_derp_session_t *s, u_char *frame, u_char *pos,
    u_char *last)
{
    u_char  *begun;

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                   "derp outbox is blocked, begun:%z left:%z",
                   pos - frame, last - pos);

    s->out.blocked = 1;

    begun = pos;

    if (s->connection->ssl && !s->seals) {
        begun += ngx_min(last - pos, NGX_DERP_RECORD);
    }

    while (frame < begun) {
        frame += ngx_derp_frame_len(frame);
    }

    if (frame > pos) {
        ngx_derp_outbox_keep(s, pos, frame - pos);
    }

    ngx_derp_backlog_bound(s);
    ngx_derp_backlog_add(s, frame, last);

    if (s->state != NGX_DERP_STATE_CLOSING) {
        ngx_derp_outbox_wait(s);
    }
}


static void
ngx_derp_outbox_keep(ngx_derp_session_t *s, u_char *p, size_t len)
{
    ngx_derp_buf_t  *buf;

    buf = ngx_derp_buf_get(&ngx_derp_worker.bufs, len, s->connection->log);

    if (buf == NULL) {
        ngx_derp_session_fail(s, "no memory for its outbox");
        return;
    }

    buf->last = ngx_cpymem(buf->last, p, len);

    if (s->out.buf) {
        s->out.buf->next = buf;

    } else {
        s->out.buf = buf;
    }

    ngx_derp_backlog_hold(s, ngx_derp_buf_size(buf));
}


static void
ngx_derp_outbox_wait(ngx_derp_session_t *s)
{
    ngx_msec_t    timeout;
    ngx_event_t  *wev;

    wev = s->connection->write;

    timeout = s->mesh || s->linked ? s->relay->mesh_write_timeout
                                 : s->relay->write_timeout;

    if (timeout && !wev->timer_set) {
        ngx_add_timer(wev, timeout);
    }

    if (ngx_handle_write_event(wev, 0) != NGX_OK) {
        ngx_derp_session_fail(s, "write event failed");
    }
}


static void
ngx_derp_outbox_unblock(ngx_derp_session_t *s)
{
    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                   "derp outbox is empty again");

    s->out.blocked = 0;

    if (s->connection->write->timer_set) {
        ngx_del_timer(s->connection->write);
    }

    ngx_derp_session_unblocked(s);
}


static void
ngx_derp_outbox_put_buf(ngx_derp_session_t *s)
{
    ngx_derp_buf_t     *buf;
    ngx_derp_outbox_t  *out;

    out = &s->out;
    buf = out->buf;

    out->buf = buf->next;

    ngx_derp_outbox_drop_buf(s, buf);
}


static void
ngx_derp_outbox_drop_buf(ngx_derp_session_t *s, ngx_derp_buf_t *buf)
{
    ngx_derp_backlog_hold(s, - (ssize_t) ngx_derp_buf_size(buf));
    ngx_derp_buf_put(&ngx_derp_worker.bufs, buf);
}


void
ngx_derp_outbox_destroy(ngx_derp_session_t *s)
{
    ngx_derp_buf_t  *buf;

    if (ngx_derp_outbox_sealed(s)) {
        s->connection->ssl->no_send_shutdown = 1;
    }

    buf = s->out.blocked ? NULL : ngx_derp_outbox_untouch(&s->out);

    if (buf) {
        ngx_derp_buf_put(&ngx_derp_worker.bufs, buf);
    }

    while (s->out.buf) {
        ngx_derp_outbox_put_buf(s);
    }

    ngx_derp_backlog_destroy(s);
}
