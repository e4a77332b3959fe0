
/*
 * The login: from ServerKey to ServerInfo.
 */


#include "ngx_derp_login.h"
#include "ngx_derp_client.h"
#include "ngx_derp_client_info.h"
#include "ngx_derp_mesh.h"
#include "ngx_derp_worker.h"


#define NGX_DERP_SERVER_INFO_JSON  "{\"version\":2}"


static ngx_int_t ngx_derp_login_client_info(ngx_derp_session_t *s,
    u_char *box, size_t len, u_char *shared);
static ngx_int_t ngx_derp_login_accept(ngx_derp_session_t *s, u_char *shared);
static ngx_int_t ngx_derp_login_register(ngx_derp_session_t *s);


ngx_int_t
ngx_derp_login_check(ngx_derp_session_t *s, ngx_uint_t type,
    size_t len)
{
    if (type != NGX_DERP_CLIENT_INFO) {
        ngx_derp_session_login_fails(s, NGX_DERP_LOGIN_PROTOCOL);
        return ngx_derp_session_breach(s, "where ClientInfo was due",
                                       "another frame", len);
    }

    if (len < NGX_DERP_KEY_LEN + NGX_DERP_NONCE_LEN
        || len > NGX_DERP_MAX_LOGIN)
    {
        ngx_derp_session_login_fails(s, NGX_DERP_LOGIN_PROTOCOL);
        return ngx_derp_session_breach(s, "which is out of bounds",
                                       "ClientInfo", len);
    }

    return NGX_OK;
}


ngx_int_t
ngx_derp_login_frame(ngx_derp_session_t *s, u_char *frame, size_t *len,
    u_char *last)
{
    u_char     *key, shared[NGX_DERP_KEY_LEN];
    ngx_int_t   rc;

    key = frame + NGX_DERP_HEADER_LEN;

    if (ngx_derp_box_shared(shared, key, s->relay->private_key) != NGX_OK) {
        ngx_derp_session_login_fails(s, NGX_DERP_LOGIN_BOX);
        return ngx_derp_session_breach(s, "with an impossible key",
                                       "ClientInfo", *len);
    }

    ngx_memcpy(s->key, key, NGX_DERP_KEY_LEN);

    rc = ngx_derp_login_client_info(s, key + NGX_DERP_KEY_LEN,
                                      *len - NGX_DERP_PACKET_OFFSET, shared);
    if (rc == NGX_OK) {
        ngx_derp_session_state(s, NGX_DERP_STATE_ENTERING);
        rc = ngx_derp_login_accept(s, shared);
    }

    ngx_derp_key_wipe(shared, sizeof(shared));

    return rc;
}


ngx_int_t
ngx_derp_login_enter(ngx_derp_session_t *s, u_char *frame, size_t *len,
    u_char *last)
{
    u_char     shared[NGX_DERP_KEY_LEN];
    ngx_int_t  rc;

    /* the box was opened in its place: all that matters is in the session */

    if (ngx_derp_box_shared(shared, s->key, s->relay->private_key) != NGX_OK) {
        return NGX_ERROR;
    }

    rc = ngx_derp_login_accept(s, shared);

    ngx_derp_key_wipe(shared, sizeof(shared));

    return rc;
}


/* Server.recvClientKey(), Server.isMeshPeer(), sclient.presentFlags() */

static ngx_int_t
ngx_derp_login_client_info(ngx_derp_session_t *s, u_char *box, size_t len,
    u_char *shared)
{
    char                    *error;
    ngx_int_t                rc;
    ngx_derp_client_info_t   info;

    if (ngx_derp_box_open(box, len, shared) != NGX_OK) {
        ngx_derp_session_login_fails(s, NGX_DERP_LOGIN_BOX);
        return ngx_derp_session_breach(s, "with a box that does not open",
                                       "ClientInfo", len);
    }

    rc = ngx_derp_client_info_parse(&info, box + NGX_DERP_BOX_OVERHEAD,
                                    len - NGX_DERP_BOX_OVERHEAD, &error);

    ngx_derp_key_wipe(box + NGX_DERP_BOX_OVERHEAD, len - NGX_DERP_BOX_OVERHEAD);

    if (rc == NGX_OK) {
        s->mesh = s->relay->meshed
                  && !ngx_derp_key_is_zero(info.mesh_key)
                  && ngx_derp_key_equal(info.mesh_key, s->relay->mesh_key);

        s->sibling = s->mesh && info.relay;

        s->flags |= (info.prober ? NGX_DERP_PRESENT_PROBER : 0)
                           | (s->mesh ? NGX_DERP_PRESENT_MESH : 0);

        if (s->flags == 0) {
            s->flags = NGX_DERP_PRESENT_REGULAR;
        }
    }

    ngx_derp_key_wipe(&info, sizeof(ngx_derp_client_info_t));

    if (rc != NGX_OK) {
        ngx_derp_session_login_fails(s, NGX_DERP_LOGIN_JSON);
        return ngx_derp_session_breach(s, error, "ClientInfo", len);
    }

    if (s->mesh) {
        ngx_derp_session_user_timeout(s->connection,
                                      NGX_DERP_MESH_USER_TIMEOUT);
    }

    return NGX_OK;
}


