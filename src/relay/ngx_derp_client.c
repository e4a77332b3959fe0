
/*
 * A client that is logged in.
 */


#include "ngx_derp_client.h"
#include "ngx_derp_notice.h"
#include "ngx_derp_route.h"
#include "ngx_derp_watch.h"
#include "ngx_derp_worker.h"


/* the part of it that the time to a keep-alive may be longer: 5 s of 60 */
#define NGX_DERP_KEEPALIVE_JITTER  12

/* a client that changes its home so soon only tells what it is */
#define NGX_DERP_SETTLED           5000

/* how long a client may try to come back */
#define NGX_DERP_TRY_FOR           60000


static void ngx_derp_client_ping(ngx_derp_session_t *s, u_char *data);
static void ngx_derp_client_preferred(ngx_derp_session_t *s,
    ngx_uint_t preferred);
static ngx_int_t ngx_derp_client_watch(ngx_derp_session_t *s);
static ngx_int_t ngx_derp_client_close_peer(ngx_derp_session_t *s, u_char *key);
static void ngx_derp_client_keepalive(ngx_derp_session_t *s);
static void ngx_derp_client_health(ngx_derp_session_t *s);


void
ngx_derp_client_start(ngx_derp_session_t *s)
{
    ngx_derp_session_state(s, NGX_DERP_STATE_CLIENT);

    /* if its key has left before this login, that is told before it speaks */

    s->born = ngx_derp_journal_cursor(&s->relay->region);
    ngx_derp_worker_catch_up(s->relay, s->born);

    if (s->relay->notice.len) {
        ngx_derp_client_health(s);
    }

    ngx_derp_client_keepalive(s);
}


ngx_int_t
ngx_derp_client_check(ngx_derp_session_t *s, ngx_uint_t type,
    size_t len)
{
    const ngx_derp_frame_rule_t  *rule;

    rule = ngx_derp_frame_rule(type);

    if (rule == NULL) {
        return NGX_DECLINED;
    }

    if (rule->mesh && !s->mesh) {
        return ngx_derp_session_breach(s, "without the mesh key", rule->name,
                                       len);
    }

    if (len < rule->min || len > rule->max) {
        return ngx_derp_session_breach(s, "which is out of bounds", rule->name,
                                       len);
    }

    return NGX_OK;
}


ngx_int_t
ngx_derp_client_frame(ngx_derp_session_t *s, u_char *frame, size_t *len,
    u_char *last)
{
    u_char  *body;

    body = frame + NGX_DERP_HEADER_LEN;

    switch (frame[0]) {

    case NGX_DERP_SEND_PACKET:
        return ngx_derp_route_send(s, frame, len, last);

    case NGX_DERP_FORWARD_PACKET:
        return ngx_derp_route_forward(s, frame, *len);

    case NGX_DERP_PING:
        ngx_derp_client_ping(s, body);
        return NGX_OK;

    case NGX_DERP_NOTE_PREFERRED:
        ngx_derp_client_preferred(s, body[0] != 0);
        return NGX_OK;

    case NGX_DERP_WATCH_CONNS:
        return ngx_derp_client_watch(s);

    default: /* NGX_DERP_CLOSE_PEER */
        return ngx_derp_client_close_peer(s, body);
    }
}


static void
ngx_derp_client_ping(ngx_derp_session_t *s, u_char *data)
{
    u_char  frame[NGX_DERP_PONG_FRAME];

    s->relay->region.member->counters.pings++;

    /* one pong may wait: sclient.handleFramePing() */

    if (s->out.blocked) {
        if (s->pong) {
            return;
        }

        s->pong = 1;
    }

    ngx_derp_put_pong(frame, data);
    ngx_derp_outbox_frame(s, frame, sizeof(frame));

    s->relay->region.member->counters.pongs++;
}


/* sclient.setPreferred() */

static void
ngx_derp_client_preferred(ngx_derp_session_t *s, ngx_uint_t preferred)
{
    ngx_derp_member_t  *member;

    if (s->preferred == preferred) {
        return;
    }

    member = s->relay->region.member;

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                   "derp client is at home here:%ui", preferred);

    s->preferred = preferred;
    member->gauges.home += preferred ? 1 : -1;

    if (ngx_current_msec - s->started <= NGX_DERP_SETTLED) {
        return;
    }

    if (preferred) {
        member->counters.home_moves_in++;

    } else {
        member->counters.home_moves_out++;
    }
}


