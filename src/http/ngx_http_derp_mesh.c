
/*
 * The configuration of links to other relays.
 */


#include "ngx_http_derp_module.h"
#include "ngx_derp_mesh.h"
#include "ngx_derp_lease.h"


/* both fit in the request of a relay that is dialed */
#define NGX_HTTP_DERP_NAME_MAX  255
#define NGX_HTTP_DERP_URI_MAX   2048


static ngx_derp_mesh_t *ngx_http_derp_mesh(ngx_conf_t *cf,
    ngx_derp_relay_t *relay);
static ngx_int_t ngx_http_derp_mesh_check(ngx_conf_t *cf, ngx_url_t *u,
    ngx_str_t *value);
static ngx_uint_t ngx_http_derp_mesh_is_name(ngx_str_t *name);
static char *ngx_http_derp_mesh_add(ngx_conf_t *cf, ngx_derp_relay_t *relay,
    ngx_str_t *value);
static uint64_t ngx_http_derp_mesh_id(ngx_str_t *value);
static ngx_int_t ngx_http_derp_mesh_create_ssl(ngx_conf_t *cf,
    ngx_derp_mesh_t *mesh);


char *
ngx_http_derp_mesh_with(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_derp_relay_conf_t  *rcf = conf;

    char        *rv;
    ngx_str_t   *value;
    ngx_uint_t   i;

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        rv = ngx_http_derp_mesh_add(cf, &rcf->relay, &value[i]);

        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    return NGX_CONF_OK;
}


static ngx_derp_mesh_t *
ngx_http_derp_mesh(ngx_conf_t *cf, ngx_derp_relay_t *relay)
{
    ngx_derp_mesh_t  *mesh;

    if (relay->mesh) {
        return relay->mesh;
    }

    mesh = ngx_pcalloc(cf->pool, sizeof(ngx_derp_mesh_t));
    if (mesh == NULL) {
        return NULL;
    }

    mesh->ssl_verify = NGX_CONF_UNSET;
    mesh->ssl_verify_depth = NGX_CONF_UNSET_UINT;

    if (ngx_array_init(&mesh->links, cf->pool, 4, sizeof(ngx_derp_link_t))
        != NGX_OK)
    {
        return NULL;
    }

    relay->mesh = mesh;

    return mesh;
}


static char *
ngx_http_derp_mesh_add(ngx_conf_t *cf, ngx_derp_relay_t *relay,
    ngx_str_t *value)
{
    size_t            scheme;
    ngx_uint_t        i;
    ngx_url_t        *u;
    ngx_derp_mesh_t  *mesh;
    ngx_derp_link_t  *link;

    mesh = ngx_http_derp_mesh(cf, relay);
    if (mesh == NULL) {
        return NGX_CONF_ERROR;
    }

    link = mesh->links.elts;

    for (i = 0; i < mesh->links.nelts; i++) {
        if (link[i].id == ngx_http_derp_mesh_id(value)) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "duplicate relay \"%V\" to mesh with", value);
            return NGX_CONF_ERROR;
        }
    }

    if (mesh->links.nelts == NGX_DERP_MAX_LINKS) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "more than %d relays to mesh with",
                           NGX_DERP_MAX_LINKS);
        return NGX_CONF_ERROR;
    }

    link = ngx_array_push(&mesh->links);
    if (link == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(link, sizeof(ngx_derp_link_t));

    link->relay = relay;
    link->id = ngx_http_derp_mesh_id(value);

    if (ngx_strncasecmp(value->data, (u_char *) "https://", 8) == 0) {
        scheme = 8;
        link->secure = 1;

    } else if (ngx_strncasecmp(value->data, (u_char *) "http://", 7) == 0) {
        scheme = 7;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid URL \"%V\" to mesh with, "
                           "expected https://name[:port][/uri]", value);
        return NGX_CONF_ERROR;
    }

    u = &link->url;

    u->url.data = value->data + scheme;
    u->url.len = value->len - scheme;
    u->default_port = link->secure ? 443 : 80;
    u->uri_part = 1;
    u->no_resolve = 1;

    if (ngx_parse_url(cf->pool, u) != NGX_OK || u->host.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid URL \"%V\" to mesh with: %s", value,
                           u->err ? u->err : "no host");
        return NGX_CONF_ERROR;
    }

    if (ngx_http_derp_mesh_check(cf, u, value) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (u->uri.len == 0) {
        ngx_str_set(&u->uri, "/derp");
    }

    link->name = u->host;

    return NGX_CONF_OK;
}


