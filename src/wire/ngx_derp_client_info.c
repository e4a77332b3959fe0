
/*
 * ClientInfo.
 */


#include "ngx_derp_client_info.h"
#include "ngx_derp_json.h"


static ngx_int_t ngx_derp_client_info_mesh_key(ngx_str_t *value, void *data);
static ngx_int_t ngx_derp_client_info_version(ngx_str_t *value, void *data);
static ngx_int_t ngx_derp_client_info_can_ack_pings(ngx_str_t *value,
    void *data);
static ngx_int_t ngx_derp_client_info_prober(ngx_str_t *value, void *data);
static ngx_int_t ngx_derp_client_info_app_name(ngx_str_t *value, void *data);


static const ngx_derp_json_field_t  ngx_derp_client_info_fields[] = {
    { ngx_string("meshkey"), ngx_derp_client_info_mesh_key,
      "mesh key is not 64 hex digits" },
    { ngx_string("version"), ngx_derp_client_info_version,
      "version is not a number" },
    { ngx_string("canackpings"), ngx_derp_client_info_can_ack_pings,
      "CanAckPings is not a boolean" },
    { ngx_string("isprober"), ngx_derp_client_info_prober,
      "IsProber is not a boolean" },
    { ngx_string("appname"), ngx_derp_client_info_app_name,
      "AppName is not a string" },
    { ngx_null_string, NULL, NULL }
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


/* DERPMesh.UnmarshalJSON(), which takes no null, either */

static ngx_int_t
ngx_derp_client_info_mesh_key(ngx_str_t *value, void *data)
{
    ngx_derp_client_info_t  *info = data;

    size_t     len;
    u_char     hex[NGX_DERP_HEX_LEN];
    ngx_int_t  rc;

    len = ngx_derp_json_text(value, hex, sizeof(hex));
    rc = ngx_derp_key_parse(info->mesh_key, hex, len);

    ngx_derp_key_wipe(hex, sizeof(hex));

    return rc;
}


/* strconv.ParseInt(): no fraction and no exponent, and at most 63 bits */

static ngx_int_t
ngx_derp_client_info_version(ngx_str_t *value, void *data)
{
    u_char      *p, *last;
    uint64_t     n, max;
    ngx_uint_t   digit;

    p = value->data;
    last = p + value->len;
    max = INT64_MAX;

    if (*p == 'n') {
        return NGX_OK;
    }

    if (*p == '-') {
        max++;
        p++;
    }

    for (n = 0; p < last; p++) {

        if (*p < '0' || *p > '9') {
            return NGX_ERROR;
        }

        digit = *p - '0';

        if (n > (max - digit) / 10) {
            return NGX_ERROR;
        }

        n = n * 10 + digit;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_derp_client_info_can_ack_pings(ngx_str_t *value, void *data)
{
    u_char  c;

    c = value->data[0];

    return c == 't' || c == 'f' || c == 'n' ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_derp_client_info_prober(ngx_str_t *value, void *data)
{
    ngx_derp_client_info_t  *info = data;

    u_char  c;

    c = value->data[0];

    if (c == 't' || c == 'f') {
        info->prober = (c == 't');
        return NGX_OK;
    }

    return c == 'n' ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_derp_client_info_app_name(ngx_str_t *value, void *data)
{
    ngx_derp_client_info_t  *info = data;

    size_t  len;
    u_char  name[sizeof(NGX_DERP_APP_NAME) - 1];

    if (value->data[0] == '"') {
        len = ngx_derp_json_text(value, name, sizeof(name));
        info->relay = (len == sizeof(name)
                       && ngx_memcmp(name, NGX_DERP_APP_NAME, len) == 0);
        return NGX_OK;
    }

    return value->data[0] == 'n' ? NGX_OK : NGX_ERROR;
}
