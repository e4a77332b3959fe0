
/*
 * Dialing another relay.
 */


#include "ngx_derp_dial.h"

#include <ngx_event_connect.h>


#define NGX_DERP_DIAL_TIMEOUT  10000
#define NGX_DERP_DIAL_BUFFER   4096


static void ngx_derp_dial_resolved(ngx_resolver_ctx_t *ctx);
static void ngx_derp_dial_connect(ngx_derp_link_t *link);
static ngx_int_t ngx_derp_dial_connection(ngx_derp_link_t *link);
static void ngx_derp_dial_connected(ngx_event_t *ev);
static ngx_int_t ngx_derp_dial_test(ngx_connection_t *c);
static void ngx_derp_dial_tls(ngx_derp_link_t *link);
static void ngx_derp_dial_handshaked(ngx_connection_t *c);
static ngx_int_t ngx_derp_dial_verify(ngx_derp_link_t *link);
static ngx_int_t ngx_derp_dial_check_ip(ngx_connection_t *c, ngx_str_t *name);
static void ngx_derp_dial_request(ngx_derp_link_t *link);
static void ngx_derp_dial_write_handler(ngx_event_t *wev);
static void ngx_derp_dial_read_handler(ngx_event_t *rev);
static void ngx_derp_dial_reply(ngx_derp_link_t *link);
static u_char *ngx_derp_dial_header_end(ngx_buf_t *b);
static ngx_uint_t ngx_derp_dial_is_self(ngx_derp_link_t *link, u_char *last);
static void ngx_derp_dial_fail(ngx_derp_link_t *link, ngx_err_t err,
    char *what);
static void ngx_derp_dial_error(ngx_derp_link_t *link, char *what);
static void ngx_derp_dial_empty_handler(ngx_event_t *ev);


void
ngx_derp_dial(ngx_derp_link_t *link)
{
    ngx_uint_t           i;
    ngx_derp_mesh_t     *mesh;
    ngx_resolver_ctx_t  *ctx, temp;

    mesh = link->relay->mesh;

    if (link->url.naddrs) {

        /* one after the other, from try to try */

        i = link->attempt % link->url.naddrs;

        link->addr = link->url.addrs[i];
        ngx_derp_dial_connect(link);
        return;
    }

    temp.name = link->url.host;
    ctx = ngx_resolve_start(mesh->resolver, &temp);

    if (ctx == NULL || ctx == NGX_NO_RESOLVER) {
        ngx_derp_dial_error(link, "no resolver is to be had for it");
        return;
    }

    ctx->name = link->url.host;
    ctx->handler = ngx_derp_dial_resolved;
    ctx->data = link;
    ctx->timeout = mesh->resolver_timeout;

    link->resolving = ctx;

    if (ngx_resolve_name(ctx) != NGX_OK) {
        link->resolving = NULL;
        ngx_derp_dial_fail(link, 0, "could not be resolved");
    }
}


static void
ngx_derp_dial_resolved(ngx_resolver_ctx_t *ctx)
{
    ngx_uint_t        i;
    ngx_derp_link_t  *link;

    link = ctx->data;
    link->resolving = NULL;

    if (ctx->state) {
        ngx_log_error(NGX_LOG_ERR, &link->log, 0,
                      "%V could not be resolved (%i: %s)", &ctx->name,
                      ctx->state, ngx_resolver_strerror(ctx->state));
        ngx_resolve_name_done(ctx);
        ngx_derp_mesh_failed(link, "could not be resolved");
        return;
    }

    i = link->attempt % ctx->naddrs;

    ngx_memcpy(&link->sockaddr, ctx->addrs[i].sockaddr,
               ctx->addrs[i].socklen);

    link->addr.sockaddr = (struct sockaddr *) &link->sockaddr;
    link->addr.socklen = ctx->addrs[i].socklen;
    link->addr.name = link->url.url;

    ngx_inet_set_port(link->addr.sockaddr, link->url.port);

    ngx_resolve_name_done(ctx);

    ngx_derp_dial_connect(link);
}


static void
ngx_derp_dial_connect(ngx_derp_link_t *link)
{
    ngx_connection_t  *c;

    if (ngx_derp_dial_connection(link) != NGX_OK) {
        ngx_derp_dial_fail(link, 0, "could not be connected to");
        return;
    }

    c = link->connection;

    c->read->handler = ngx_derp_dial_connected;
    c->write->handler = ngx_derp_dial_connected;

    ngx_add_timer(c->read, NGX_DERP_DIAL_TIMEOUT);

    /* it may be connected by now, of which there is an event all the same */
}


