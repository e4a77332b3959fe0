
/*
 * The file with the server's private key, as derper writes it.
 *
 * Every function may be called in any process.
 */


#ifndef _NGX_DERP_KEY_FILE_H_INCLUDED_
#define _NGX_DERP_KEY_FILE_H_INCLUDED_


#include "ngx_derp_key.h"


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


#endif /* _NGX_DERP_KEY_FILE_H_INCLUDED_ */
