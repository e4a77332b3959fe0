
/*
 * The mesh of relays.
 */


#include "ngx_derp_mesh.h"
#include "ngx_derp_dial.h"
#include "ngx_derp_json.h"
#include "ngx_derp_lease.h"
#include "ngx_derp_worker.h"


/* between two tries, doubled from the least to the most, and jittered */
#define NGX_DERP_MESH_RETRY_MIN  250
#define NGX_DERP_MESH_RETRY_MAX  10000

/* derp.Client's: a relay that is silent for so long is no more */
#define NGX_DERP_MESH_TIMEOUT    120000

/* an old worker's link outlives the new one's coming up by this */
#define NGX_DERP_MESH_HANDOVER   2000
#define NGX_DERP_MESH_ORPHANED   10000


static void ngx_derp_mesh_tick_link(ngx_derp_link_t *link);
static void ngx_derp_mesh_leave(ngx_derp_link_t *link, ngx_msec_t *since,
    ngx_msec_t after);
static void ngx_derp_mesh_start(ngx_derp_link_t *link);
static void ngx_derp_mesh_stop(ngx_derp_link_t *link, char *reason);
static void ngx_derp_mesh_retry_handler(ngx_event_t *ev);
static void ngx_derp_mesh_schedule(ngx_derp_link_t *link);
static u_char *ngx_derp_mesh_log_error(ngx_log_t *log, u_char *buf,
    size_t len);
static ngx_int_t ngx_derp_mesh_register(ngx_derp_session_t *s);
static ngx_int_t ngx_derp_mesh_send_login(ngx_derp_session_t *s,
    u_char *server_key);
static ngx_int_t ngx_derp_mesh_present(ngx_derp_session_t *s, u_char *key);
static ngx_int_t ngx_derp_mesh_gone(ngx_derp_session_t *s, u_char *body,
    size_t len);


void
ngx_derp_mesh_tick(ngx_derp_relay_t *relay)
{
    ngx_uint_t        i;
    ngx_derp_link_t  *link;

    if (relay->mesh == NULL) {
        return;
    }

    link = relay->mesh->links.elts;

    for (i = 0; i < relay->mesh->links.nelts; i++) {
        ngx_derp_mesh_tick_link(&link[i]);
    }
}


static void
ngx_derp_mesh_tick_link(ngx_derp_link_t *link)
{
    ngx_uint_t        up;
    ngx_derp_lease_e  lease;

    up = (link->session && link->session->state == NGX_DERP_STATE_LINK);

    lease = ngx_derp_lease(&link->relay->region, link->id, !ngx_exiting, up);

    if (ngx_exiting && ngx_derp_slots_stopping()) {

        /* whoever has the lease, the link stays as long as clients do */

        if (link->relay->region.member->gauges.clients == 0) {
            ngx_derp_mesh_stop(link, "worker is shutting down");
        }

        return;
    }

    if (lease == NGX_DERP_LEASE_AGAIN) {
        return;
    }

    if (lease == NGX_DERP_LEASE_OURS && !ngx_exiting) {

        if (link->state == NGX_DERP_LINK_DOWN && !link->retry.timer_set) {
            ngx_derp_mesh_start(link);
        }

        return;
    }

    if (link->state != NGX_DERP_LINK_SESSION) {
        ngx_derp_mesh_stop(link, NULL);
        return;
    }

    /*
     * A new link needs a while to hear of all clients: what goes by the old
     * one until then goes on.  Where none comes up, as when it is configured
     * no more, the worker is not to stay for this one.
     */

    if (lease == NGX_DERP_LEASE_REPLACED) {
        ngx_derp_mesh_leave(link, &link->replaced, NGX_DERP_MESH_HANDOVER);

    } else if (ngx_exiting) {
        ngx_derp_mesh_leave(link, &link->orphaned, NGX_DERP_MESH_ORPHANED);
    }
}


static void
ngx_derp_mesh_leave(ngx_derp_link_t *link, ngx_msec_t *since, ngx_msec_t after)
{
    if (*since == 0) {
        *since = ngx_current_msec;
    }

    if (ngx_current_msec - *since >= after) {
        ngx_derp_mesh_stop(link, "another worker has the link");
    }
}


static void
ngx_derp_mesh_start(ngx_derp_link_t *link)
{
    link->log = *ngx_derp_worker.log;
    link->log.handler = ngx_derp_mesh_log_error;
    link->log.data = link;
    link->log.action = NULL;

    link->retry.handler = ngx_derp_mesh_retry_handler;
    link->retry.data = link;
    link->retry.log = &link->log;
    link->retry.cancelable = 1;

    link->replaced = 0;
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


static void
ngx_derp_mesh_stop(ngx_derp_link_t *link, char *reason)
{
    if (link->retry.timer_set) {
        ngx_del_timer(&link->retry);
    }

    switch (link->state) {

    case NGX_DERP_LINK_DIALING:
        ngx_derp_dial_cancel(link);
        break;

    case NGX_DERP_LINK_SESSION:

        /* the rest is done when it is closed */

        ngx_derp_session_fail(link->session, reason);
        return;

    default:
        break;
    }

    link->state = NGX_DERP_LINK_DOWN;
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

        if (link[i].session) {
            ngx_derp_dial_close(link[i].session->connection);
            ngx_free(link[i].session);
            link[i].session = NULL;
            continue;
        }

        ngx_derp_mesh_stop(&link[i], NULL);
    }
}


void
ngx_derp_mesh_failed(ngx_derp_link_t *link)
{
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

    ngx_add_timer(&link->retry, delay / 2 + ngx_random() % (delay / 2));
}


