
/*
 * The outbox of a connection.
 */


#include "ngx_derp_outbox.h"
#include "ngx_derp_worker.h"


/* so many outboxes may hold a large buffer before they are flushed early */
#define NGX_DERP_MAX_TOUCHED   256

/* a step of the lists of holders, in bytes: as much as a large packet takes */
#define NGX_DERP_HOLDERS_STEP  65536


static void ngx_derp_outbox_append(ngx_derp_session_t *s, u_char *p,
    u_char *last);
static ngx_int_t ngx_derp_outbox_touch(ngx_derp_session_t *s);
static void ngx_derp_outbox_untouch(ngx_derp_outbox_t *out);
static void ngx_derp_outbox_pass(ngx_derp_session_t *s, u_char *p,
    u_char *last);
static ngx_int_t ngx_derp_outbox_write(ngx_derp_session_t *s, u_char **pos,
    u_char *last);
static void ngx_derp_outbox_block(ngx_derp_session_t *s, u_char *frame,
    u_char *pos, u_char *last);
static void ngx_derp_outbox_keep(ngx_derp_session_t *s, u_char *p,
    size_t len);
static void ngx_derp_outbox_wait(ngx_derp_session_t *s);
static void ngx_derp_outbox_unblock(ngx_derp_session_t *s);
static void ngx_derp_outbox_queue(ngx_derp_session_t *s, u_char *p,
    u_char *last);
static ngx_derp_drop_e ngx_derp_outbox_enqueue(ngx_derp_session_t *s,
    u_char *frame, size_t len, ngx_uint_t kind);
static ngx_uint_t ngx_derp_outbox_kind(u_char *frame, size_t len);
static ngx_uint_t ngx_derp_outbox_refill(ngx_derp_session_t *s);
static ngx_derp_buf_t *ngx_derp_outbox_first(ngx_derp_session_t *s);
static void ngx_derp_outbox_hold(ngx_derp_session_t *s, ssize_t size);
static ngx_int_t ngx_derp_outbox_make_room(void);
static void ngx_derp_outbox_drop_oldest(ngx_derp_session_t *s,
    ngx_uint_t kind, ngx_derp_drop_e reason);
static void ngx_derp_outbox_count_dropped(ngx_derp_session_t *s, size_t len,
    ngx_uint_t kind, ngx_derp_drop_e reason);
static void ngx_derp_outbox_put_buf(ngx_derp_session_t *s);


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


static void
ngx_derp_outbox_untouch(ngx_derp_outbox_t *out)
{
    ngx_queue_remove(&out->link);
    ngx_derp_worker.ntouched--;
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
    ngx_derp_buf_t     *buf;
    ngx_derp_outbox_t  *out;

    out = &s->out;

    while (out->buf || ngx_derp_outbox_refill(s)) {
        buf = out->buf;

        switch (ngx_derp_outbox_write(s, &buf->pos, buf->last)) {

        case NGX_OK:
            ngx_derp_outbox_put_buf(s);
            continue;

        case NGX_AGAIN:
            break;

        default:
            ngx_derp_session_fail(s, "write failed");
            return;
        }

        if (out->blocked) {
            ngx_derp_outbox_wait(s);
            return;
        }

        ngx_derp_outbox_untouch(out);
        out->buf = NULL;

        ngx_derp_outbox_block(s, buf->start, buf->pos, buf->last);

        ngx_derp_buf_put(&ngx_derp_worker.bufs, buf);
        return;
    }

    if (out->blocked) {
        ngx_derp_outbox_unblock(s);
    }
}


static ngx_int_t
ngx_derp_outbox_write(ngx_derp_session_t *s, u_char **pos, u_char *last)
{
    size_t             size;
    ssize_t            n;
    ngx_connection_t  *c;

    c = s->connection;

    while (*pos < last) {
        size = last - *pos;

        if (c->ssl && size > NGX_DERP_RECORD) {
            size = NGX_DERP_RECORD;
        }

        n = c->send(c, *pos, size);

        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (n > 0) {
            *pos += n;

            /* a new try to write begins with every byte that goes out */

            if (c->write->timer_set) {
                ngx_del_timer(c->write);
            }
        }

        if (n == NGX_AGAIN || !c->write->ready) {
            return *pos < last ? NGX_AGAIN : NGX_OK;
        }
    }

    return NGX_OK;
}


/*
 * The socket takes no more: of what is behind pos in these frames, that which
 * has begun to go out is kept, and the rest queues.  A TLS record that was
 * tried once has begun, as it is to be tried again with the same bytes.
 */

static void
ngx_derp_outbox_block(ngx_derp_session_t *s, u_char *frame, u_char *pos,
    u_char *last)
{
    u_char  *begun;

    s->out.blocked = 1;

    begun = pos;

    if (s->connection->ssl) {
        begun += ngx_min(last - pos, NGX_DERP_RECORD);
    }

    while (frame < begun) {
        frame += ngx_derp_frame_len(frame);
    }

    if (frame > pos) {
        ngx_derp_outbox_keep(s, pos, frame - pos);
    }

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

    s->out.buf = buf;
    ngx_derp_outbox_hold(s, ngx_derp_buf_size(buf));

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

    timeout = s->mesh || s->link ? s->relay->mesh_write_timeout
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

        if (s->link) {
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

    if (out->queue == NULL) {
        out->last = &out->queue;
    }

    *out->last = buf;
    out->last = &buf->next;
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

        len = out->queue->last - out->queue->pos;

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
    buf = out->queue;

    out->queue = buf->next;
    out->queued[buf->kind]--;

    ngx_derp_outbox_hold(s, - (ssize_t) ngx_derp_buf_size(buf));

    return buf;
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

            for (buf = s->out.queue;
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
    ngx_derp_buf_t     *buf, **prev;
    ngx_derp_outbox_t  *out;

    out = &s->out;

    for (prev = &out->queue; (*prev)->kind != kind; prev = &(*prev)->next) {
        /* void */
    }

    buf = *prev;
    *prev = buf->next;

    if (buf->next == NULL) {
        out->last = prev;
    }

    out->queued[kind]--;

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

    len -= s->link ? NGX_DERP_FORWARD_OFFSET : NGX_DERP_PACKET_OFFSET;

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
    ngx_derp_outbox_t  *out;

    out = &s->out;

    if (out->blocked) {
        ngx_derp_outbox_hold(s, - (ssize_t) ngx_derp_buf_size(out->buf));

    } else {
        ngx_derp_outbox_untouch(out);
    }

    ngx_derp_buf_put(&ngx_derp_worker.bufs, out->buf);
    out->buf = NULL;
}


void
ngx_derp_outbox_destroy(ngx_derp_session_t *s)
{
    ngx_derp_buf_t  *buf;

    if (s->out.buf) {
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