static ngx_int_t
ngx_derp_dial_connection(ngx_derp_link_t *link)
{
    ngx_int_t               rc;
    ngx_log_t              *log;
    ngx_connection_t       *c;
    ngx_peer_connection_t   pc;

    ngx_memzero(&pc, sizeof(ngx_peer_connection_t));

    pc.sockaddr = link->addr.sockaddr;
    pc.socklen = link->addr.socklen;
    pc.name = &link->addr.name;
    pc.get = ngx_event_get_peer;
    pc.log = &link->log;
    pc.log_error = NGX_ERROR_ERR;

    rc = ngx_event_connect_peer(&pc);

    if (rc != NGX_OK && rc != NGX_AGAIN) {
        if (pc.connection) {
            ngx_close_connection(pc.connection);
        }

        return NGX_ERROR;
    }

    c = pc.connection;

    c->pool = ngx_create_pool(1024, &link->log);

    if (c->pool == NULL) {
        ngx_close_connection(c);
        return NGX_ERROR;
    }

    link->connection = c;

    /* the link may have another connection, of which it says other things */

    log = ngx_palloc(c->pool, sizeof(ngx_log_t));
    if (log == NULL) {
        return NGX_ERROR;
    }

    *log = link->log;

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, log, 0, "derp dials %V, fd:%d",
                   &link->addr.name, c->fd);

    c->data = link;
    c->log = log;
    c->read->log = log;
    c->write->log = log;
    c->addr_text = link->addr.name;
    c->sendfile = 0;

    return NGX_OK;
}


static void
ngx_derp_dial_connected(ngx_event_t *ev)
{
    ngx_connection_t  *c;
    ngx_derp_link_t   *link;

    c = ev->data;
    link = c->data;

    if (c->close || ev->timedout) {
        ngx_derp_dial_fail(link, NGX_ETIMEDOUT, "could not be connected to");
        return;
    }

    if (ngx_derp_dial_test(c) != NGX_OK) {
        ngx_derp_dial_fail(link, 0, "could not be connected to");
        return;
    }

    if (link->secure) {
        ngx_derp_dial_tls(link);

    } else {
        ngx_derp_dial_request(link);
    }
}


static ngx_int_t
ngx_derp_dial_test(ngx_connection_t *c)
{
    int        err;
    socklen_t  len;

    err = 0;
    len = sizeof(int);

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, (void *) &err, &len) == -1) {
        err = ngx_socket_errno;
    }

    if (err) {
        (void) ngx_connection_error(c, err, "connect() failed");
        return NGX_ERROR;
    }

    return NGX_OK;
}


static void
ngx_derp_dial_tls(ngx_derp_link_t *link)
{
    u_char            *name;
    ngx_int_t          rc;
    ngx_connection_t  *c;

    c = link->connection;

    if (ngx_ssl_create_connection(link->relay->mesh->ssl, c, NGX_SSL_CLIENT)
        != NGX_OK)
    {
        ngx_derp_dial_error(link, "TLS could not be set up for it");
        return;
    }

    /* as RFC 6066 has it, no address is sent for a name */

    if (ngx_inet_addr(link->name.data, link->name.len) == INADDR_NONE
        && (link->name.len == 0 || link->name.data[0] != '['))
    {
        name = ngx_pnalloc(c->pool, link->name.len + 1);

        if (name == NULL) {
            ngx_derp_dial_error(link, "there is no memory for its name");
            return;
        }

        (void) ngx_cpystrn(name, link->name.data, link->name.len + 1);

        if (SSL_set_tlsext_host_name(c->ssl->connection, (char *) name) == 0) {
            ngx_ssl_error(NGX_LOG_ERR, c->log, 0,
                          "SSL_set_tlsext_host_name(\"%s\") failed", name);
            ngx_derp_dial_error(link, "its name could not be set for TLS");
            return;
        }
    }

    c->read->handler = ngx_derp_dial_empty_handler;
    c->write->handler = ngx_derp_dial_empty_handler;

    rc = ngx_ssl_handshake(c);

    if (rc == NGX_AGAIN) {
        c->ssl->handler = ngx_derp_dial_handshaked;
        return;
    }

    ngx_derp_dial_handshaked(c);
}


static void
ngx_derp_dial_handshaked(ngx_connection_t *c)
{
    ngx_derp_link_t  *link;

    link = c->data;

    if (c->read->timedout || !c->ssl->handshaked) {
        ngx_derp_dial_fail(link, 0, "failed in the TLS handshake");
        return;
    }

    if (link->relay->mesh->ssl_verify && ngx_derp_dial_verify(link) != NGX_OK)
    {
        ngx_derp_mesh_failed(link, "its certificate was not verified");
        return;
    }

    ngx_derp_dial_request(link);
}


/* ngx_http_upstream_ssl_handshake() */

