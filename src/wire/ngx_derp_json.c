
/*
 * ClientInfo and the key file by jansson.
 */


#include "ngx_derp_json.h"

#include <jansson.h>
#include <malloc.h>


#define NGX_DERP_PRIVKEY_PREFIX  "privkey:"


typedef ngx_int_t (*ngx_derp_json_handler_pt)(json_t *value, void *data);


typedef struct {
    const char                *name;
    ngx_derp_json_handler_pt   handler;
    char                      *error;
} ngx_derp_json_field_t;


static ngx_int_t ngx_derp_json_read(ngx_derp_json_field_t *fields, u_char *p,
    size_t len, void *data, char **error);
static void ngx_derp_json_free(void *p);
static ngx_int_t ngx_derp_json_fields(ngx_derp_json_field_t *fields,
    json_t *root, void *data, char **error);
static ngx_int_t ngx_derp_json_version(json_t *value, void *data);
static ngx_int_t ngx_derp_json_mesh_key(json_t *value, void *data);
static ngx_int_t ngx_derp_json_can_ack_pings(json_t *value, void *data);
static ngx_int_t ngx_derp_json_prober(json_t *value, void *data);
static ngx_int_t ngx_derp_json_app_name(json_t *value, void *data);
static ngx_int_t ngx_derp_json_private_key(json_t *value, void *data);
static ngx_int_t ngx_derp_json_privkey(u_char *key, const char *s,
    size_t len);


static ngx_derp_json_field_t  ngx_derp_client_info_fields[] = {
    { "version", ngx_derp_json_version, "version is not a number" },
    { "meshKey", ngx_derp_json_mesh_key, "mesh key is not 64 hex digits" },
    { "CanAckPings", ngx_derp_json_can_ack_pings,
      "CanAckPings is not a boolean" },
    { "IsProber", ngx_derp_json_prober, "IsProber is not a boolean" },
    { "AppName", ngx_derp_json_app_name, "AppName is not a string" },
    { NULL, NULL, NULL }
};


static ngx_derp_json_field_t  ngx_derp_key_file_fields[] = {
    { "PrivateKey", ngx_derp_json_private_key,
      "\"PrivateKey\" is not \"privkey:\" and 64 hex digits" },
    { NULL, NULL, NULL }
};


ngx_int_t
ngx_derp_client_info_parse(ngx_derp_client_info_t *info, u_char *data,
    size_t len, char **error)
{
    ngx_memzero(info, sizeof(ngx_derp_client_info_t));

    return ngx_derp_json_read(ngx_derp_client_info_fields, data, len, info,
                              error);
}


u_char *
ngx_derp_client_info_json(u_char *p, u_char *mesh_key)
{
    p = ngx_cpymem(p, "{\"version\":2,\"meshKey\":\"",
                   sizeof("{\"version\":2,\"meshKey\":\"") - 1);
    p = ngx_derp_key_hex(p, mesh_key);

    return ngx_cpymem(p, "\",\"AppName\":\"" NGX_DERP_APP_NAME "\"}",
                      sizeof("\",\"AppName\":\"" NGX_DERP_APP_NAME "\"}")
                      - 1);
}


ngx_int_t
ngx_derp_key_file_parse(u_char *key, u_char *data, size_t len, char **error)
{
    while (len && isspace(data[len - 1])) {
        len--;
    }

    ngx_memzero(key, NGX_DERP_KEY_LEN);

    if (ngx_derp_json_privkey(key, (char *) data, len) != NGX_OK
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
ngx_derp_json_read(ngx_derp_json_field_t *fields, u_char *p, size_t len,
    void *data, char **error)
{
    json_t         *root;
    ngx_int_t       rc;
    json_free_t     free_fn;
    json_malloc_t   malloc_fn;

    /* what is read may hold a secret, and jansson leaves it in freed memory */

    json_get_alloc_funcs(&malloc_fn, &free_fn);
    json_set_alloc_funcs(malloc, ngx_derp_json_free);

    root = json_loadb((char *) p, len, JSON_DECODE_ANY|JSON_ALLOW_NUL, NULL);

    if (root) {
        rc = ngx_derp_json_fields(fields, root, data, error);
        json_decref(root);

    } else {
        *error = "not JSON";
        rc = NGX_DECLINED;
    }

    json_set_alloc_funcs(malloc_fn, free_fn);

    return rc;
}


static void
ngx_derp_json_free(void *p)
{
    if (p) {
        ngx_derp_key_wipe(p, malloc_usable_size(p));
        free(p);
    }
}


static ngx_int_t
ngx_derp_json_fields(ngx_derp_json_field_t *fields, json_t *root, void *data,
    char **error)
{
    json_t                 *value;
    const char             *name;
    ngx_derp_json_field_t  *field;

    if (!json_is_object(root) && !json_is_null(root)) {
        *error = "not a JSON object";
        return NGX_DECLINED;
    }

    json_object_foreach(root, name, value) {

        for (field = fields; field->name; field++) {

            if (ngx_strcasecmp((u_char *) name, (u_char *) field->name) != 0) {
                continue;
            }

            if (field->handler(value, data) != NGX_OK) {
                *error = field->error;
                return NGX_DECLINED;
            }
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_derp_json_version(json_t *value, void *data)
{
    return json_is_integer(value) || json_is_null(value) ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_derp_json_mesh_key(json_t *value, void *data)
{
    ngx_derp_client_info_t  *info = data;

    /* not even null will do: key.DERPMesh.UnmarshalJSON() */

    if (!json_is_string(value)) {
        return NGX_ERROR;
    }

    return ngx_derp_key_parse(info->mesh_key,
                              (u_char *) json_string_value(value),
                              json_string_length(value));
}


static ngx_int_t
ngx_derp_json_can_ack_pings(json_t *value, void *data)
{
    ngx_derp_client_info_t  *info = data;

    if (json_is_boolean(value)) {
        info->can_ack_pings = json_is_true(value);
        return NGX_OK;
    }

    return json_is_null(value) ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_derp_json_prober(json_t *value, void *data)
{
    ngx_derp_client_info_t  *info = data;

    if (json_is_boolean(value)) {
        info->prober = json_is_true(value);
        return NGX_OK;
    }

    return json_is_null(value) ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_derp_json_app_name(json_t *value, void *data)
{
    ngx_derp_client_info_t  *info = data;

    if (json_is_null(value)) {
        return NGX_OK;
    }

    if (!json_is_string(value)) {
        return NGX_ERROR;
    }

    info->relay = (ngx_strcmp(json_string_value(value), NGX_DERP_APP_NAME)
                   == 0);

    return NGX_OK;
}


static ngx_int_t
ngx_derp_json_private_key(json_t *value, void *data)
{
    u_char  *key = data;

    return ngx_derp_json_privkey(key, json_string_value(value),
                                 json_string_length(value));
}


static ngx_int_t
ngx_derp_json_privkey(u_char *key, const char *s, size_t len)
{
    size_t  n;

    n = sizeof(NGX_DERP_PRIVKEY_PREFIX) - 1;

    if (s == NULL
        || len < n
        || ngx_strncmp(s, NGX_DERP_PRIVKEY_PREFIX, n) != 0)
    {
        return NGX_ERROR;
    }

    return ngx_derp_key_parse(key, (u_char *) s + n, len - n);
}