/* What goes into the request that is sent to the other relay. */

static ngx_int_t
ngx_http_derp_mesh_check(ngx_conf_t *cf, ngx_url_t *u, ngx_str_t *value)
{
    size_t  i;

    if (!ngx_http_derp_mesh_is_name(&u->host)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid host in URL \"%V\" to mesh with, expected "
                           "a name of at most %d bytes, or an address", value,
                           NGX_HTTP_DERP_NAME_MAX);
        return NGX_ERROR;
    }

    for (i = 0; i < u->uri.len; i++) {
        if (u->uri.data[i] <= ' ' || u->uri.data[i] == 0x7f) {
            break;
        }
    }

    if (i < u->uri.len || u->uri.len > NGX_HTTP_DERP_URI_MAX) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the URI of a relay to mesh with must have at most "
                           "%d bytes, and spaces as %%20, in \"%V\"",
                           NGX_HTTP_DERP_URI_MAX, value);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* RFC 1035, 2.3.4: no name is longer; addresses have colons and brackets. */

static ngx_uint_t
ngx_http_derp_mesh_is_name(ngx_str_t *name)
{
    size_t  i;
    u_char  c;

    if (name->len == 0 || name->len > NGX_HTTP_DERP_NAME_MAX) {
        return 0;
    }

    for (i = 0; i < name->len; i++) {
        c = ngx_tolower(name->data[i]);

        if ((c < 'a' || c > 'z')
            && (c < '0' || c > '9')
            && ngx_strlchr((u_char *) "-._:[]", (u_char *) "-._:[]" + 6, c)
               == NULL)
        {
            return 0;
        }
    }

    return 1;
}


/* What tells one relay from another in the zone, whatever is configured. */

static uint64_t
ngx_http_derp_mesh_id(ngx_str_t *value)
{
    size_t    i;
    uint64_t  id;

    /* FNV-1a */

    id = 0xcbf29ce484222325ull;

    for (i = 0; i < value->len; i++) {
        id = (id ^ value->data[i]) * 0x100000001b3ull;
    }

    return id ? id : 1;
}


char *
ngx_http_derp_mesh_ssl(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_derp_relay_conf_t  *rcf = conf;

    ngx_command_t     slot;
    ngx_derp_mesh_t  *mesh;

    mesh = ngx_http_derp_mesh(cf, &rcf->relay);
    if (mesh == NULL) {
        return NGX_CONF_ERROR;
    }

    slot = *cmd;

    switch (cmd->name.data[sizeof("mesh_ssl_") - 1]) {

    case 't': /* mesh_ssl_trusted_certificate */
        slot.offset = offsetof(ngx_derp_mesh_t, trusted_certificate);
        return ngx_conf_set_str_slot(cf, &slot, mesh);

    case 'n': /* mesh_ssl_name */
        slot.offset = offsetof(ngx_derp_mesh_t, ssl_name);
        return ngx_conf_set_str_slot(cf, &slot, mesh);

    default:
        break;
    }

    if (cmd->name.len == sizeof("mesh_ssl_verify") - 1) {
        slot.offset = offsetof(ngx_derp_mesh_t, ssl_verify);
        return ngx_conf_set_flag_slot(cf, &slot, mesh);
    }

    slot.offset = offsetof(ngx_derp_mesh_t, ssl_verify_depth);
    return ngx_conf_set_num_slot(cf, &slot, mesh);
}


ngx_int_t
ngx_http_derp_mesh_init(ngx_conf_t *cf, ngx_http_derp_relay_conf_t *rcf)
{
    ngx_uint_t        i;
    ngx_derp_mesh_t  *mesh;
    ngx_derp_link_t  *link;

    mesh = rcf->relay.mesh;

    if (mesh == NULL) {
        return NGX_OK;
    }

    if (mesh->links.nelts && !rcf->relay.meshed) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "no \"mesh_key_file\" for \"mesh_with\" in "
                           "derp_relay \"%V\"", &rcf->relay.name);
        return NGX_ERROR;
    }

    ngx_conf_init_value(mesh->ssl_verify, 1);
    ngx_conf_init_uint_value(mesh->ssl_verify_depth, 5);

    link = mesh->links.elts;

    if (mesh->ssl_name.data && !ngx_http_derp_mesh_is_name(&mesh->ssl_name)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"mesh_ssl_name\" in derp_relay \"%V\", "
                           "expected a name of at most %d bytes",
                           &rcf->relay.name, NGX_HTTP_DERP_NAME_MAX);
        return NGX_ERROR;
    }

    for (i = 0; i < mesh->links.nelts; i++) {
        if (mesh->ssl_name.len) {
            link[i].name = mesh->ssl_name;
        }
    }

    return ngx_http_derp_mesh_create_ssl(cf, mesh);
}


