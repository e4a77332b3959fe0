
/*
 * The HTTP side of the relay: configuration and the upgrade.
 */


#ifndef _NGX_HTTP_DERP_MODULE_H_INCLUDED_
#define _NGX_HTTP_DERP_MODULE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_derp_relay.h"


/* directives within derp_relay {} are those of modules of this type: "DERP" */
#define NGX_DERP_MODULE      0x50524544
#define NGX_DERP_RELAY_CONF  0x02000000


/* a derp_relay {} block, and what the relay is made of it */

typedef struct {
    ngx_derp_relay_t      relay;

    /* where it was named first, for what can be said only at the end */
    u_char               *file_name;
    ngx_uint_t            line;

    ssize_t               size;
    ngx_str_t             key_file;
    ngx_str_t             mesh_key_file;

    unsigned              defined:1;
} ngx_http_derp_relay_conf_t;


typedef struct {
    ngx_array_t           relays;       /* of ngx_http_derp_relay_conf_t * */
} ngx_http_derp_main_conf_t;


typedef struct {
    ngx_http_derp_relay_conf_t  *relay;     /* of derp, or NULL */
    ngx_http_derp_relay_conf_t  *status;    /* of derp_status, or NULL */
} ngx_http_derp_loc_conf_t;


extern ngx_module_t  ngx_http_derp_module;
extern ngx_module_t  ngx_derp_relay_module;


/*
 * The relay of this name, made if it has not been named before.  In the
 * master, while the configuration is read.  NULL with no memory.
 */
ngx_http_derp_relay_conf_t *ngx_http_derp_relay(ngx_conf_t *cf,
    ngx_str_t *name);

/* The handler of derp_relay {}. */
char *ngx_http_derp_relay_block(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

/*
 * What is known of a relay once all is read: what was not set, and whether it
 * is defined at all.  NGX_CONF_ERROR with a line in the log.
 */
char *ngx_http_derp_relay_init(ngx_conf_t *cf,
    ngx_http_derp_relay_conf_t *rcf);

/* The handlers of mesh_with and mesh_ssl_... in the block. */
char *ngx_http_derp_mesh_with(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_derp_mesh_ssl(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

/*
 * What is known of the links once the block is read, and once all is.  In the
 * master.  NGX_ERROR with a line in the log.
 */
ngx_int_t ngx_http_derp_mesh_init(ngx_conf_t *cf,
    ngx_http_derp_relay_conf_t *rcf);
ngx_int_t ngx_http_derp_mesh_resolve(ngx_conf_t *cf, ngx_derp_relay_t *relay);

/* Tells workers of older configurations which links this one has. */
void ngx_http_derp_mesh_publish(ngx_derp_relay_t *relay);

/* The content handler of a location with derp. */
ngx_int_t ngx_http_derp_handler(ngx_http_request_t *r);

/*
 * Adds a header to the response; the value is copied.  NGX_ERROR with no
 * memory.  In a worker.
 */
ngx_int_t ngx_http_derp_add_header(ngx_http_request_t *r, char *name,
    u_char *value, size_t len);

/* What a handler returns to another method than those: 405 with Allow. */
ngx_int_t ngx_http_derp_not_allowed(ngx_http_request_t *r, char *allow);


#endif /* _NGX_HTTP_DERP_MODULE_H_INCLUDED_ */