static ngx_int_t
ngx_derp_client_watch(ngx_derp_session_t *s)
{
    /* this very relay, by way of a name that it was given to mesh with */

    if (ngx_memcmp(s->key, s->relay->public_key, NGX_DERP_KEY_LEN) == 0)
    {
        return NGX_OK;
    }

    if (ngx_derp_watch_start(s) != NGX_OK) {
        ngx_derp_session_fail(s, "no memory for a watcher");
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_derp_client_close_peer(ngx_derp_session_t *s, u_char *key)
{
    u_char      hex[NGX_DERP_HEX_LEN];
    ngx_uint_t  n;

    if (ngx_derp_registry_close(&s->relay->region, key, &n) != NGX_OK) {
        return ngx_derp_session_wait(s);
    }

    ngx_derp_worker_post();

    ngx_derp_key_hex(hex, key);
    ngx_log_error(NGX_LOG_INFO, s->connection->log, 0,
                  "ClosePeer of nodekey:%*s closes %ui connections",
                  sizeof(hex), hex, n);

    return NGX_OK;
}


void
ngx_derp_client_timer(ngx_derp_session_t *s)
{
    u_char  frame[NGX_DERP_HEADER_LEN];

    if (s->draining) {
        ngx_derp_session_fail(s, "drained");
        return;
    }

    /* a blocked one has enough to read, or is closed soon */

    if (!s->out.blocked) {
        ngx_derp_put_header(frame, NGX_DERP_KEEP_ALIVE, 0);
        ngx_derp_outbox_frame(s, frame, sizeof(frame));
    }

    ngx_derp_client_keepalive(s);
}


static void
ngx_derp_client_keepalive(ngx_derp_session_t *s)
{
    ngx_msec_t    keepalive;
    ngx_event_t  *rev;

    rev = s->connection->read;
    keepalive = s->relay->keepalive;

    if (rev->timer_set) {
        ngx_del_timer(rev);
    }

    ngx_add_timer(rev, keepalive
                       + ngx_random()
                         % (keepalive / NGX_DERP_KEEPALIVE_JITTER + 1));
}


static void
ngx_derp_client_health(ngx_derp_session_t *s)
{
    u_char     *p, frame[NGX_DERP_HEADER_LEN + NGX_DERP_NOTICE_MAX];
    ngx_str_t  *notice;

    notice = &s->relay->notice;

    p = ngx_derp_put_header(frame, NGX_DERP_HEALTH, notice->len);
    p = ngx_cpymem(p, notice->data, notice->len);

    ngx_derp_outbox_frame(s, frame, p - frame);
}


void
ngx_derp_client_notice(ngx_derp_relay_t *relay)
{
    ngx_queue_t         *q;
    ngx_derp_session_t  *s;

    if (ngx_derp_notice_get(&relay->region, &relay->notice_sequence,
                            relay->notice.data, &relay->notice.len)
        != NGX_OK)
    {
        return;
    }

    for (q = ngx_queue_head(&relay->all);
         q != ngx_queue_sentinel(&relay->all);
         q = ngx_queue_next(q))
    {
        s = ngx_queue_data(q, ngx_derp_session_t, queue);

        if (s->state == NGX_DERP_STATE_CLIENT) {
            ngx_derp_client_health(s);
        }
    }
}


/*
 * All are told at once when to come back, each at another time; and each goes
 * at another, so that those who come back at once do not come together.
 */

void
ngx_derp_client_drain(ngx_derp_relay_t *relay)
{
    u_char               frame[NGX_DERP_RESTARTING_FRAME];
    ngx_msec_t           delay;
    ngx_queue_t         *q;
    ngx_derp_session_t  *s;

    for (q = ngx_queue_head(&relay->all);
         q != ngx_queue_sentinel(&relay->all);
         q = ngx_queue_next(q))
    {
        s = ngx_queue_data(q, ngx_derp_session_t, queue);

        switch (s->state) {

        case NGX_DERP_STATE_LOGIN:
        case NGX_DERP_STATE_ENTERING:
            ngx_derp_session_login_fails(s, NGX_DERP_LOGIN_SHUTDOWN);
            ngx_derp_session_fail(s, "worker is shutting down");
            break;

        case NGX_DERP_STATE_CLIENT:
            delay = relay->drain ? ngx_random() % relay->drain : 0;

            ngx_derp_put_restarting(frame, delay, NGX_DERP_TRY_FOR);
            ngx_derp_outbox_frame(s, frame, sizeof(frame));

            delay = relay->drain ? ngx_random() % relay->drain : 0;

            ngx_log_debug1(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                           "derp client is let go after %M", delay);

            s->draining = 1;
            ngx_add_timer(s->connection->read, delay);
            break;

        default:
            break;
        }
    }
}
