
/*
 * Frames: what is said of a type and its length, and what is read of a body.
 */


#include "stub.h"
#include "ngx_derp_frame.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    u_char                       *key, *body;
    size_t                        len;
    ngx_uint_t                    type;
    const ngx_derp_frame_rule_t  *rule;

    if (size < 2) {
        return 0;
    }

    /* types beyond a byte's are no frame's, but no harm either */

    type = data[0] | (data[1] & 1) << 8;
    rule = ngx_derp_frame_rule(type);

    if (rule) {
        stub_assert(type <= NGX_DERP_PING && rule->name[0]
                    && rule->min <= rule->max);

        stub_assert(rule->max <= 2 * NGX_DERP_KEY_LEN + NGX_DERP_MAX_PACKET);
    }

    /* of just that size, so that a byte too far is seen */

    len = size - 2;
    body = malloc(len);
    ngx_memcpy(body, data + 2, len);

    if (ngx_derp_is_disco(body, len)) {
        stub_assert(len >= 62 && body[0] == 'T' && body[5] == 0xac);
    }

    if (ngx_derp_get_server_key(body, len, &key) == NGX_OK) {
        stub_assert(key == body + 8 && len >= 40
                    && ngx_memcmp(body, "DERP", 4) == 0);
    }

    if (len >= 4) {
        u_char  copy[4];

        ngx_derp_put_uint32(copy, ngx_derp_get_uint32(body));
        stub_assert(ngx_memcmp(copy, body, 4) == 0);
    }

    free(body);

    return 0;
}
