
/*
 * What a blocked connection is to be sent.
 */


#include "ngx_derp_backlog.h"
#include "ngx_derp_worker.h"


/* a step of the lists of holders, in bytes: as much as a large packet takes */
#define NGX_DERP_HOLDERS_STEP  65536


static ngx_derp_drop_e ngx_derp_backlog_enqueue(ngx_derp_session_t *s,
    u_char *frame, size_t len, ngx_uint_t kind);
static ngx_uint_t ngx_derp_backlog_kind(u_char *frame, size_t len);
static ngx_derp_buf_t *ngx_derp_backlog_first(ngx_derp_session_t *s);
static void ngx_derp_backlog_dequeue(ngx_derp_outbox_t *out,
    ngx_derp_buf_t *prev);
static ngx_int_t ngx_derp_backlog_make_room(void);
static void ngx_derp_backlog_drop_oldest(ngx_derp_session_t *s,
    ngx_uint_t kind, ngx_derp_drop_e reason);
static void ngx_derp_backlog_count(ngx_derp_session_t *s, size_t len,
    ngx_uint_t kind, ngx_derp_drop_e reason);


void
ngx_derp_backlog_add(ngx_derp_session_t *s, u_char *p, u_char *last)
{
    size_t           len;
    ngx_uint_t       kind;
    ngx_derp_drop_e  reason;

    for ( /* void */ ; p < last; p += len) {
        len = ngx_derp_frame_len(p);
        kind = ngx_derp_backlog_kind(p, len);

        reason = s->state == NGX_DERP_STATE_CLOSING
                 ? NGX_DERP_DROP_GONE_DISCONNECTED
                 : ngx_derp_backlog_enqueue(s, p, len, kind);

        if (reason == NGX_DERP_DROPS) {
            continue;
        }

        if (kind == NGX_DERP_CONTROL) {
            ngx_log_debug1(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                           "derp frame of type %d finds no room", p[0]);

            ngx_derp_session_fail(s, "no room in its outbox");

        } else {
            ngx_derp_backlog_count(s, len, kind, reason);
        }
    }
}


/* Returns why the frame is dropped instead; NGX_DERP_DROPS: it is not. */

static ngx_derp_drop_e
ngx_derp_backlog_enqueue(ngx_derp_session_t *s, u_char *frame, size_t len,
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
            ngx_derp_backlog_drop_oldest(s, kind, NGX_DERP_DROP_QUEUE_HEAD);
        }

        while (ngx_derp_worker.queued + len > s->relay->buffers) {
            if (ngx_derp_backlog_make_room() != NGX_OK) {
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

    ngx_derp_backlog_hold(s, ngx_derp_buf_size(buf));

    return NGX_DERP_DROPS;
}


static ngx_uint_t
ngx_derp_backlog_kind(u_char *frame, size_t len)
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


ngx_uint_t
ngx_derp_backlog_refill(ngx_derp_session_t *s)
{
    size_t              len;
    ngx_derp_buf_t     *buf, *first;
    ngx_derp_outbox_t  *out;

    out = &s->out;

    if (out->queue == NULL) {
        return 0;
    }

    first = ngx_derp_backlog_first(s);
    len = first->last - first->pos;

    buf = NULL;

    if (out->queue && len < NGX_DERP_RECORD / 2) {
        buf = ngx_derp_buf_get(&ngx_derp_worker.bufs, NGX_DERP_RECORD,
                               s->connection->log);
    }

    out->buf = buf ? buf : first;
    ngx_derp_backlog_hold(s, ngx_derp_buf_size(out->buf));

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

        first = ngx_derp_backlog_first(s);
    }

    return 1;
}


static ngx_derp_buf_t *
ngx_derp_backlog_first(ngx_derp_session_t *s)
{
    ngx_derp_buf_t     *buf;
    ngx_derp_outbox_t  *out;

    out = &s->out;
    buf = out->queue->next;

    ngx_derp_backlog_dequeue(out, out->queue);
    ngx_derp_backlog_hold(s, - (ssize_t) ngx_derp_buf_size(buf));

    return buf;
}


/* What is behind prev in the queue. */

static void
ngx_derp_backlog_dequeue(ngx_derp_outbox_t *out, ngx_derp_buf_t *prev)
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


/* Those who have something that can be dropped are listed by what they hold. */

void
ngx_derp_backlog_hold(ngx_derp_session_t *s, ssize_t size)
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
ngx_derp_backlog_make_room(void)
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

            ngx_derp_backlog_drop_oldest(s, buf->kind, NGX_DERP_DROP_MEMORY);

            return NGX_OK;
        }
    }

    return NGX_DECLINED;
}


static void
ngx_derp_backlog_drop_oldest(ngx_derp_session_t *s, ngx_uint_t kind,
    ngx_derp_drop_e reason)
{
    ngx_derp_buf_t     *buf, *prev;
    ngx_derp_outbox_t  *out;

    out = &s->out;

    for (prev = out->queue; prev->next->kind != kind; prev = prev->next) {
        /* void */
    }

    buf = prev->next;

    ngx_derp_backlog_dequeue(out, prev);
    ngx_derp_backlog_hold(s, - (ssize_t) ngx_derp_buf_size(buf));
    ngx_derp_backlog_count(s, buf->last - buf->pos, kind, reason);

    ngx_derp_buf_put(&ngx_derp_worker.bufs, buf);
}


/* A packet that was counted as sent when it was appended. */

static void
ngx_derp_backlog_count(ngx_derp_session_t *s, size_t len, ngx_uint_t kind,
    ngx_derp_drop_e reason)
{
    ngx_derp_counters_t  *counters;

    len -= s->linked ? NGX_DERP_FORWARD_OFFSET : NGX_DERP_PACKET_OFFSET;

    counters = &s->relay->region.member->counters;

    ngx_log_debug3(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                   "derp packet dropped, reason:%d disco:%ui size:%uz",
                   reason, kind, len);

    s->traffic.packets_out--;
    s->traffic.bytes_out -= len;
    counters->packets_sent--;
    counters->bytes_sent -= len;

    ngx_derp_count_drop(&s->relay->region, reason, kind, len);
}


void
ngx_derp_backlog_bound(ngx_derp_session_t *s)
{
    while (ngx_derp_worker.queued > s->relay->buffers) {

        if (ngx_derp_backlog_make_room() != NGX_OK) {
            ngx_derp_session_fail(s, "too much memory is in use");
            return;
        }
    }
}


void
ngx_derp_backlog_destroy(ngx_derp_session_t *s)
{
    ngx_derp_buf_t  *buf;

    while (s->out.queue) {
        buf = ngx_derp_backlog_first(s);

        if (buf->kind != NGX_DERP_CONTROL) {
            ngx_derp_backlog_count(s, buf->last - buf->pos, buf->kind,
                                   NGX_DERP_DROP_GONE_DISCONNECTED);
        }

        ngx_derp_buf_put(&ngx_derp_worker.bufs, buf);
    }
}
