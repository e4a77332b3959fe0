
/*
 * The HTTP phase: the upgrade, and the probes below its location.
 */


#include "ngx_http_derp_module.h"
#include "ngx_derp_session.h"


#define NGX_HTTP_TOO_EARLY         425
#define NGX_HTTP_UPGRADE_REQUIRED  426


/* how the stream phase is asked for */

typedef enum {
    NGX_HTTP_DERP_NONE = 0,
    NGX_HTTP_DERP_RAW,
    NGX_HTTP_DERP_WEBSOCKET
} ngx_http_derp_upgrade_e;


/* what ngx_http_limit_conn_module has cleaned up: the zone, and the count */

typedef struct {
    ngx_shm_zone_t     *shm_zone;
    ngx_rbtree_node_t  *node;
} ngx_http_derp_counted_t;


static void ngx_http_derp_suffix(ngx_http_request_t *r, ngx_str_t *suffix);
static ngx_int_t ngx_http_derp_probe(ngx_http_request_t *r);
static ngx_int_t ngx_http_derp_check(ngx_http_request_t *r);
static ngx_int_t ngx_http_derp_check_early(ngx_http_request_t *r);
static ngx_uint_t ngx_http_derp_fast_start(ngx_http_request_t *r);
static ngx_http_derp_upgrade_e ngx_http_derp_asked(ngx_http_request_t *r);
static ngx_table_elt_t *ngx_http_derp_header(ngx_http_request_t *r,
    const char *name, const char *token);
static ngx_uint_t ngx_http_derp_has_token(ngx_str_t *value, const char *token);
static ngx_int_t ngx_http_derp_refuse(ngx_http_request_t *r);
static ngx_int_t ngx_http_derp_upgrade(ngx_http_request_t *r);
static ngx_int_t ngx_http_derp_switch_protocols(ngx_http_request_t *r,
    ngx_derp_relay_t *relay);
static ngx_int_t ngx_http_derp_server_key(ngx_http_request_t *r,
    ngx_derp_relay_t *relay);
static void ngx_http_derp_release_handler(ngx_event_t *ev);
static ngx_int_t ngx_http_derp_free_request(ngx_http_request_t *r);
static void ngx_http_derp_release_cleanup(void *data);
static ngx_int_t ngx_http_derp_keep_counted(ngx_http_request_t *r);
static ngx_uint_t ngx_http_derp_is_counted(ngx_pool_cleanup_t *cln);
static ngx_module_t *ngx_http_derp_module_of(char *name);
static void ngx_http_derp_free_buffers(ngx_connection_t *c,
    ngx_http_connection_t *hc);
static void ngx_http_derp_client(ngx_http_request_t *r,
    ngx_derp_client_t *client);


ngx_int_t
ngx_http_derp_handler(ngx_http_request_t *r)
{
    ngx_int_t  rc;
    ngx_str_t  suffix;

    ngx_http_derp_suffix(r, &suffix);

    if ((suffix.len == sizeof("/probe") - 1
         && ngx_strncmp(suffix.data, "/probe", suffix.len) == 0)
        || (suffix.len == sizeof("/latency-check") - 1
            && ngx_strncmp(suffix.data, "/latency-check", suffix.len) == 0))
    {
        return ngx_http_derp_probe(r);
    }

    if (suffix.len > 1 || (suffix.len == 1 && suffix.data[0] != '/')) {
        return NGX_HTTP_NOT_FOUND;
    }

    /* what a subrequest (mirror, auth_request) has of its connection is lent */

    if (r != r->main || ngx_http_derp_asked(r) != NGX_HTTP_DERP_RAW) {
        return ngx_http_derp_refuse(r);
    }

    rc = ngx_http_derp_check(r);

    if (rc != NGX_OK && ngx_http_derp_fast_start(r)) {

        /* such a client expects DERP, so the status is for the access log */

        r->headers_out.status = rc;
        return NGX_ERROR;
    }

    return rc == NGX_OK ? ngx_http_derp_upgrade(r) : rc;
}


/* Whether what asks for an upgrade may have it; if not, the answer. */

