
/*
 * The outbox of a connection.
 */


#include "ngx_derp_outbox.h"
#include "ngx_derp_ssl.h"
#include "ngx_derp_worker.h"


/* so many outboxes may hold a large buffer before they are flushed early */
#define NGX_DERP_MAX_TOUCHED   256

/* room for what OpenSSL answers to a client that does not read, in bytes */
#define NGX_DERP_ANSWERS       256

/* a step of the lists of holders, in bytes: as much as a large packet takes */
#define NGX_DERP_HOLDERS_STEP  65536


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
static void ngx_derp_outbox_bound(ngx_derp_session_t *s);
static void ngx_derp_outbox_wait(ngx_derp_session_t *s);
static void ngx_derp_outbox_unblock(ngx_derp_session_t *s);
static void ngx_derp_outbox_queue(ngx_derp_session_t *s, u_char *p,
    u_char *last);
static ngx_derp_drop_e ngx_derp_outbox_enqueue(ngx_derp_session_t *s,
    u_char *frame, size_t len, ngx_uint_t kind);
static ngx_uint_t ngx_derp_outbox_kind(u_char *frame, size_t len);
static ngx_uint_t ngx_derp_outbox_refill(ngx_derp_session_t *s);
static ngx_derp_buf_t *ngx_derp_outbox_first(ngx_derp_session_t *s);
static void ngx_derp_outbox_dequeue(ngx_derp_outbox_t *out,
    ngx_derp_buf_t *prev);
static void ngx_derp_outbox_hold(ngx_derp_session_t *s, ssize_t size);
static ngx_int_t ngx_derp_outbox_make_room(void);
static void ngx_derp_outbox_drop_oldest(ngx_derp_session_t *s,
    ngx_uint_t kind, ngx_derp_drop_e reason);
static void ngx_derp_outbox_count_dropped(ngx_derp_session_t *s, size_t len,
    ngx_uint_t kind, ngx_derp_drop_e reason);
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

    ngx_derp_outbox_queue(s, p, last);
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
        ngx_derp_outbox_pass(s, buf->start, buf->last);
        ngx_derp_buf_put(&ngx_derp_worker.bufs, buf);
    }
}


