
/*
 * Files with keys.
 */


#ifndef _NGX_HTTP_DERP_KEY_FILE_H_INCLUDED_
#define _NGX_HTTP_DERP_KEY_FILE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * Reads the server's private key from derper's configuration, or makes it,
 * with a mode of 0600, where there is none: derper's loadConfig(),
 * writeNewConfig().  When the configuration is only tested nothing is written.
 * In the master.  NGX_ERROR with a line in the log.
 */
ngx_int_t ngx_http_derp_read_key(ngx_conf_t *cf, ngx_str_t *file, u_char *key);

/*
 * Reads the mesh key: 64 hex digits, and white space around them, as derper's
 * -mesh-psk-file.  In the master.  NGX_ERROR with a line in the log.
 */
ngx_int_t ngx_http_derp_read_mesh_key(ngx_conf_t *cf, ngx_str_t *file,
    u_char *key);


#endif /* _NGX_HTTP_DERP_KEY_FILE_H_INCLUDED_ */