static ngx_int_t
ngx_derp_dial_verify(ngx_derp_link_t *link)
{
    long               rc;
    ngx_str_t          name;
    ngx_connection_t  *c;

    c = link->connection;
    name = link->name;

    if (name.len > 1 && name.data[0] == '[') {
        name.data++;
        name.len -= 2;
    }

    rc = SSL_get_verify_result(c->ssl->connection);

    if (rc != X509_V_OK) {
        ngx_log_error(NGX_LOG_ERR, c->log, 0,
                      "SSL certificate verify error: (%l:%s), "
                      "see \"mesh_ssl_trusted_certificate\"",
                      rc, X509_verify_cert_error_string(rc));
        return NGX_ERROR;
    }

    if (ngx_ssl_check_host(c, &name) == NGX_OK
        || ngx_derp_dial_check_ip(c, &name) == NGX_OK)
    {
        return NGX_OK;
    }

    ngx_log_error(NGX_LOG_ERR, c->log, 0,
                  "SSL certificate does not match \"%V\", "
                  "see \"mesh_ssl_name\"", &name);

    return NGX_ERROR;
}


/* nginx knows names only, and relays are often known by their address. */

static ngx_int_t
ngx_derp_dial_check_ip(ngx_connection_t *c, ngx_str_t *name)
{
    int      rc;
    X509    *cert;
    u_char   ip[NGX_INET6_ADDRSTRLEN + 1];

    if (name->len > NGX_INET6_ADDRSTRLEN) {
        return NGX_DECLINED;
    }

    cert = SSL_get_peer_certificate(c->ssl->connection);
    if (cert == NULL) {
        return NGX_DECLINED;
    }

    (void) ngx_cpystrn(ip, name->data, name->len + 1);

    rc = X509_check_ip_asc(cert, (char *) ip, 0);

    X509_free(cert);

    return rc == 1 ? NGX_OK : NGX_DECLINED;
}


/* Server.accept() of derper wants no more of HTTP than this. */

static void
ngx_derp_dial_request(ngx_derp_link_t *link)
{
    ngx_buf_t         *b;
    ngx_url_t         *u;
    ngx_connection_t  *c;

    c = link->connection;
    u = &link->url;

    b = ngx_create_temp_buf(c->pool, NGX_DERP_DIAL_BUFFER);
    if (b == NULL) {
        ngx_derp_dial_error(link, "there is no memory for a request to it");
        return;
    }

    b->last = ngx_slprintf(b->last, b->end, "GET %V HTTP/1.1" CRLF "Host: %V",
                           &u->uri, &link->name);

    if (u->port != u->default_port) {
        b->last = ngx_slprintf(b->last, b->end, ":%d", (int) u->port);
    }

    b->last = ngx_slprintf(b->last, b->end, CRLF "Upgrade: DERP" CRLF
                           "Connection: Upgrade" CRLF CRLF);

    /* the configuration bounds its parts, so that it fits */

    if (b->last == b->end) {
        ngx_derp_dial_error(link, "the request to it is too long");
        return;
    }

    link->buf = b;

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, c->log, 0,
                   "derp asks the mesh peer for %V", &u->uri);

    c->read->handler = ngx_derp_dial_read_handler;
    c->write->handler = ngx_derp_dial_write_handler;

    ngx_derp_dial_write_handler(c->write);
}


static void
ngx_derp_dial_write_handler(ngx_event_t *wev)
{
    ssize_t            n;
    ngx_buf_t         *b;
    ngx_connection_t  *c;
    ngx_derp_link_t   *link;

    c = wev->data;
    link = c->data;
    b = link->buf;

    while (b->pos < b->last) {
        n = c->send(c, b->pos, b->last - b->pos);

        if (n == NGX_ERROR) {
            ngx_derp_dial_fail(link, 0, "took no request");
            return;
        }

        if (n == NGX_AGAIN) {
            if (ngx_handle_write_event(wev, 0) != NGX_OK) {
                ngx_derp_dial_error(link, "an event to write to it failed");
            }

            return;
        }

        b->pos += n;
    }

    /* from here on the buffer is the reply's */

    b->pos = b->start;
    b->last = b->start;

    wev->handler = ngx_derp_dial_empty_handler;

    ngx_derp_dial_read_handler(c->read);
}


