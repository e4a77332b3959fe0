
/*
 * All that is JSON in DERP: the one place where jansson reads.  What it writes
 * for people is in http/ngx_http_derp_status.c.
 *
 * Every function may be called in any process.
 */


#ifndef _NGX_DERP_JSON_H_INCLUDED_
#define _NGX_DERP_JSON_H_INCLUDED_


#include "ngx_derp_key.h"


/* by which relays with this module know each other */
#define NGX_DERP_APP_NAME  "ngx_derp"


/* derp.ClientInfo; what this server has no use for is only checked */

typedef struct {
    u_char           mesh_key[NGX_DERP_KEY_LEN];    /* zero: none given */
    unsigned         can_ack_pings:1;
    unsigned         prober:1;
    unsigned         relay:1;       /* its AppName is NGX_DERP_APP_NAME */
} ngx_derp_client_info_t;


/*
 * Reads the JSON of a ClientInfo as Go's encoding/json does: names without
 * regard to case, the last one counts, unknown ones are ignored, null changes
 * nothing.  NGX_DECLINED if it does not parse or a value is not of its type;
 * *error is then a constant string that says why.  The mesh key is a secret:
 * the caller wipes *info.
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

/*
 * Reads derper's configuration, {"PrivateKey":"privkey:<64 hex digits>"}, or
 * that string alone, as key.NodePrivate.MarshalText() writes it.  NGX_ERROR
 * with *error, a constant string, if it is neither.  data and key are secrets,
 * and the caller's to wipe.
 */
ngx_int_t ngx_derp_key_file_parse(u_char *key, u_char *data, size_t len,
    char **error);

/*
 * Writes the same.  Returns what is behind, NGX_DERP_KEY_FILE_LEN bytes.
 */
#define NGX_DERP_KEY_FILE_LEN                                                 \
    (sizeof("{\n\t\"PrivateKey\": \"privkey:\"\n}\n") - 1 + NGX_DERP_HEX_LEN)
u_char *ngx_derp_key_file_json(u_char *p, u_char *key);


#endif /* _NGX_DERP_JSON_H_INCLUDED_ */
