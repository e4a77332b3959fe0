
/*
 * Boxes: those of a stranger do not open, one of ours does, and not if it is
 * changed.  The first byte says what is done with the rest.
 */


#include "stub.h"
#include "ngx_derp_key.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t       len;
    u_char      *box, public[NGX_DERP_KEY_LEN], secret[NGX_DERP_KEY_LEN],
                 shared[NGX_DERP_KEY_LEN] = { 1, 2, 3 };
    ngx_uint_t   bit;

    if (size < 3) {
        return 0;
    }

    bit = data[1] << 8 | data[2];
    len = size - 3;

    switch (data[0] % 3) {

    case 0:
        box = malloc(len);
        ngx_memcpy(box, data + 3, len);

        stub_assert(ngx_derp_box_open(box, len, shared) == NGX_DECLINED);
        break;

    case 1:
        box = malloc(len + NGX_DERP_BOX_OVERHEAD);

        stub_assert(ngx_derp_box_seal(box, (u_char *) data + 3, len, shared)
                    == box + len + NGX_DERP_BOX_OVERHEAD);

        bit %= (len + NGX_DERP_BOX_OVERHEAD) * 8 + 1;

        if (bit) {
            bit--;
            box[bit / 8] ^= 1 << bit % 8;
            stub_assert(ngx_derp_box_open(box, len + NGX_DERP_BOX_OVERHEAD,
                                          shared)
                        == NGX_DECLINED);
            break;
        }

        stub_assert(ngx_derp_box_open(box, len + NGX_DERP_BOX_OVERHEAD, shared)
                    == NGX_OK);
        stub_assert(ngx_memcmp(box + NGX_DERP_BOX_OVERHEAD, data + 3, len)
                    == 0);
        break;

    default:

        /* any 32 bytes may be sent as a key */

        box = NULL;

        if (len >= NGX_DERP_KEY_LEN) {
            ngx_memset(secret, 0x42, sizeof(secret));
            ngx_memcpy(public, data + 3, sizeof(public));
            (void) ngx_derp_box_shared(shared, public, secret);
        }
    }

    free(box);

    return 0;
}