static void
ngx_derp_mesh_retry_handler(ngx_event_t *ev)
{
    ngx_derp_link_t  *link;

    link = ev->data;

    /* the lease may have gone to another worker meanwhile */

    ngx_derp_mesh_tick_link(link);
}


void
ngx_derp_mesh_connected(ngx_derp_link_t *link, u_char *data, size_t len)
{
    ngx_connection_t    *c;
    ngx_derp_session_t  *s;

    c = link->connection;

    s = ngx_derp_session_alloc(link->relay, c, NGX_DERP_STATE_LINK_LOGIN);

    if (s == NULL) {
        ngx_derp_mesh_failed(link);
        return;
    }

    s->link = link;

    link->connection = NULL;
    link->session = s;
    link->state = NGX_DERP_LINK_SESSION;

    ngx_add_timer(c->read, link->relay->handshake_timeout);

    ngx_derp_session_begin(s, data, len);
}


void
ngx_derp_mesh_closed(ngx_derp_session_t *s)
{
    ngx_derp_link_t  *link;

    link = s->link;

    ngx_log_error(NGX_LOG_NOTICE, ngx_derp_worker.log, 0,
                  "derp_relay \"%V\" has lost its link to %V: %s",
                  &link->relay->name, &link->url.url, s->reason);

    link->session = NULL;

    ngx_derp_dial_close(s->connection);

    if (link->state == NGX_DERP_LINK_SELF) {
        return;
    }

    if (link->replaced || ngx_exiting) {
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
    u_char           *key, *body;
    ngx_derp_link_t  *link;

    link = s->link;
    body = frame + NGX_DERP_HEADER_LEN;

    if (frame[0] == NGX_DERP_SERVER_INFO) {

        /* it has taken our ClientInfo */

        return ngx_derp_mesh_register(s);
    }

    if (!ngx_derp_key_is_zero(s->key)
        || ngx_derp_get_server_key(body, *len - NGX_DERP_HEADER_LEN, &key)
           != NGX_OK)
    {
        ngx_derp_session_fail(s, "mesh peer does not speak DERP");
        return NGX_ERROR;
    }

    ngx_memcpy(s->key, key, NGX_DERP_KEY_LEN);

    if (ngx_memcmp(key, s->relay->public_key, NGX_DERP_KEY_LEN) == 0) {
        link->state = NGX_DERP_LINK_SELF;
        ngx_derp_session_fail(s, "it is this relay itself");
        return NGX_ERROR;
    }

    return ngx_derp_mesh_send_login(s, key);
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

    rc = ngx_derp_registry_add_link(&relay->region, &s->route);

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

    link->attempt = 0;
    link->heard = ngx_current_msec;

    ngx_log_error(NGX_LOG_NOTICE, ngx_derp_worker.log, 0,
                  "derp_relay \"%V\" is linked to %V", &relay->name,
                  &link->url.url);

    ngx_add_timer(s->connection->read, NGX_DERP_MESH_TIMEOUT);

    return NGX_OK;
}


ngx_int_t
ngx_derp_mesh_check(ngx_derp_session_t *s, ngx_uint_t type, size_t len)
{
    s->link->heard = ngx_current_msec;

    if (len > NGX_DERP_MAX_SERVER_FRAME) {
        ngx_derp_session_fail(s, "mesh peer sent too long a frame");
        return NGX_ERROR;
    }

    switch (type) {

    case NGX_DERP_PEER_PRESENT:
    case NGX_DERP_PEER_GONE:
    case NGX_DERP_PING:
        if (len < NGX_DERP_PING_LEN || len > NGX_DERP_MAX_PING) {
            ngx_derp_session_fail(s, "mesh peer sent a frame out of bounds");
            return NGX_ERROR;
        }

        return NGX_OK;

    default:
        return NGX_DECLINED;
    }
}


ngx_int_t
ngx_derp_mesh_frame(ngx_derp_session_t *s, u_char *frame, size_t *len,
    u_char *last)
{
    u_char  *body, pong[NGX_DERP_PONG_FRAME];

    body = frame + NGX_DERP_HEADER_LEN;

    if (frame[0] == NGX_DERP_PING) {

        if (!s->out.blocked) {
            ngx_derp_put_pong(pong, body);
            ngx_derp_outbox_frame(s, pong, sizeof(pong));
        }

        return NGX_OK;
    }

    if (*len < NGX_DERP_PACKET_OFFSET) {
        ngx_derp_session_fail(s, "mesh peer sent a frame out of bounds");
        return NGX_ERROR;
    }

    return frame[0] == NGX_DERP_PEER_PRESENT
           ? ngx_derp_mesh_present(s, body)
           : ngx_derp_mesh_gone(s, body, *len - NGX_DERP_HEADER_LEN);
}


static ngx_int_t
ngx_derp_mesh_present(ngx_derp_session_t *s, u_char *key)
{
    ngx_int_t  rc;

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
        return NGX_OK;
    }

    s->relay->changed = 1;
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

    s->relay->changed = 1;
    ngx_derp_worker_post();

    return NGX_OK;
}


void
ngx_derp_mesh_timer(ngx_derp_session_t *s)
{
    ngx_msec_t  silent;

    silent = ngx_current_msec - s->link->heard;

    if (silent >= NGX_DERP_MESH_TIMEOUT) {
        ngx_derp_session_fail(s, "mesh peer is silent");
        return;
    }

    ngx_add_timer(s->connection->read, NGX_DERP_MESH_TIMEOUT - silent);
}
