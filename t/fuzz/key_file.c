
/*
 * derper's configuration, from which the private key is read.
 */


#include "stub.h"
#include "ngx_derp_key_file.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char       *error;
    u_char     *copy, key[NGX_DERP_KEY_LEN], again[NGX_DERP_KEY_LEN],
                json[NGX_DERP_KEY_FILE_LEN];
    ngx_int_t   rc;

    copy = malloc(size);
    ngx_memcpy(copy, data, size);

    error = NULL;
    rc = ngx_derp_key_file_parse(key, copy, size, &error);

    free(copy);

    stub_assert(rc == NGX_OK || (rc == NGX_ERROR && error && error[0]));

    if (rc == NGX_OK) {
        stub_assert(!ngx_derp_key_is_zero(key));

        stub_assert(ngx_derp_key_file_json(json, key) == json + sizeof(json));
        stub_assert(ngx_derp_key_file_parse(again, json, sizeof(json), &error)
                    == NGX_OK);
        stub_assert(ngx_memcmp(again, key, NGX_DERP_KEY_LEN) == 0);
    }

    return 0;
}
