
/*
 * The derp_relay {} block and the relay's zone.
 */


#include "ngx_http_derp_module.h"
#include "ngx_http_derp_key_file.h"
#include "ngx_derp_notice.h"
#include "ngx_derp_zone.h"


/* derpserver's privilegedWriteTimeout */
#define NGX_HTTP_DERP_MESH_WRITE_TIMEOUT  30000

/* with the jitter that is still less than the clients' derp.readLimit */
#define NGX_HTTP_DERP_KEEPALIVE_MAX       110000

/* a few blocked clients with all that they may hold */
#define NGX_HTTP_DERP_BUFFERS_MIN         (16 * 1024 * 1024)


static char *ngx_http_derp_relay_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_derp_relay_file(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_derp_relay_check_handshake(ngx_conf_t *cf, void *post,
    void *data);
static char *ngx_http_derp_relay_check_keepalive(ngx_conf_t *cf, void *post,
    void *data);
static char *ngx_http_derp_relay_check_buffers(ngx_conf_t *cf, void *post,
    void *data);
static char *ngx_http_derp_relay_check_health(ngx_conf_t *cf, void *post,
    void *data);
static ngx_int_t ngx_http_derp_relay_add_zone(ngx_conf_t *cf,
    ngx_http_derp_relay_conf_t *rcf);
static ngx_int_t ngx_http_derp_relay_same_size(ngx_conf_t *cf,
    ngx_http_derp_relay_conf_t *rcf, ngx_str_t *zone_name);
static ngx_int_t ngx_http_derp_relay_init_zone(ngx_shm_zone_t *zone,
    void *data);
static ngx_int_t ngx_http_derp_relay_create_zone(ngx_derp_relay_t *relay,
    ngx_slab_pool_t *shpool);
static void ngx_http_derp_relay_check_zone(ngx_derp_relay_t *relay);
static ngx_int_t ngx_http_derp_relay_read_keys(ngx_conf_t *cf,
    ngx_http_derp_relay_conf_t *rcf);
static void ngx_http_derp_relay_cleanup(void *data);


static ngx_conf_post_t  ngx_http_derp_handshake_post = {
    ngx_http_derp_relay_check_handshake
};

static ngx_conf_post_t  ngx_http_derp_keepalive_post = {
    ngx_http_derp_relay_check_keepalive
};

static ngx_conf_post_t  ngx_http_derp_buffers_post = {
    ngx_http_derp_relay_check_buffers
};

static ngx_conf_post_t  ngx_http_derp_health_post = {
    ngx_http_derp_relay_check_health
};


static ngx_command_t  ngx_derp_relay_commands[] = {

    { ngx_string("zone"),
      NGX_DERP_RELAY_CONF|NGX_CONF_TAKE1,
      ngx_http_derp_relay_zone,
      0,
      0,
      NULL },

    { ngx_string("key_file"),
      NGX_DERP_RELAY_CONF|NGX_CONF_TAKE1,
      ngx_http_derp_relay_file,
      0,
      offsetof(ngx_http_derp_relay_conf_t, key_file),
      NULL },

    { ngx_string("mesh_key_file"),
      NGX_DERP_RELAY_CONF|NGX_CONF_TAKE1,
      ngx_http_derp_relay_file,
      0,
      offsetof(ngx_http_derp_relay_conf_t, mesh_key_file),
      NULL },

    { ngx_string("mesh_with"),
      NGX_DERP_RELAY_CONF|NGX_CONF_1MORE,
      ngx_http_derp_mesh_with,
      0,
      0,
      NULL },

    { ngx_string("mesh_ssl_trusted_certificate"),
      NGX_DERP_RELAY_CONF|NGX_CONF_TAKE1,
      ngx_http_derp_mesh_ssl,
      0,
      0,
      NULL },

    { ngx_string("mesh_ssl_name"),
      NGX_DERP_RELAY_CONF|NGX_CONF_TAKE1,
      ngx_http_derp_mesh_ssl,
      0,
      0,
      NULL },

    { ngx_string("mesh_ssl_verify"),
      NGX_DERP_RELAY_CONF|NGX_CONF_FLAG,
      ngx_http_derp_mesh_ssl,
      0,
      0,
      NULL },

    { ngx_string("mesh_ssl_verify_depth"),
      NGX_DERP_RELAY_CONF|NGX_CONF_TAKE1,
      ngx_http_derp_mesh_ssl,
      0,
      0,
      NULL },

    { ngx_string("handshake_timeout"),
      NGX_DERP_RELAY_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      0,
      offsetof(ngx_http_derp_relay_conf_t, relay.handshake_timeout),
      &ngx_http_derp_handshake_post },

    { ngx_string("keepalive"),
      NGX_DERP_RELAY_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      0,
      offsetof(ngx_http_derp_relay_conf_t, relay.keepalive),
      &ngx_http_derp_keepalive_post },

    { ngx_string("write_timeout"),
      NGX_DERP_RELAY_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      0,
      offsetof(ngx_http_derp_relay_conf_t, relay.write_timeout),
      NULL },

    { ngx_string("buffers"),
      NGX_DERP_RELAY_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_size_slot,
      0,
      offsetof(ngx_http_derp_relay_conf_t, relay.buffers),
      &ngx_http_derp_buffers_post },

    { ngx_string("drain"),
      NGX_DERP_RELAY_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      0,
      offsetof(ngx_http_derp_relay_conf_t, relay.drain),
      NULL },

    { ngx_string("health"),
      NGX_DERP_RELAY_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      0,
      offsetof(ngx_http_derp_relay_conf_t, relay.health),
      &ngx_http_derp_health_post },

      ngx_null_command
};


static ngx_core_module_t  ngx_derp_relay_module_ctx = {
    ngx_string("derp_relay"),
    NULL,
    NULL
};


ngx_module_t  ngx_derp_relay_module = {
    NGX_MODULE_V1,
    &ngx_derp_relay_module_ctx,            /* module context */
    ngx_derp_relay_commands,               /* module directives */
    NGX_DERP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    NULL,                                  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


char *
ngx_http_derp_relay_block(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char                        *rv;
    void                        *confs[1], *ctx;
    ngx_str_t                   *value;
    ngx_conf_t                   save;
    ngx_http_derp_relay_conf_t  *rcf;

    value = cf->args->elts;

    if (value[1].len == 0) {
        return "has no name";
    }

    rcf = ngx_http_derp_relay(cf, &value[1]);
    if (rcf == NULL) {
        return NGX_CONF_ERROR;
    }

    if (rcf->defined) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "duplicate derp_relay \"%V\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    rcf->defined = 1;

    /* directives find their configuration as those of http modules do */

    (void) ngx_count_modules(cf->cycle, NGX_DERP_MODULE);

    confs[0] = rcf;
    ctx = confs;

    save = *cf;
    cf->ctx = &ctx;
    cf->module_type = NGX_DERP_MODULE;
    cf->cmd_type = NGX_DERP_RELAY_CONF;

    rv = ngx_conf_parse(cf, NULL);

    *cf = save;

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    if (rcf->size == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "no \"zone\" in derp_relay \"%V\"",
                           &rcf->relay.name);
        return NGX_CONF_ERROR;
    }

    if (rcf->key_file.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "no \"key_file\" in derp_relay \"%V\"",
                           &rcf->relay.name);
        return NGX_CONF_ERROR;
    }

    if (ngx_http_derp_relay_read_keys(cf, rcf) != NGX_OK
        || ngx_http_derp_mesh_init(cf, rcf) != NGX_OK
        || ngx_http_derp_relay_add_zone(cf, rcf) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


ngx_http_derp_relay_conf_t *
ngx_http_derp_relay(ngx_conf_t *cf, ngx_str_t *name)
{
    ngx_uint_t                    i;
    ngx_http_derp_main_conf_t    *dmcf;
    ngx_http_derp_relay_conf_t  **rcfp, *rcf;

    dmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_derp_module);

    rcfp = dmcf->relays.elts;

    for (i = 0; i < dmcf->relays.nelts; i++) {
        if (rcfp[i]->relay.name.len == name->len
            && ngx_strncmp(rcfp[i]->relay.name.data, name->data, name->len)
               == 0)
        {
            return rcfp[i];
        }
    }

    rcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_derp_relay_conf_t));
    if (rcf == NULL) {
        return NULL;
    }

    rcf->relay.name = *name;
    rcf->relay.close = ngx_http_close_connection;

    rcf->relay.handshake_timeout = NGX_CONF_UNSET_MSEC;
    rcf->relay.keepalive = NGX_CONF_UNSET_MSEC;
    rcf->relay.write_timeout = NGX_CONF_UNSET_MSEC;
    rcf->relay.buffers = NGX_CONF_UNSET_SIZE;
    rcf->relay.drain = NGX_CONF_UNSET_MSEC;

    rcf->file_name = cf->conf_file->file.name.data;
    rcf->line = cf->conf_file->line;

    rcfp = ngx_array_push(&dmcf->relays);
    if (rcfp == NULL) {
        return NULL;
    }

    *rcfp = rcf;

    return rcf;
}