static void
ngx_derp_dial_read_handler(ngx_event_t *rev)
{
    ssize_t            n;
    ngx_buf_t         *b;
    ngx_connection_t  *c;
    ngx_derp_link_t   *link;

    c = rev->data;
    link = c->data;
    b = link->buf;

    if (c->close || rev->timedout) {
        ngx_derp_dial_fail(link, NGX_ETIMEDOUT, "sent no reply");
        return;
    }

    /* while the request is being written there is nothing to be read */

    if (c->write->handler == ngx_derp_dial_write_handler) {
        return;
    }

    for ( ;; ) {

        if (b->last == b->end) {
            ngx_derp_dial_fail(link, 0, "sent too long a reply");
            return;
        }

        n = c->recv(c, b->last, b->end - b->last);

        if (n == NGX_AGAIN) {
            if (ngx_handle_read_event(rev, 0) != NGX_OK) {
                ngx_derp_dial_error(link, "an event to read from it failed");
            }

            return;
        }

        if (n <= 0) {
            ngx_derp_dial_fail(link, 0, "closed the connection");
            return;
        }

        b->last += n;

        if (ngx_derp_dial_header_end(b)) {
            ngx_derp_dial_reply(link);
            return;
        }
    }
}


static void
ngx_derp_dial_reply(ngx_derp_link_t *link)
{
    u_char     *p, *eol;
    ngx_str_t   line;
    ngx_buf_t  *b;

    b = link->buf;
    p = b->pos;

    if (ngx_strncmp(p, "HTTP/1.1 101 ", sizeof("HTTP/1.1 101 ") - 1) != 0) {

        eol = ngx_strlchr(p, b->last, LF);

        line.data = p;
        line.len = ngx_min(eol - p, 80);

        if (line.len && line.data[line.len - 1] == CR) {
            line.len--;
        }

        ngx_log_error(NGX_LOG_ERR, &link->log, 0,
                      "mesh peer does not switch to DERP: \"%V\"", &line);
        ngx_derp_mesh_failed(link, "does not switch to DERP");
        return;
    }

    p = ngx_derp_dial_header_end(b);

    link->self = ngx_derp_dial_is_self(link, p);

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, &link->log, 0,
                   "derp mesh peer switches protocols, %z bytes follow",
                   b->last - p);

    ngx_derp_mesh_connected(link, p, b->last - p);
}


static u_char *
ngx_derp_dial_header_end(ngx_buf_t *b)
{
    u_char  *p;

    for (p = b->pos; b->last - p >= 4; p++) {
        if (ngx_memcmp(p, CRLF CRLF, 4) == 0) {
            return p + 4;
        }
    }

    return NULL;
}


/* Whether the reply's header has the id of our own zone, where it ends. */

static ngx_uint_t
ngx_derp_dial_is_self(ngx_derp_link_t *link, u_char *last)
{
    u_char   own[sizeof(NGX_DERP_RELAY_ID ": ") - 1 + NGX_DERP_RELAY_ID_LEN],
            *p, *end;

    end = ngx_slprintf(own, own + sizeof(own), NGX_DERP_RELAY_ID ": %016xL",
                       link->relay->region.zone->id);

    for (p = link->buf->pos; last - p > end - own; p++) {

        if (p[0] == LF
            && ngx_strncasecmp(p + 1, own, end - own) == 0)
        {
            return 1;
        }
    }

    return 0;
}


static void
ngx_derp_dial_fail(ngx_derp_link_t *link, ngx_err_t err, char *what)
{
    ngx_log_error(NGX_LOG_ERR, &link->log, err, "mesh peer %s", what);

    ngx_derp_mesh_failed(link, what);
}


/* What has failed is on this side. */

static void
ngx_derp_dial_error(ngx_derp_link_t *link, char *what)
{
    ngx_log_error(NGX_LOG_ERR, &link->log, 0,
                  "mesh peer cannot be dialed, %s", what);

    ngx_derp_mesh_failed(link, what);
}


void
ngx_derp_dial_cancel(ngx_derp_link_t *link)
{
    if (link->resolving) {
        ngx_resolve_name_done(link->resolving);
        link->resolving = NULL;
    }

    if (link->connection) {
        ngx_derp_dial_close(link->connection);
        link->connection = NULL;
    }
}


void
ngx_derp_dial_shut(ngx_connection_t *c)
{
    if (c->ssl) {
        (void) SSL_shutdown(c->ssl->connection);
        ERR_clear_error();

        c->ssl->no_send_shutdown = 1;
    }

    (void) shutdown(c->fd, SHUT_WR);
}


void
ngx_derp_dial_close(ngx_connection_t *c)
{
    ngx_pool_t  *pool;

    if (c->ssl) {
        c->ssl->no_wait_shutdown = 1;

        /* it is closed at once, whether or not its alert can be sent */

        (void) ngx_ssl_shutdown(c);
    }

    pool = c->pool;

    ngx_close_connection(c);
    ngx_destroy_pool(pool);
}


static void
ngx_derp_dial_empty_handler(ngx_event_t *ev)
{
    /* the TLS handshake has handlers of its own */
}
