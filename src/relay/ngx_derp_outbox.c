
/*
 * The outbox of a connection.
 */


#include "ngx_derp_outbox.h"
#include "ngx_derp_worker.h"


/* a TLS record's; more would be split, with a system call for each */
#define NGX_DERP_RECORD       16384

/* so many outboxes may hold a large buffer before they are flushed early */
#define NGX_DERP_MAX_TOUCHED  256


static u_char *ngx_derp_outbox_room(ngx_derp_session_t *s, size_t len);
static u_char *ngx_derp_outbox_queue(ngx_derp_session_t *s, size_t len,
    ngx_uint_t kind, size_t size);
static ngx_uint_t ngx_derp_outbox_drop_oldest(ngx_derp_session_t *s,
    ngx_uint_t kind);
static void ngx_derp_outbox_count_dropped(ngx_derp_session_t *s,
    ngx_derp_buf_t *buf, ngx_derp_drop_e reason);
static ngx_int_t ngx_derp_outbox_write(ngx_derp_session_t *s);
static void ngx_derp_outbox_refill(ngx_derp_session_t *s);
static ngx_derp_buf_t *ngx_derp_outbox_first(ngx_derp_outbox_t *out);
static void ngx_derp_outbox_block(ngx_derp_session_t *s);
static ngx_uint_t ngx_derp_outbox_hold(ngx_derp_session_t *s);
static void ngx_derp_outbox_unhold(ngx_derp_outbox_t *out);
static void ngx_derp_outbox_put_buf(ngx_derp_outbox_t *out);


void
ngx_derp_outbox_packet(ngx_derp_session_t *s, ngx_derp_packet_t *packet)
{
    u_char  *p;
    size_t   len;

    len = sizeof(packet->head) + packet->len;

    p = s->out.blocked ? NULL : ngx_derp_outbox_room(s, len);

    if (p == NULL) {

        if (s->state == NGX_DERP_STATE_CLOSING) {
            ngx_derp_count_drop(&s->relay->region,
                                NGX_DERP_DROP_GONE_DISCONNECTED, packet->kind,
                                packet->size);
            return;
        }

        p = ngx_derp_outbox_queue(s, len, packet->kind, packet->size);

        if (p == NULL) {
            return;
        }
    }

    p = ngx_cpymem(p, packet->head, sizeof(packet->head));
    ngx_memcpy(p, packet->body, packet->len);

    s->traffic.packets_out++;
    s->traffic.bytes_out += packet->size;

    s->relay->region.member->counters.packets_sent++;
    s->relay->region.member->counters.bytes_sent += packet->size;
}


void
ngx_derp_outbox_frame(ngx_derp_session_t *s, u_char *frame, size_t len)
{
    u_char  *p;

    p = s->out.blocked ? NULL : ngx_derp_outbox_room(s, len);

    if (p == NULL) {

        if (s->state == NGX_DERP_STATE_CLOSING) {
            return;
        }

        p = ngx_derp_outbox_queue(s, len, NGX_DERP_CONTROL, 0);

        if (p == NULL) {
            ngx_derp_session_fail(s, "no memory for its outbox");
            return;
        }
    }

    ngx_memcpy(p, frame, len);
}


/*
 * Room in the buffer that is written at the end of the turn; NULL if the
 * socket takes no more, or is broken.
 */

static u_char *
ngx_derp_outbox_room(ngx_derp_session_t *s, size_t len)
{
    u_char             *p;
    ngx_derp_buf_t     *buf;
    ngx_derp_outbox_t  *out;

    out = &s->out;

    if (s->state == NGX_DERP_STATE_CLOSING) {
        return NULL;
    }

    if (out->buf && (size_t) (out->buf->end - out->buf->last) < len) {
        ngx_derp_outbox_flush(s);

        if (out->blocked || s->state == NGX_DERP_STATE_CLOSING) {
            return NULL;
        }
    }

    buf = out->buf;

    if (buf == NULL) {

        if (ngx_derp_worker.ntouched >= NGX_DERP_MAX_TOUCHED) {
            ngx_derp_outbox_flush(ngx_queue_data(
                                      ngx_queue_head(&ngx_derp_worker.touched),
                                      ngx_derp_session_t, out.touched));
        }

        buf = ngx_derp_buf_get(&ngx_derp_worker.bufs, NGX_DERP_BUF_LARGE,
                               s->connection->log);
        if (buf == NULL) {
            ngx_derp_session_fail(s, "no memory for its outbox");
            return NULL;
        }

        out->buf = buf;

        ngx_queue_insert_tail(&ngx_derp_worker.touched, &out->touched);
        ngx_derp_worker.ntouched++;
        ngx_derp_worker_post();
    }

    p = buf->last;
    buf->last += len;

    return p;
}


