
/*
 * ClientInfo, what a client says of itself when it logs in.
 *
 * Every function may be called in any process.
 */


#ifndef _NGX_DERP_CLIENT_INFO_H_INCLUDED_
#define _NGX_DERP_CLIENT_INFO_H_INCLUDED_


#include "ngx_derp_key.h"


/* by which relays with this module know each other */
#define NGX_DERP_APP_NAME  "ngx_derp"


/* derp.ClientInfo; what this server has no use for is only checked */

typedef struct {
    u_char           mesh_key[NGX_DERP_KEY_LEN];    /* zero: none given */
    unsigned         prober:1;
    unsigned         relay:1;       /* its AppName is NGX_DERP_APP_NAME */
} ngx_derp_client_info_t;


/*
 * Reads the JSON of a ClientInfo, of any length, as Server.recvClientKey() does
 * by json.Unmarshal(), on a machine of 64 bits: the last of two members with a
 * name counts, but each must be of its type; null changes nothing, save that it
 * is no mesh key.  NGX_DECLINED if Go refuses it; *error is then a constant
 * string that says why.  The mesh key is a secret: the caller wipes *info.
 */
ngx_int_t ngx_derp_client_info_parse(ngx_derp_client_info_t *info,
    u_char *data, size_t len, char **error);

/*
 * Writes the JSON of a ClientInfo with a mesh key and NGX_DERP_APP_NAME, as a
 * relay shows it to another.  Returns what is behind, at most
 * NGX_DERP_CLIENT_INFO_LEN bytes; a secret, to be wiped.
 */
#define NGX_DERP_CLIENT_INFO_LEN                                              \
    (sizeof("{\"version\":2,\"meshKey\":\"\","                                \
            "\"AppName\":\"" NGX_DERP_APP_NAME "\"}") - 1 + NGX_DERP_HEX_LEN)
u_char *ngx_derp_client_info_json(u_char *p, u_char *mesh_key);


#endif /* _NGX_DERP_CLIENT_INFO_H_INCLUDED_ */