char *
ngx_http_derp_relay_init(ngx_conf_t *cf, ngx_http_derp_relay_conf_t *rcf)
{
    ngx_core_conf_t   *ccf;
    ngx_derp_relay_t  *relay;

    relay = &rcf->relay;

    if (!rcf->defined) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "unknown derp_relay \"%V\" in %s:%ui, "
                      "define it in \"http\"",
                      &relay->name, rcf->file_name, rcf->line);
        return NGX_CONF_ERROR;
    }

    ngx_conf_init_msec_value(relay->handshake_timeout, 10000);
    ngx_conf_init_msec_value(relay->keepalive, 60000);
    ngx_conf_init_msec_value(relay->write_timeout, 2000);
    ngx_conf_init_size_value(relay->buffers, 64 * 1024 * 1024);

    /* Debian's unit for nginx ends a stop after 5 seconds */

    ngx_conf_init_msec_value(relay->drain, 4000);

    relay->mesh_write_timeout = NGX_HTTP_DERP_MESH_WRITE_TIMEOUT;

    ccf = (ngx_core_conf_t *) ngx_get_conf(cf->cycle->conf_ctx,
                                           ngx_core_module);

    relay->workers = ccf->worker_processes == NGX_CONF_UNSET
                     ? 1 : ccf->worker_processes;

    return NGX_CONF_OK;
}