static ngx_int_t
ngx_http_derp_mesh_create_ssl(ngx_conf_t *cf, ngx_derp_mesh_t *mesh)
{
    ngx_pool_cleanup_t  *cln;

    mesh->ssl = ngx_pcalloc(cf->pool, sizeof(ngx_ssl_t));
    if (mesh->ssl == NULL) {
        return NGX_ERROR;
    }

    mesh->ssl->log = cf->log;

    if (ngx_ssl_create(mesh->ssl,
                       NGX_SSL_TLSv1_2|NGX_SSL_TLSv1_3, NULL)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        ngx_ssl_cleanup_ctx(mesh->ssl);
        return NGX_ERROR;
    }

    cln->handler = ngx_ssl_cleanup_ctx;
    cln->data = mesh->ssl;

    if (mesh->trusted_certificate.len) {
        return ngx_ssl_trusted_certificate(cf, mesh->ssl,
                                           &mesh->trusted_certificate,
                                           mesh->ssl_verify_depth);
    }

    /* those that the system trusts */

    if (SSL_CTX_set_default_verify_paths(mesh->ssl->ctx) == 0) {
        ngx_ssl_error(NGX_LOG_EMERG, cf->log, 0,
                      "SSL_CTX_set_default_verify_paths() failed");
        return NGX_ERROR;
    }

    SSL_CTX_set_verify_depth(mesh->ssl->ctx, mesh->ssl_verify_depth);

    return NGX_OK;
}


ngx_int_t
ngx_http_derp_mesh_resolve(ngx_conf_t *cf, ngx_derp_relay_t *relay)
{
    ngx_uint_t                 i;
    ngx_derp_mesh_t           *mesh;
    ngx_derp_link_t           *link;
    ngx_resolver_ctx_t        *ctx;
    ngx_http_core_loc_conf_t  *clcf;

    mesh = relay->mesh;

    if (mesh == NULL) {
        return NGX_OK;
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    /*
     * Whether it has servers is asked this way, since its fields differ between
     * nginx and Angie.  Without any server{} there is not even an empty one.
     */

    ctx = clcf->resolver ? ngx_resolve_start(clcf->resolver, NULL)
                         : NGX_NO_RESOLVER;
    if (ctx == NULL) {
        return NGX_ERROR;
    }

    if (ctx != NGX_NO_RESOLVER) {
        ngx_resolve_name_done(ctx);

        mesh->resolver = clcf->resolver;

        mesh->resolver_timeout =
            clcf->resolver_timeout == NGX_CONF_UNSET_MSEC
            ? 30000 : clcf->resolver_timeout;
    }

    link = mesh->links.elts;

    for (i = 0; i < mesh->links.nelts; i++) {

        if (link[i].url.naddrs || mesh->resolver) {
            continue;
        }

        /* as proxy_pass with a name: once, when nginx is started */

        if (ngx_inet_resolve_host(cf->pool, &link[i].url) != NGX_OK) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "%s of \"%V\" to mesh with, "
                          "or see \"resolver\"",
                          link[i].url.err ? link[i].url.err
                                          : "host not found",
                          &link[i].url.url);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


void
ngx_http_derp_mesh_publish(ngx_derp_relay_t *relay)
{
    uint64_t          ids[NGX_DERP_MAX_LINKS];
    ngx_uint_t        i, n;
    ngx_derp_link_t  *link;

    n = relay->mesh ? relay->mesh->links.nelts : 0;
    link = n ? relay->mesh->links.elts : NULL;

    for (i = 0; i < n; i++) {
        ids[i] = link[i].id;
    }

    ngx_derp_lease_configure(&relay->region, ids, n);
}