/* A blocked connection's: one buffer a frame, so that any can be dropped. */

static u_char *
ngx_derp_outbox_queue(ngx_derp_session_t *s, size_t len, ngx_uint_t kind,
    size_t size)
{
    ngx_derp_buf_t     *buf;
    ngx_derp_bufs_t    *bufs;
    ngx_derp_outbox_t  *out;

    out = &s->out;
    bufs = &ngx_derp_worker.bufs;

    if (kind != NGX_DERP_CONTROL) {

        if (out->queued[kind] == NGX_DERP_QUEUE) {
            (void) ngx_derp_outbox_drop_oldest(s, kind);
        }

        /* where the worker's memory ends, a queue grows no more */

        while (ngx_derp_worker.queued + len > s->relay->buffers) {

            if (!ngx_derp_outbox_drop_oldest(s, kind)) {
                ngx_derp_count_drop(&s->relay->region, NGX_DERP_DROP_MEMORY,
                                    kind, size);
                return NULL;
            }
        }
    }

    buf = ngx_derp_buf_get(bufs, len, s->connection->log);

    if (buf == NULL) {
        if (kind != NGX_DERP_CONTROL) {
            ngx_derp_count_drop(&s->relay->region, NGX_DERP_DROP_MEMORY, kind,
                                size);
        }

        return NULL;
    }

    buf->kind = kind;
    buf->last += len;

    if (out->queue == NULL) {
        out->last = &out->queue;
    }

    *out->last = buf;
    out->last = &buf->next;
    out->queued[kind]++;
    ngx_derp_worker.queued += ngx_derp_buf_size(buf);

    return buf->start;
}


static ngx_uint_t
ngx_derp_outbox_drop_oldest(ngx_derp_session_t *s, ngx_uint_t kind)
{
    ngx_derp_buf_t     *buf, **prev;
    ngx_derp_outbox_t  *out;

    out = &s->out;

    if (out->queued[kind] == 0) {
        return 0;
    }

    for (prev = &out->queue; (*prev)->kind != kind; prev = &(*prev)->next) {
        /* void */
    }

    buf = *prev;
    *prev = buf->next;

    if (buf->next == NULL) {
        out->last = prev;
    }

    out->queued[kind]--;
    ngx_derp_worker.queued -= ngx_derp_buf_size(buf);

    ngx_derp_outbox_count_dropped(s, buf, NGX_DERP_DROP_QUEUE_HEAD);
    ngx_derp_buf_put(&ngx_derp_worker.bufs, buf);

    return 1;
}


static void
ngx_derp_outbox_count_dropped(ngx_derp_session_t *s, ngx_derp_buf_t *buf,
    ngx_derp_drop_e reason)
{
    size_t                size;
    ngx_derp_counters_t  *counters;

    /* a link's packets carry a second key, in what is their body here */

    size = buf->last - buf->pos - NGX_DERP_PACKET_OFFSET
           - (s->link ? NGX_DERP_KEY_LEN : 0);

    counters = &s->relay->region.member->counters;

    s->traffic.packets_out--;
    s->traffic.bytes_out -= size;
    counters->packets_sent--;
    counters->bytes_sent -= size;

    ngx_derp_count_drop(&s->relay->region, reason, buf->kind, size);
}


void
ngx_derp_outbox_flush(ngx_derp_session_t *s)
{
    ngx_derp_outbox_t  *out;

    out = &s->out;

    ngx_derp_outbox_unhold(out);

    while (out->buf) {

        switch (ngx_derp_outbox_write(s)) {

        case NGX_OK:
            ngx_derp_outbox_refill(s);
            break;

        case NGX_AGAIN:
            ngx_derp_outbox_block(s);
            return;

        default:
            ngx_derp_session_fail(s, "write failed");
            return;
        }
    }

    if (out->blocked) {
        out->blocked = 0;

        if (s->connection->write->timer_set) {
            ngx_del_timer(s->connection->write);
        }

        ngx_derp_session_unblocked(s);
    }
}


static ngx_int_t
ngx_derp_outbox_write(ngx_derp_session_t *s)
{
    size_t             size;
    ssize_t            n;
    ngx_derp_buf_t    *buf;
    ngx_connection_t  *c;

    c = s->connection;
    buf = s->out.buf;

    while (buf->pos < buf->last) {

        size = buf->last - buf->pos;

        if (c->ssl && size > NGX_DERP_RECORD) {
            size = NGX_DERP_RECORD;
        }

        n = c->send(c, buf->pos, size);

        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (n > 0) {
            buf->pos += n;

            /* a new try to write begins with every byte that goes out */

            if (c->write->timer_set) {
                ngx_del_timer(c->write);
            }
        }

        if (n == NGX_AGAIN || !c->write->ready) {
            return buf->pos < buf->last ? NGX_AGAIN : NGX_OK;
        }
    }

    return NGX_OK;
}


