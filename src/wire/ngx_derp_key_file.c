
/*
 * The file with the private key.
 */


#include "ngx_derp_key_file.h"
#include "ngx_derp_json.h"


#define NGX_DERP_PRIVKEY_PREFIX  "privkey:"
#define NGX_DERP_PRIVKEY_LEN                                                  \
    (sizeof(NGX_DERP_PRIVKEY_PREFIX) - 1 + NGX_DERP_HEX_LEN)


static ngx_int_t ngx_derp_key_file_private_key(ngx_str_t *value, void *data);
static ngx_int_t ngx_derp_key_file_privkey(u_char *key, u_char *s, size_t len);


static const ngx_derp_json_field_t  ngx_derp_key_file_fields[] = {
    { ngx_string("privatekey"), ngx_derp_key_file_private_key,
      "\"PrivateKey\" is not \"privkey:\" and 64 hex digits" },
    { ngx_null_string, NULL, NULL }
};


ngx_int_t
ngx_derp_key_file_parse(u_char *key, u_char *data, size_t len, char **error)
{
    while (len && isspace(data[len - 1])) {
        len--;
    }

    ngx_memzero(key, NGX_DERP_KEY_LEN);

    if (ngx_derp_key_file_privkey(key, data, len) != NGX_OK
        && ngx_derp_json_read(ngx_derp_key_file_fields, data, len, key, error)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ngx_derp_key_is_zero(key)) {
        *error = "there is no \"PrivateKey\", or it is zero";
        return NGX_ERROR;
    }

    return NGX_OK;
}


u_char *
ngx_derp_key_file_json(u_char *p, u_char *key)
{
    p = ngx_cpymem(p, "{\n\t\"PrivateKey\": \"privkey:",
                   sizeof("{\n\t\"PrivateKey\": \"privkey:") - 1);
    p = ngx_derp_key_hex(p, key);

    return ngx_cpymem(p, "\"\n}\n", 4);
}


static ngx_int_t
ngx_derp_key_file_private_key(ngx_str_t *value, void *data)
{
    u_char  *key = data;

    size_t     len;
    u_char     text[NGX_DERP_PRIVKEY_LEN];
    ngx_int_t  rc;

    len = ngx_derp_json_text(value, text, sizeof(text));
    rc = ngx_derp_key_file_privkey(key, text, len);

    ngx_derp_key_wipe(text, sizeof(text));

    return rc;
}


static ngx_int_t
ngx_derp_key_file_privkey(u_char *key, u_char *s, size_t len)
{
    size_t  n;

    n = sizeof(NGX_DERP_PRIVKEY_PREFIX) - 1;

    if (len != NGX_DERP_PRIVKEY_LEN
        || ngx_strncmp(s, NGX_DERP_PRIVKEY_PREFIX, n) != 0)
    {
        return NGX_ERROR;
    }

    return ngx_derp_key_parse(key, s + n, len - n);
}
