
/*
 * The text of a key, as a mesh key is written.
 */


#include "stub.h"
#include "ngx_derp_key.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t      i;
    u_char     *copy, key[NGX_DERP_KEY_LEN], hex[NGX_DERP_HEX_LEN];
    ngx_uint_t  valid;

    valid = (size == NGX_DERP_HEX_LEN);

    for (i = 0; i < size; i++) {
        valid &= (isxdigit(data[i]) != 0);
    }

    copy = malloc(size);
    ngx_memcpy(copy, data, size);

    if (ngx_derp_key_parse(key, copy, size) == NGX_OK) {
        stub_assert(valid);
        stub_assert(ngx_derp_key_hex(hex, key) == hex + sizeof(hex));

        for (i = 0; i < size; i++) {
            stub_assert(hex[i] == ngx_tolower(copy[i]));
        }

    } else {
        stub_assert(!valid);
    }

    free(copy);

    return 0;
}
