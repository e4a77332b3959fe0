
/*
 * The DERP relay's directives.
 */


#include "ngx_http_derp_module.h"
#include "ngx_http_derp_status.h"
#include "ngx_derp_notice.h"
#include "ngx_derp_worker.h"


static void *ngx_http_derp_create_main_conf(ngx_conf_t *cf);
static char *ngx_http_derp_init_main_conf(ngx_conf_t *cf, void *conf);
static void *ngx_http_derp_create_loc_conf(ngx_conf_t *cf);
static ngx_int_t ngx_http_derp_postconfiguration(ngx_conf_t *cf);
static char *ngx_http_derp(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
static char *ngx_http_derp_status(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_derp_location(ngx_conf_t *cf,
    ngx_http_derp_relay_conf_t **rcf, ngx_http_handler_pt handler);
static ngx_int_t ngx_http_derp_init_module(ngx_cycle_t *cycle);
static void ngx_http_derp_publish(ngx_derp_relay_t *relay, ngx_log_t *log);
static ngx_int_t ngx_http_derp_init_process(ngx_cycle_t *cycle);
static void ngx_http_derp_exit_process(ngx_cycle_t *cycle);


static ngx_command_t  ngx_http_derp_commands[] = {

    { ngx_string("derp_relay"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_BLOCK|NGX_CONF_TAKE1,
      ngx_http_derp_relay_block,
      0,
      0,
      NULL },

    { ngx_string("derp"),
      NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_derp,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("derp_status"),
      NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_derp_status,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_derp_module_ctx = {
    NULL,                                  /* preconfiguration */
    ngx_http_derp_postconfiguration,       /* postconfiguration */

    ngx_http_derp_create_main_conf,        /* create main configuration */
    ngx_http_derp_init_main_conf,          /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_derp_create_loc_conf,         /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_http_derp_module = {
    NGX_MODULE_V1,
    &ngx_http_derp_module_ctx,             /* module context */
    ngx_http_derp_commands,                /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    ngx_http_derp_init_module,             /* init module */
    ngx_http_derp_init_process,            /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_http_derp_exit_process,            /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static void *
ngx_http_derp_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_derp_main_conf_t  *dmcf;

    dmcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_derp_main_conf_t));
    if (dmcf == NULL) {
        return NULL;
    }

    if (ngx_array_init(&dmcf->relays, cf->pool, 1,
                       sizeof(ngx_http_derp_relay_conf_t *))
        != NGX_OK)
    {
        return NULL;
    }

    return dmcf;
}


static char *
ngx_http_derp_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_http_derp_main_conf_t  *dmcf = conf;

    ngx_uint_t                    i;
    ngx_http_derp_relay_conf_t  **rcfp;

    rcfp = dmcf->relays.elts;

    for (i = 0; i < dmcf->relays.nelts; i++) {
        if (ngx_http_derp_relay_init(cf, rcfp[i]) != NGX_CONF_OK) {
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


static void *
ngx_http_derp_create_loc_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_derp_loc_conf_t));
}


/* by now it is known whether there is a resolver */

static ngx_int_t
ngx_http_derp_postconfiguration(ngx_conf_t *cf)
{
    ngx_uint_t                    i;
    ngx_http_derp_main_conf_t    *dmcf;
    ngx_http_derp_relay_conf_t  **rcfp;

    dmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_derp_module);

    rcfp = dmcf->relays.elts;

    for (i = 0; i < dmcf->relays.nelts; i++) {
        if (ngx_http_derp_mesh_resolve(cf, &rcfp[i]->relay) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static char *
ngx_http_derp(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_derp_loc_conf_t *dlcf = conf;

    if (dlcf->status) {
        return "is in the location of \"derp_status\", "
               "give each a location of its own";
    }

    return ngx_http_derp_location(cf, &dlcf->relay, ngx_http_derp_handler);
}


static char *
ngx_http_derp_status(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_derp_loc_conf_t *dlcf = conf;

    if (dlcf->relay) {
        return "is in the location of \"derp\", "
               "give each a location of its own";
    }

    return ngx_http_derp_location(cf, &dlcf->status,
                                  ngx_http_derp_status_handler);
}


static char *
ngx_http_derp_location(ngx_conf_t *cf, ngx_http_derp_relay_conf_t **rcf,
    ngx_http_handler_pt handler)
{
    ngx_str_t                 *value;
    ngx_http_core_loc_conf_t  *clcf;

    if (*rcf) {
        return "is duplicate";
    }

    value = cf->args->elts;

    *rcf = ngx_http_derp_relay(cf, &value[1]);
    if (*rcf == NULL) {
        return NGX_CONF_ERROR;
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = handler;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_derp_init_module(ngx_cycle_t *cycle)
{
    ngx_uint_t                    i;
    ngx_http_derp_main_conf_t    *dmcf;
    ngx_http_derp_relay_conf_t  **rcfp;

    dmcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_derp_module);

    if (ngx_test_config) {
        return NGX_OK;
    }

    ngx_derp_slots_configure();

    if (dmcf == NULL || dmcf->relays.nelts == 0) {
        return NGX_OK;
    }

    rcfp = dmcf->relays.elts;

    for (i = 0; i < dmcf->relays.nelts; i++) {
        ngx_http_derp_publish(&rcfp[i]->relay, cycle->log);
    }

    return NGX_OK;
}


/* What the workers of older configurations are to know of this one. */

static void
ngx_http_derp_publish(ngx_derp_relay_t *relay, ngx_log_t *log)
{
    u_char  *key;

    key = relay->region.zone->public_key;

    if (!ngx_derp_key_is_zero(key)
        && ngx_memcmp(key, relay->public_key, NGX_DERP_KEY_LEN) != 0)
    {
        ngx_log_error(NGX_LOG_NOTICE, log, 0,
                      "the key of derp_relay \"%V\" has changed: "
                      "who connects from now on is shown the new one",
                      &relay->name);
    }

    ngx_memcpy(key, relay->public_key, NGX_DERP_KEY_LEN);

    ngx_derp_notice_set(&relay->region, &relay->health);
    ngx_http_derp_mesh_publish(relay);
}


static ngx_int_t
ngx_http_derp_init_process(ngx_cycle_t *cycle)
{
    ngx_http_derp_main_conf_t  *dmcf;

    /* not in a cache manager or loader */

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    dmcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_derp_module);

    if (dmcf == NULL || dmcf->relays.nelts == 0) {
        return NGX_OK;
    }

    /* a relay is the first that its configuration holds */

    return ngx_derp_worker_init(cycle, &dmcf->relays);
}


static void
ngx_http_derp_exit_process(ngx_cycle_t *cycle)
{
    ngx_derp_worker_exit();
}