static char *
ngx_http_derp_relay_check_handshake(ngx_conf_t *cf, void *post, void *data)
{
    ngx_msec_t  *timeout = data;

    return *timeout ? NGX_CONF_OK : "must be at least 1ms";
}


static char *
ngx_http_derp_relay_check_keepalive(ngx_conf_t *cf, void *post, void *data)
{
    ngx_msec_t  *keepalive = data;

    if (*keepalive == 0 || *keepalive > NGX_HTTP_DERP_KEEPALIVE_MAX) {
        return "must be at least 1ms, and at most 110s, "
               "since clients close after 120s without a frame";
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_derp_relay_check_buffers(ngx_conf_t *cf, void *post, void *data)
{
    size_t  *buffers = data;

    return *buffers < NGX_HTTP_DERP_BUFFERS_MIN ? "must be at least 16m"
                                                : NGX_CONF_OK;
}


static char *
ngx_http_derp_relay_check_health(ngx_conf_t *cf, void *post, void *data)
{
    ngx_str_t  *health = data;

    return health->len > NGX_DERP_NOTICE_MAX ? "must be at most 1000 bytes"
                                             : NGX_CONF_OK;
}


static char *
ngx_http_derp_relay_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_derp_relay_conf_t  *rcf = conf;

    ngx_str_t  *value;

    if (rcf->size) {
        return "is duplicate";
    }

    value = cf->args->elts;
    rcf->size = ngx_parse_size(&value[1]);

    if (rcf->size == NGX_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid zone size \"%V\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    if (rcf->size < NGX_DERP_ZONE_MIN) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "zone size \"%V\" is too small, the minimum is %dm",
                           &value[1], NGX_DERP_ZONE_MIN / 1024 / 1024);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_derp_relay_file(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char  *p = conf;

    ngx_str_t  *value, *file;

    file = (ngx_str_t *) (p + cmd->offset);

    if (file->len) {
        return "is duplicate";
    }

    value = cf->args->elts;
    *file = value[1];

    if (file->len == 0) {
        return "has no name";
    }

    if (ngx_conf_full_name(cf->cycle, file, 1) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_derp_relay_read_keys(ngx_conf_t *cf, ngx_http_derp_relay_conf_t *rcf)
{
    ngx_derp_relay_t    *relay;
    ngx_pool_cleanup_t  *cln;

    relay = &rcf->relay;

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    cln->handler = ngx_http_derp_relay_cleanup;
    cln->data = relay;

    if (ngx_derp_key_init() != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "sodium_init() failed");
        return NGX_ERROR;
    }

    if (ngx_http_derp_read_key(cf, &rcf->key_file, relay->private_key)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ngx_derp_key_public(relay->public_key, relay->private_key) != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "unusable key in \"%V\"",
                           &rcf->key_file);
        return NGX_ERROR;
    }

    if (rcf->mesh_key_file.len) {
        relay->meshed = 1;

        return ngx_http_derp_read_mesh_key(cf, &rcf->mesh_key_file,
                                           relay->mesh_key);
    }

    return NGX_OK;
}


static void
ngx_http_derp_relay_cleanup(void *data)
{
    ngx_derp_relay_t  *relay = data;

    ngx_derp_key_wipe(relay->private_key, sizeof(relay->private_key));
    ngx_derp_key_wipe(relay->mesh_key, sizeof(relay->mesh_key));
}


static ngx_int_t
ngx_http_derp_relay_add_zone(ngx_conf_t *cf, ngx_http_derp_relay_conf_t *rcf)
{
    ngx_str_t        name;
    ngx_shm_zone_t  *zone;

    name.len = sizeof("derp_relay ") - 1 + rcf->relay.name.len;
    name.data = ngx_pnalloc(cf->pool, name.len);
    if (name.data == NULL) {
        return NGX_ERROR;
    }

    (void) ngx_snprintf(name.data, name.len, "derp_relay %V",
                        &rcf->relay.name);

    if (ngx_http_derp_relay_same_size(cf, rcf, &name) != NGX_OK) {
        return NGX_ERROR;
    }

    zone = ngx_shared_memory_add(cf, &name, rcf->size, &ngx_http_derp_module);
    if (zone == NULL) {
        return NGX_ERROR;
    }

    zone->init = ngx_http_derp_relay_init_zone;
    zone->data = &rcf->relay;

    rcf->relay.zone = zone;

    return NGX_OK;
}


/*
 * nginx would make a new zone for a new size, and old workers would go on
 * relaying in the old one, unreachable for the new.
 */

static ngx_int_t
ngx_http_derp_relay_same_size(ngx_conf_t *cf, ngx_http_derp_relay_conf_t *rcf,
    ngx_str_t *name)
{
    ngx_uint_t        i;
    ngx_shm_zone_t   *zone;
    ngx_list_part_t  *part;

    part = &cf->cycle->old_cycle->shared_memory.part;

    for ( /* void */ ; part; part = part->next) {
        zone = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (zone[i].tag == &ngx_http_derp_module
                && zone[i].shm.name.len == name->len
                && ngx_strncmp(zone[i].shm.name.data, name->data, name->len)
                   == 0
                && zone[i].shm.size != (size_t) rcf->size)
            {
                ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                   "the zone of derp_relay \"%V\" cannot be "
                                   "changed from %uz to %z bytes by a reload, "
                                   "restart nginx for that",
                                   &rcf->relay.name, zone[i].shm.size,
                                   rcf->size);
                return NGX_ERROR;
            }
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_derp_relay_init_zone(ngx_shm_zone_t *zone, void *data)
{
    ngx_slab_pool_t   *shpool;
    ngx_derp_relay_t  *relay;

    relay = zone->data;
    shpool = (ngx_slab_pool_t *) zone->shm.addr;

    relay->region.log = zone->shm.log;

    /* here, as a reload that fails here leaves nginx as it was */

    if (!ngx_test_config && ngx_derp_slots_init(zone->shm.log) != NGX_OK) {
        return NGX_ERROR;
    }

    if (data || zone->shm.exists) {

        if (ngx_derp_zone_open(&relay->region, shpool->data) != NGX_OK) {
            ngx_log_error(NGX_LOG_EMERG, zone->shm.log, 0,
                          "the zone of derp_relay \"%V\" has another layout, "
                          "restart nginx instead of reloading it",
                          &relay->name);
            return NGX_ERROR;
        }

    } else if (ngx_http_derp_relay_create_zone(relay, shpool) != NGX_OK) {
        ngx_log_error(NGX_LOG_EMERG, zone->shm.log, 0,
                      "the zone of derp_relay \"%V\" is too small",
                      &relay->name);
        return NGX_ERROR;
    }

    ngx_http_derp_relay_check_zone(relay);

    return NGX_OK;
}


/*
 * A start leaves room for a reload.  On a reload old workers are counted,
 * which do without channels of their own as long as there are inboxes.
 */

static void
ngx_http_derp_relay_check_zone(ngx_derp_relay_t *relay)
{
    ngx_uint_t        live, old;
    ngx_derp_zone_t  *z;

    z = relay->region.zone;
    live = ngx_test_config ? 0 : ngx_derp_slots_used();
    old = ngx_max(live, relay->workers);

    if (z->channels >= ngx_derp_zone_channels(relay->workers + old)
        || (live && z->inboxes >= relay->workers + old))
    {
        return;
    }

    ngx_log_error(NGX_LOG_WARN, relay->region.log, 0,
                  "the zone of derp_relay \"%V\" has %uD channels and %uD "
                  "inboxes, %ui workers and %ui old ones may need %uz channels "
                  "or %ui inboxes: increase its \"zone\"",
                  &relay->name, z->channels, z->inboxes, relay->workers, old,
                  ngx_derp_zone_channels(relay->workers + old),
                  relay->workers + old);
}


static ngx_int_t
ngx_http_derp_relay_create_zone(ngx_derp_relay_t *relay,
    ngx_slab_pool_t *shpool)
{
    size_t            size;
    ngx_derp_zone_t  *z;

    /* all that the slab allocator has, in one piece */

    size = shpool->pfree * ngx_pagesize;
    z = ngx_slab_alloc(shpool, size);

    if (z == NULL
        || ngx_derp_zone_create(&relay->region, z, size, relay->workers)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    shpool->data = z;

    ngx_log_error(NGX_LOG_NOTICE, relay->region.log, 0,
                  "derp_relay \"%V\" has room for %uD clients, %uD "
                  "channels of %uD bytes between workers and %uD inboxes",
                  &relay->name, z->capacity, z->channels, z->ring_size,
                  z->inboxes);

    return NGX_OK;
}