static ngx_int_t
ngx_http_derp_check(ngx_http_request_t *r)
{
    ngx_int_t                  rc;
    ngx_http_derp_loc_conf_t  *dlcf;

    if (r->method != NGX_HTTP_GET) {
        return ngx_http_derp_not_allowed(r, "GET");
    }

    /* neither 1.0, which has no upgrade, nor what comes in frames itself */

    if (r->http_version != NGX_HTTP_VERSION_11
        || r->headers_in.content_length_n > 0
        || r->headers_in.chunked)
    {
        return NGX_HTTP_BAD_REQUEST;
    }

    rc = ngx_http_derp_check_early(r);
    if (rc != NGX_OK) {
        return rc;
    }

    dlcf = ngx_http_get_module_loc_conf(r, ngx_http_derp_module);

    if (ngx_derp_session_refused(&dlcf->relay->relay)) {
        return NGX_HTTP_SERVICE_UNAVAILABLE;
    }

    return NGX_OK;
}


/*
 * TLS early data can be replayed by anybody who recorded it, and ClientInfo
 * would let that one in as the client.  A proxy marks what it got so with a
 * header, of any value (RFC 8470, 5.1).
 */

static ngx_int_t
ngx_http_derp_check_early(ngx_http_request_t *r)
{
#if (NGX_HTTP_SSL)
    ngx_str_t  early;

    if (r->connection->ssl) {

        if (ngx_ssl_get_early_data(r->connection, r->pool, &early) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        if (early.len) {
            return NGX_HTTP_TOO_EARLY;
        }
    }
#endif

    return ngx_http_derp_header(r, "early-data", NULL) ? NGX_HTTP_TOO_EARLY
                                                       : NGX_OK;
}


static ngx_uint_t
ngx_http_derp_fast_start(ngx_http_request_t *r)
{
    ngx_table_elt_t  *h;

    h = ngx_http_derp_header(r, "derp-fast-start", NULL);

    return h && h->value.len == 1 && h->value.data[0] == '1';
}


/* What follows the location's name in the URI, where that is a prefix. */

static void
ngx_http_derp_suffix(ngx_http_request_t *r, ngx_str_t *suffix)
{
    size_t                     len;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    ngx_str_null(suffix);

#if (NGX_PCRE)
    if (clcf->regex) {
        return;
    }
#endif

    if (clcf->named || clcf->noname || r->uri.len < clcf->name.len) {
        return;
    }

    len = clcf->name.len;

    if (len && clcf->name.data[len - 1] == '/') {
        len--;
    }

    suffix->data = r->uri.data + len;
    suffix->len = r->uri.len - len;
}


/* derper's probeHandler() */

static ngx_int_t
ngx_http_derp_probe(ngx_http_request_t *r)
{
    ngx_int_t  rc;

    if (r->method != NGX_HTTP_GET && r->method != NGX_HTTP_HEAD) {
        return ngx_http_derp_not_allowed(r, "GET, HEAD");
    }

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_length_n = 0;

    if (ngx_http_derp_add_header(r, "Access-Control-Allow-Origin",
                                 (u_char *) "*", 1)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    return ngx_http_send_special(r, NGX_HTTP_LAST);
}


ngx_int_t
ngx_http_derp_not_allowed(ngx_http_request_t *r, char *allow)
{
    if (ngx_http_derp_add_header(r, "Allow", (u_char *) allow,
                                 ngx_strlen(allow))
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return NGX_HTTP_NOT_ALLOWED;
}


static ngx_http_derp_upgrade_e
ngx_http_derp_asked(ngx_http_request_t *r)
{
    if (ngx_http_derp_header(r, "connection", "upgrade") == NULL) {
        return NGX_HTTP_DERP_NONE;
    }

    if (ngx_http_derp_header(r, "upgrade", "derp")) {
        return NGX_HTTP_DERP_RAW;
    }

    if (ngx_http_derp_header(r, "upgrade", "websocket")) {

        /* clients from before WebSocket asked for it and meant DERP */

        return ngx_http_derp_header(r, "sec-websocket-protocol", "derp")
               ? NGX_HTTP_DERP_WEBSOCKET : NGX_HTTP_DERP_RAW;
    }

    return NGX_HTTP_DERP_NONE;
}


/*
 * A header with the token among those that its value lists; lines of the same
 * name are one list.  With no token any value will do.
 */

static ngx_table_elt_t *
ngx_http_derp_header(ngx_http_request_t *r, const char *name,
    const char *token)
{
    size_t            len;
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    len = ngx_strlen(name);

    for (part = &r->headers_in.headers.part; part; part = part->next) {
        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (h[i].hash
                && h[i].key.len == len
                && ngx_strncasecmp(h[i].key.data, (u_char *) name, len) == 0
                && (token == NULL
                    || ngx_http_derp_has_token(&h[i].value, token)))
            {
                return &h[i];
            }
        }
    }

    return NULL;
}


static ngx_uint_t
ngx_http_derp_has_token(ngx_str_t *value, const char *token)
{
    size_t   len;
    u_char  *p, *last, *start;

    len = ngx_strlen(token);
    p = value->data;
    last = p + value->len;

    while (p < last) {

        while (p < last && (*p == ' ' || *p == '\t' || *p == ',')) {
            p++;
        }

        start = p;

        while (p < last && *p != ',' && *p != ' ' && *p != '\t') {
            p++;
        }

        if ((size_t) (p - start) == len
            && ngx_strncasecmp(start, (u_char *) token, len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


static ngx_int_t
ngx_http_derp_refuse(ngx_http_request_t *r)
{
    ngx_str_t                 type;
    ngx_http_complex_value_t  cv;

    /* RFC 9113, 8.2.2: from HTTP/2 on there is no such header */

    if (r->http_version < NGX_HTTP_VERSION_20
        && ngx_http_derp_add_header(r, "Upgrade", (u_char *) "DERP", 4)
           != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_memzero(&cv, sizeof(ngx_http_complex_value_t));

    ngx_str_set(&cv.value, "DERP requires connection upgrade\n");
    ngx_str_set(&type, "text/plain");

    return ngx_http_send_response(r, NGX_HTTP_UPGRADE_REQUIRED, &type, &cv);
}


/*
 * The connection is handed over from an event of our own, since a request is
 * not to be freed in its own handler.
 */

static ngx_int_t
ngx_http_derp_upgrade(ngx_http_request_t *r)
{
    ngx_event_t               *ev;
    ngx_http_cleanup_t        *cln;
    ngx_http_derp_loc_conf_t  *dlcf;

    dlcf = ngx_http_get_module_loc_conf(r, ngx_http_derp_module);

    ev = ngx_pcalloc(r->pool, sizeof(ngx_event_t));
    cln = ngx_http_cleanup_add(r, 0);

    if (ev == NULL || cln == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ev->handler = ngx_http_derp_release_handler;
    ev->data = r;
    ev->log = r->connection->log;

    cln->handler = ngx_http_derp_release_cleanup;
    cln->data = ev;

    r->headers_out.status = NGX_HTTP_SWITCHING_PROTOCOLS;

    ngx_log_debug2(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "derp upgrade to \"%V\", fast start:%ui",
                   &dlcf->relay->relay.name, ngx_http_derp_fast_start(r));

    /* with fast start that is for the access log only */

    if (!ngx_http_derp_fast_start(r)
        && ngx_http_derp_switch_protocols(r, &dlcf->relay->relay) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ngx_http_derp_server_key(r, &dlcf->relay->relay) != NGX_OK) {
        return NGX_ERROR;
    }

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

    r->main->count++;

    ngx_post_event(ev, &ngx_posted_events);

    return NGX_DONE;
}


static ngx_int_t
ngx_http_derp_switch_protocols(ngx_http_request_t *r, ngx_derp_relay_t *relay)
{
    u_char     key[NGX_DERP_HEX_LEN], id[NGX_DERP_RELAY_ID_LEN];
    ngx_int_t  rc;
    ngx_str_t  name;

    ngx_str_set(&r->headers_out.status_line, "101 Switching Protocols");

    /* a proxy in between accepts only a protocol that the client offered */

    if (ngx_http_derp_header(r, "upgrade", "derp")) {
        ngx_str_set(&name, "DERP");

    } else {
        ngx_str_set(&name, "websocket");
    }

    ngx_derp_key_hex(key, relay->public_key);

    (void) ngx_snprintf(id, sizeof(id), "%016xL", relay->region.zone->id);

    if (ngx_http_derp_add_header(r, "Upgrade", name.data, name.len) != NGX_OK
        || ngx_http_derp_add_header(r, "Derp-Version", (u_char *) "2", 1)
           != NGX_OK
        || ngx_http_derp_add_header(r, "Derp-Public-Key", key, sizeof(key))
           != NGX_OK
        || ngx_http_derp_add_header(r, NGX_DERP_RELAY_ID, id, sizeof(id))
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK) {
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* The stream phase's first frame goes out with the reply, in one write. */

static ngx_int_t
ngx_http_derp_server_key(ngx_http_request_t *r, ngx_derp_relay_t *relay)
{
    ngx_buf_t    *b;
    ngx_chain_t   out;

    b = ngx_create_temp_buf(r->pool, NGX_DERP_SERVER_KEY_FRAME);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->last = ngx_derp_put_server_key(b->pos, relay->public_key);
    b->flush = 1;

    out.buf = b;
    out.next = NULL;

    /*
     * What follows goes other ways: a socket that does not take even this much
     * is not worth waiting for.
     */

    if (ngx_http_output_filter(r, &out) != NGX_OK
        || r->out || r->connection->buffered)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_derp_add_header(ngx_http_request_t *r, char *name, u_char *value,
    size_t len)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(h, sizeof(ngx_table_elt_t));

    h->value.data = ngx_pnalloc(r->pool, len);
    if (h->value.data == NULL) {
        return NGX_ERROR;
    }

    h->hash = 1;
    h->key.data = (u_char *) name;
    h->key.len = ngx_strlen(name);
    h->value.len = len;
    ngx_memcpy(h->value.data, value, len);

    return NGX_OK;
}


/*
 * From here on the connection is the session's: the request goes, as in
 * ngx_http_set_keepalive(), and with it all buffers of the HTTP phase.
 */

static void
ngx_http_derp_release_handler(ngx_event_t *ev)
{
    ngx_buf_t                 *b;
    ngx_connection_t          *c;
    ngx_derp_relay_t          *relay;
    ngx_derp_client_t          client;
    ngx_http_request_t        *r;
    ngx_http_connection_t     *hc;
    ngx_http_derp_loc_conf_t  *dlcf;

    r = ev->data;
    c = r->connection;
    hc = r->http_connection;
    b = r->header_in;

    dlcf = ngx_http_get_module_loc_conf(r, ngx_http_derp_module);
    relay = &dlcf->relay->relay;

    /* while the address is the one that realip found */

    ngx_http_derp_client(r, &client);

    if (ngx_http_derp_keep_counted(r) != NGX_OK) {
        c->error = 1;
    }

    if (ngx_http_derp_free_request(r) != NGX_OK) {
        c->error = 1;
    }

    if (c->error
        || ngx_derp_session_create(relay, c, &client, b->pos, b->last - b->pos)
           != NGX_OK)
    {
        ngx_http_close_connection(c);
        return;
    }

    ngx_http_derp_free_buffers(c, hc);
}


/*
 * With the request realip's change of the connection's address is undone.  The
 * text is kept, since the log must name the client instead of a proxy; sockaddr
 * is the socket's again, as the session expects.
 */

static ngx_int_t
ngx_http_derp_free_request(ngx_http_request_t *r)
{
    u_char             text[NGX_SOCKADDR_STRLEN];
    ngx_str_t          addr;
    ngx_connection_t  *c;

    c = r->connection;

    addr.data = text;
    addr.len = ngx_min(c->addr_text.len, sizeof(text));
    ngx_memcpy(text, c->addr_text.data, addr.len);

    r->keepalive = 0;

    ngx_http_free_request(r, 0);

    c->destroyed = 0;

    if (c->addr_text.len == addr.len
        && ngx_memcmp(c->addr_text.data, text, addr.len) == 0)
    {
        return NGX_OK;
    }

    addr.data = ngx_pstrdup(c->pool, &addr);
    if (addr.data == NULL) {
        return NGX_ERROR;
    }

    c->addr_text = addr;

    return NGX_OK;
}


static void
ngx_http_derp_release_cleanup(void *data)
{
    ngx_event_t  *ev = data;

    if (ev->posted) {
        ngx_delete_posted_event(ev);
    }
}


/* limit_conn counts the request for as long as its connection lives. */

static ngx_int_t
ngx_http_derp_keep_counted(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t  *cln, *kept, **prev;

    prev = &r->pool->cleanup;

    for (cln = *prev; cln; cln = *prev) {

        if (!ngx_http_derp_is_counted(cln)) {
            prev = &cln->next;
            continue;
        }

        kept = ngx_pool_cleanup_add(r->connection->pool,
                                    sizeof(ngx_http_derp_counted_t));
        if (kept == NULL) {
            return NGX_ERROR;
        }

        ngx_memcpy(kept->data, cln->data, sizeof(ngx_http_derp_counted_t));
        kept->handler = cln->handler;

        *prev = cln->next;
    }

    return NGX_OK;
}


/*
 * The handler is not known outside of its module, which may not even be there:
 * it is told by what it is to clean up, a zone of that module's.
 */

static ngx_uint_t
ngx_http_derp_is_counted(ngx_pool_cleanup_t *cln)
{
    void             *tag;
    ngx_uint_t        i;
    ngx_shm_zone_t   *zone;
    ngx_list_part_t  *part;

    if (cln->handler == NULL || cln->data == NULL) {
        return 0;
    }

    for (part = (ngx_list_part_t *) &ngx_cycle->shared_memory.part;
         part;
         part = part->next)
    {
        zone = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (*(void **) cln->data == &zone[i]) {
                tag = ngx_http_derp_module_of("ngx_http_limit_conn_module");

                return tag && tag == zone[i].tag;
            }
        }
    }

    return 0;
}


static ngx_module_t *
ngx_http_derp_module_of(char *name)
{
    ngx_uint_t  i;

    for (i = 0; ngx_cycle->modules[i]; i++) {
        if (ngx_strcmp(ngx_cycle->modules[i]->name, name) == 0) {
            return ngx_cycle->modules[i];
        }
    }

    return NULL;
}


static void
ngx_http_derp_free_buffers(ngx_connection_t *c, ngx_http_connection_t *hc)
{
    ngx_chain_t  *cl;

    if (c->buffer) {
        (void) ngx_pfree(c->pool, c->buffer->start);
        c->buffer = NULL;
    }

    for (cl = hc->free; cl; cl = cl->next) {
        (void) ngx_pfree(c->pool, cl->buf->start);
    }

    for (cl = hc->busy; cl; cl = cl->next) {
        (void) ngx_pfree(c->pool, cl->buf->start);
    }

    hc->free = NULL;
    hc->busy = NULL;
    hc->nbusy = 0;

#if (NGX_HTTP_SSL)
    if (c->ssl) {
        ngx_ssl_free_buffer(c);
    }
#endif
}


static void
ngx_http_derp_client(ngx_http_request_t *r, ngx_derp_client_t *client)
{
    struct sockaddr      *sa;
    struct sockaddr_in   *sin;
#if (NGX_HAVE_INET6)
    struct sockaddr_in6  *sin6;
#endif

    ngx_memzero(client, sizeof(ngx_derp_client_t));

    sa = r->connection->sockaddr;

    switch (sa->sa_family) {

    case AF_INET:
        sin = (struct sockaddr_in *) sa;
        client->addr[10] = 0xff;
        client->addr[11] = 0xff;
        ngx_memcpy(&client->addr[12], &sin->sin_addr, 4);
        break;

#if (NGX_HAVE_INET6)
    case AF_INET6:
        sin6 = (struct sockaddr_in6 *) sa;
        ngx_memcpy(client->addr, &sin6->sin6_addr, 16);
        break;
#endif

    default: /* AF_UNIX */
        break;
    }

    client->port = ngx_inet_get_port(sa);

    if (ngx_http_derp_header(r, "ideal-node", NULL)) {
        client->flags |= NGX_DERP_PRESENT_NOT_IDEAL;
    }
}