static void
ngx_derp_outbox_flush_blocked(ngx_derp_session_t *s)
{
    ngx_int_t           rc;
    ngx_derp_outbox_t  *out;

    out = &s->out;

    while (out->buf || ngx_derp_outbox_refill(s)) {

        rc = ngx_derp_outbox_write_buf(s, out->buf);

        if (rc == NGX_AGAIN) {
            ngx_derp_outbox_bound(s);
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

    buf->kind = NGX_DERP_SEALED;
    buf->last = ngx_cpymem(buf->last, p, size);

    buf->next = s->out.buf;
    s->out.buf = buf;

    ngx_derp_outbox_hold(s, ngx_derp_buf_size(buf));

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

    if (ngx_derp_outbox_keep_sealed(s, sealed->data + n, sealed->len - n)
        != NGX_OK)
    {
        n = NGX_ERROR;
    }

    if (!s->out.blocked) {
        ngx_derp_outbox_block(s, buf ? buf->start : NULL,
                              buf ? buf->start : NULL, buf ? buf->last : NULL);
    }

    if (buf) {
        ngx_derp_buf_put(&ngx_derp_worker.bufs, buf);
    }

    return n == NGX_ERROR ? NGX_ERROR : NGX_OK;
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

    ngx_derp_outbox_bound(s);
    ngx_derp_outbox_queue(s, frame, last);

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

    ngx_derp_outbox_hold(s, ngx_derp_buf_size(buf));
}


/* What has begun to go out is kept, but not at any price. */

static void
ngx_derp_outbox_bound(ngx_derp_session_t *s)
{
    while (ngx_derp_worker.queued > s->relay->buffers) {

        if (ngx_derp_outbox_make_room() != NGX_OK) {
            ngx_derp_session_fail(s, "too much memory is in use");
            return;
        }
    }
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
    s->out.blocked = 0;

    if (s->connection->write->timer_set) {
        ngx_del_timer(s->connection->write);
    }

    ngx_derp_session_unblocked(s);
}


/* A blocked connection's: one buffer a frame, so that any can be dropped. */

static void
ngx_derp_outbox_queue(ngx_derp_session_t *s, u_char *p, u_char *last)
{
    size_t           len;
    ngx_uint_t       kind;
    ngx_derp_drop_e  reason;

    for ( /* void */ ; p < last; p += len) {
        len = ngx_derp_frame_len(p);
        kind = ngx_derp_outbox_kind(p, len);

        reason = s->state == NGX_DERP_STATE_CLOSING
                 ? NGX_DERP_DROP_GONE_DISCONNECTED
                 : ngx_derp_outbox_enqueue(s, p, len, kind);

        if (reason == NGX_DERP_DROPS) {
            continue;
        }

        if (kind == NGX_DERP_CONTROL) {
            ngx_derp_session_fail(s, "no room in its outbox");

        } else {
            ngx_derp_outbox_count_dropped(s, len, kind, reason);
        }
    }
}


/* Returns why the frame is dropped instead; NGX_DERP_DROPS: it is not. */

static ngx_derp_drop_e
ngx_derp_outbox_enqueue(ngx_derp_session_t *s, u_char *frame, size_t len,
    ngx_uint_t kind)
{
    ngx_derp_buf_t     *buf;
    ngx_derp_outbox_t  *out;

    out = &s->out;

    if (kind == NGX_DERP_CONTROL) {

        /* they are not dropped: who is to be told too much is let go */

        if (out->queued[kind] == NGX_DERP_CONTROL_QUEUE) {
            return NGX_DERP_DROP_MEMORY;
        }

    } else {

        if (s->linked) {
            if (out->held + len > NGX_DERP_LINK_QUEUE) {
                return NGX_DERP_DROP_QUEUE_TAIL;
            }

        } else if (out->queued[kind] == NGX_DERP_QUEUE) {
            ngx_derp_outbox_drop_oldest(s, kind, NGX_DERP_DROP_QUEUE_HEAD);
        }

        while (ngx_derp_worker.queued + len > s->relay->buffers) {
            if (ngx_derp_outbox_make_room() != NGX_OK) {
                return NGX_DERP_DROP_MEMORY;
            }
        }
    }

    buf = ngx_derp_buf_get(&ngx_derp_worker.bufs, len, s->connection->log);
    if (buf == NULL) {
        return NGX_DERP_DROP_MEMORY;
    }

    buf->kind = kind;
    buf->last = ngx_cpymem(buf->last, frame, len);

    if (out->queue) {
        buf->next = out->queue->next;
        out->queue->next = buf;

    } else {
        buf->next = buf;
    }

    out->queue = buf;
    out->queued[kind]++;

    ngx_derp_outbox_hold(s, ngx_derp_buf_size(buf));

    return NGX_DERP_DROPS;
}


static ngx_uint_t
ngx_derp_outbox_kind(u_char *frame, size_t len)
{
    size_t  head;

    switch (frame[0]) {

    case NGX_DERP_RECV_PACKET:
        head = NGX_DERP_PACKET_OFFSET;
        break;

    case NGX_DERP_FORWARD_PACKET:
        head = NGX_DERP_FORWARD_OFFSET;
        break;

    default:
        return NGX_DERP_CONTROL;
    }

    return ngx_derp_is_disco(frame + head, len - head) ? NGX_DERP_DISCO
                                                       : NGX_DERP_OTHER;
}


/*
 * What comes next of the queue, to be written at once, and no more to be
 * dropped: a large frame as it is, small ones together.
 */

static ngx_uint_t
ngx_derp_outbox_refill(ngx_derp_session_t *s)
{
    size_t              len;
    ngx_derp_buf_t     *buf, *first;
    ngx_derp_outbox_t  *out;

    out = &s->out;

    if (out->queue == NULL) {
        return 0;
    }

    first = ngx_derp_outbox_first(s);
    len = first->last - first->pos;

    buf = NULL;

    if (out->queue && len < NGX_DERP_RECORD / 2) {
        buf = ngx_derp_buf_get(&ngx_derp_worker.bufs, NGX_DERP_RECORD,
                               s->connection->log);
    }

    out->buf = buf ? buf : first;
    ngx_derp_outbox_hold(s, ngx_derp_buf_size(out->buf));

    while (buf) {
        buf->last = ngx_cpymem(buf->last, first->pos, len);
        ngx_derp_buf_put(&ngx_derp_worker.bufs, first);

        if (out->queue == NULL) {
            break;
        }

        first = out->queue->next;
        len = first->last - first->pos;

        if (len > (size_t) (buf->end - buf->last)) {
            break;
        }

        first = ngx_derp_outbox_first(s);
    }

    return 1;
}


static ngx_derp_buf_t *
ngx_derp_outbox_first(ngx_derp_session_t *s)
{
    ngx_derp_buf_t     *buf;
    ngx_derp_outbox_t  *out;

    out = &s->out;
    buf = out->queue->next;

    ngx_derp_outbox_dequeue(out, out->queue);
    ngx_derp_outbox_hold(s, - (ssize_t) ngx_derp_buf_size(buf));

    return buf;
}


/* What is behind prev in the queue. */

static void
ngx_derp_outbox_dequeue(ngx_derp_outbox_t *out, ngx_derp_buf_t *prev)
{
    ngx_derp_buf_t  *buf;

    buf = prev->next;
    prev->next = buf->next;

    if (out->queue == buf) {
        out->queue = (prev == buf) ? NULL : prev;
    }

    out->queued[buf->kind]--;
    buf->next = NULL;
}


/*
 * A blocked connection holds so much more, or less.  Those who have something
 * that can be dropped are listed by how much they hold.
 */

static void
ngx_derp_outbox_hold(ngx_derp_session_t *s, ssize_t size)
{
    ngx_uint_t          n;
    ngx_derp_outbox_t  *out;

    out = &s->out;

    out->held += size;
    ngx_derp_worker.queued += size;

    n = 0;

    if (out->queued[NGX_DERP_OTHER] || out->queued[NGX_DERP_DISCO]) {
        n = ngx_min(out->held / NGX_DERP_HOLDERS_STEP, NGX_DERP_HOLDERS - 1)
            + 1;
    }

    if (n == out->holder) {
        return;
    }

    if (out->holder) {
        ngx_queue_remove(&out->link);
    }

    if (n) {
        ngx_queue_insert_tail(&ngx_derp_worker.holders[n - 1], &out->link);
    }

    out->holder = n;
}


/* The oldest packet of the one that holds most goes; NGX_DECLINED: none can. */

static ngx_int_t
ngx_derp_outbox_make_room(void)
{
    ngx_uint_t           n;
    ngx_queue_t         *q;
    ngx_derp_buf_t      *buf;
    ngx_derp_session_t  *s;

    for (n = NGX_DERP_HOLDERS; n; n--) {
        q = &ngx_derp_worker.holders[n - 1];

        if (!ngx_queue_empty(q)) {
            s = ngx_queue_data(ngx_queue_head(q), ngx_derp_session_t, out.link);

            for (buf = s->out.queue->next;
                 buf->kind == NGX_DERP_CONTROL;
                 buf = buf->next)
            { /* void */ }

            ngx_derp_outbox_drop_oldest(s, buf->kind, NGX_DERP_DROP_MEMORY);

            return NGX_OK;
        }
    }

    return NGX_DECLINED;
}


static void
ngx_derp_outbox_drop_oldest(ngx_derp_session_t *s, ngx_uint_t kind,
    ngx_derp_drop_e reason)
{
    ngx_derp_buf_t     *buf, *prev;
    ngx_derp_outbox_t  *out;

    out = &s->out;

    for (prev = out->queue; prev->next->kind != kind; prev = prev->next) {
        /* void */
    }

    buf = prev->next;

    ngx_derp_outbox_dequeue(out, prev);
    ngx_derp_outbox_hold(s, - (ssize_t) ngx_derp_buf_size(buf));
    ngx_derp_outbox_count_dropped(s, buf->last - buf->pos, kind, reason);

    ngx_derp_buf_put(&ngx_derp_worker.bufs, buf);
}


/* A packet that was counted as sent when it was appended. */

static void
ngx_derp_outbox_count_dropped(ngx_derp_session_t *s, size_t len,
    ngx_uint_t kind, ngx_derp_drop_e reason)
{
    ngx_derp_counters_t  *counters;

    len -= s->linked ? NGX_DERP_FORWARD_OFFSET : NGX_DERP_PACKET_OFFSET;

    counters = &s->relay->region.member->counters;

    s->traffic.packets_out--;
    s->traffic.bytes_out -= len;
    counters->packets_sent--;
    counters->bytes_sent -= len;

    ngx_derp_count_drop(&s->relay->region, reason, kind, len);
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
    ngx_derp_outbox_hold(s, - (ssize_t) ngx_derp_buf_size(buf));
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

    while (s->out.queue) {
        buf = ngx_derp_outbox_first(s);

        if (buf->kind != NGX_DERP_CONTROL) {
            ngx_derp_outbox_count_dropped(s, buf->last - buf->pos, buf->kind,
                                          NGX_DERP_DROP_GONE_DISCONNECTED);
        }

        ngx_derp_buf_put(&ngx_derp_worker.bufs, buf);
    }
}
