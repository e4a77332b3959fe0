
/*
 * The JSON of a ClientInfo, and what it costs to read.
 */


#include "stub.h"
#include "ngx_derp_client_info.h"


/*
 * Reads of memory for a byte of JSON.  It is looked at as it is scanned, again
 * where it belongs to a member that is known, and there is some bookkeeping.
 */
#define LOADS_MAX  24


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char                    *error;
    u_char                  *copy, json[NGX_DERP_CLIENT_INFO_LEN];
    uint64_t                 loads;
    ngx_int_t                rc;
    ngx_derp_client_info_t   info, again;

    copy = malloc(size);
    ngx_memcpy(copy, data, size);

    error = NULL;
    loads = stub_loads;

    rc = ngx_derp_client_info_parse(&info, copy, size, &error);

    loads = stub_loads - loads;
    stub_assert(loads <= LOADS_MAX * (size + 16));

    free(copy);

    stub_assert(rc == NGX_OK || (rc == NGX_DECLINED && error && error[0]));

    if (rc == NGX_OK) {

        /* what it says of the mesh key is what this server would say of it */

        stub_assert(ngx_derp_client_info_json(json, info.mesh_key)
                    == json + sizeof(json));
        stub_assert(ngx_derp_client_info_parse(&again, json, sizeof(json),
                                               &error)
                    == NGX_OK);
        stub_assert(ngx_memcmp(again.mesh_key, info.mesh_key, NGX_DERP_KEY_LEN)
                    == 0);
        stub_assert(again.relay);
    }

    return 0;
}