/* From here on others find it; ServerInfo is the first that it is sent. */

static ngx_int_t
ngx_derp_login_accept(ngx_derp_session_t *s, u_char *shared)
{
    u_char     *p, frame[NGX_DERP_HEADER_LEN + NGX_DERP_BOX_OVERHEAD
                         + sizeof(NGX_DERP_SERVER_INFO_JSON) - 1];
    ngx_int_t   rc;

    rc = ngx_derp_login_register(s);

    if (rc == NGX_AGAIN) {
        return ngx_derp_session_wait(s);
    }

    if (rc != NGX_OK) {
        ngx_derp_worker_complain(s->relay, "has no room for another client: "
                                 "increase its \"zone\"");
        ngx_derp_session_login_fails(s, NGX_DERP_LOGIN_FULL);
        ngx_derp_session_fail(s, "registry is full");
        return NGX_ERROR;
    }

    p = ngx_derp_put_header(frame, NGX_DERP_SERVER_INFO,
                            sizeof(frame) - NGX_DERP_HEADER_LEN);
    ngx_derp_box_seal(p, (u_char *) NGX_DERP_SERVER_INFO_JSON,
                      sizeof(NGX_DERP_SERVER_INFO_JSON) - 1, shared);
    ngx_derp_outbox_frame(s, frame, sizeof(frame));

    /* without ServerInfo it is no client, and is to be closed */

    if (s->state == NGX_DERP_STATE_CLOSING) {
        s->login = NGX_DERP_LOGIN_MEMORY;
        return NGX_ERROR;
    }

    s->login = NGX_DERP_LOGIN_OK;
    s->relay->region.member->counters.logins++;

    ngx_derp_client_start(s);

    return NGX_OK;
}


static ngx_int_t
ngx_derp_login_register(ngx_derp_session_t *s)
{
    ngx_int_t           rc;
    ngx_derp_relay_t   *relay;
    ngx_derp_client_t   client;
    ngx_derp_gauges_t  *gauges;

    relay = s->relay;

    ngx_memcpy(client.key, s->key, NGX_DERP_KEY_LEN);
    ngx_memcpy(client.addr, s->origin.addr, sizeof(client.addr));
    client.port = s->origin.port;
    client.flags = s->flags;

    rc = ngx_derp_registry_add(&relay->region, &client, &s->route, &s->peer);

    if (rc != NGX_OK) {
        return rc;
    }

    ngx_log_debug3(NGX_LOG_DEBUG_HTTP, s->connection->log, 0,
                   "derp client registered, slot:%ui index:%uD flags:%d",
                   relay->region.slot, ngx_derp_route_index(s->route),
                   s->flags);

    relay->sessions[ngx_derp_route_index(s->route)] = s;

    gauges = &relay->region.member->gauges;

    gauges->clients++;

    if (s->flags & NGX_DERP_PRESENT_NOT_IDEAL) {
        gauges->not_ideal++;
    }

    /* where it comes from is the registry's from here on */

    ngx_memzero(&s->traffic, sizeof(ngx_derp_traffic_t));

    return NGX_OK;
}


void
ngx_derp_login_timer(ngx_derp_session_t *s)
{
    s->connection->timedout = 1;
    ngx_derp_session_login_fails(s, NGX_DERP_LOGIN_TIMEOUT);
    ngx_derp_session_fail(s, "login timed out");
}