/* The buffer is written: what has queued comes next, or the buffer goes. */

static void
ngx_derp_outbox_refill(ngx_derp_session_t *s)
{
    size_t              len;
    ngx_derp_buf_t     *buf, *first;
    ngx_derp_bufs_t    *bufs;
    ngx_derp_outbox_t  *out;

    out = &s->out;
    buf = out->buf;
    bufs = &ngx_derp_worker.bufs;

    if (out->queue == NULL) {
        ngx_derp_outbox_put_buf(out);
        return;
    }

    ngx_derp_buf_put(bufs, buf);

    buf = ngx_derp_buf_get(bufs, NGX_DERP_BUF_LARGE, s->connection->log);

    if (buf == NULL) {

        /* then one by one */

        buf = ngx_derp_outbox_first(out);
    }

    out->buf = buf;

    while (out->queue) {
        len = out->queue->last - out->queue->pos;

        if (len > (size_t) (buf->end - buf->last)) {
            break;
        }

        first = ngx_derp_outbox_first(out);

        buf->last = ngx_cpymem(buf->last, first->pos, len);

        ngx_derp_buf_put(bufs, first);
    }
}


static ngx_derp_buf_t *
ngx_derp_outbox_first(ngx_derp_outbox_t *out)
{
    ngx_derp_buf_t  *buf;

    buf = out->queue;

    out->queue = buf->next;
    out->queued[buf->kind]--;
    ngx_derp_worker.queued -= ngx_derp_buf_size(buf);

    return buf;
}


static void
ngx_derp_outbox_block(ngx_derp_session_t *s)
{
    ngx_msec_t          timeout;
    ngx_event_t        *wev;
    ngx_derp_outbox_t  *out;

    out = &s->out;
    wev = s->connection->write;

    if (!out->blocked) {
        out->blocked = 1;

        /* it is not for the end of a turn to write, but for the event */

        ngx_queue_remove(&out->touched);
        ngx_derp_worker.ntouched--;
    }

    if (!ngx_derp_outbox_hold(s)) {
        return;
    }

    timeout = s->mesh || s->link ? s->relay->mesh_write_timeout
                                 : s->relay->write_timeout;

    if (timeout && !wev->timer_set) {
        ngx_add_timer(wev, timeout);
    }

    if (ngx_handle_write_event(wev, 0) != NGX_OK) {
        ngx_derp_session_fail(s, "write event failed");
    }
}


/*
 * What a blocked connection holds may be held for long, and by many: it is no
 * larger than it need be, and where the worker's memory ends it is not held.
 */

static ngx_uint_t
ngx_derp_outbox_hold(ngx_derp_session_t *s)
{
    ngx_derp_bufs_t    *bufs;
    ngx_derp_outbox_t  *out;

    out = &s->out;
    bufs = &ngx_derp_worker.bufs;

    out->buf = ngx_derp_buf_shrink(bufs, out->buf, s->connection->log);

    ngx_derp_worker.queued += ngx_derp_buf_size(out->buf);
    out->held = 1;

    if (ngx_derp_worker.queued > s->relay->buffers) {
        ngx_derp_session_fail(s, "too much memory is in use");
        return 0;
    }

    return 1;
}


static void
ngx_derp_outbox_unhold(ngx_derp_outbox_t *out)
{
    if (out->held) {
        ngx_derp_worker.queued -= ngx_derp_buf_size(out->buf);
        out->held = 0;
    }
}


static void
ngx_derp_outbox_put_buf(ngx_derp_outbox_t *out)
{
    if (!out->blocked) {
        ngx_queue_remove(&out->touched);
        ngx_derp_worker.ntouched--;
    }

    ngx_derp_outbox_unhold(out);

    ngx_derp_buf_put(&ngx_derp_worker.bufs, out->buf);
    out->buf = NULL;
}


void
ngx_derp_outbox_destroy(ngx_derp_session_t *s)
{
    ngx_derp_buf_t     *buf;
    ngx_derp_outbox_t  *out;

    out = &s->out;

    if (out->buf) {
        ngx_derp_outbox_put_buf(out);
    }

    while (out->queue) {
        buf = ngx_derp_outbox_first(out);

        if (buf->kind != NGX_DERP_CONTROL) {
            ngx_derp_outbox_count_dropped(s, buf,
                                          NGX_DERP_DROP_GONE_DISCONNECTED);
        }

        ngx_derp_buf_put(&ngx_derp_worker.bufs, buf);
    }
}
