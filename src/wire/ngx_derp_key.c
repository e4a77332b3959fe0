
/*
 * Keys and boxes by libsodium.
 */


#include "ngx_derp_key.h"

#include <sodium.h>


#if (crypto_box_PUBLICKEYBYTES != NGX_DERP_KEY_LEN                            \
     || crypto_box_SECRETKEYBYTES != NGX_DERP_KEY_LEN                         \
     || crypto_box_BEFORENMBYTES != NGX_DERP_KEY_LEN                          \
     || crypto_box_NONCEBYTES != NGX_DERP_NONCE_LEN                           \
     || crypto_box_NONCEBYTES + crypto_box_MACBYTES != NGX_DERP_BOX_OVERHEAD  \
     || crypto_shorthash_KEYBYTES != NGX_DERP_HASH_KEY_LEN)
#error "libsodium's sizes are not those of DERP"
#endif


ngx_int_t
ngx_derp_key_init(void)
{
    return sodium_init() == -1 ? NGX_ERROR : NGX_OK;
}


void
ngx_derp_key_generate(u_char *private_key)
{
    randombytes_buf(private_key, NGX_DERP_KEY_LEN);

    /* clamped as key.NewNode() does */

    private_key[0] &= 248;
    private_key[31] = (private_key[31] & 127) | 64;
}


ngx_int_t
ngx_derp_key_public(u_char *public_key, u_char *private_key)
{
    return crypto_scalarmult_base(public_key, private_key) == 0 ? NGX_OK
                                                                : NGX_ERROR;
}


ngx_int_t
ngx_derp_key_parse(u_char *key, u_char *hex, size_t len)
{
    size_t  n;

    if (len != NGX_DERP_HEX_LEN
        || sodium_hex2bin(key, NGX_DERP_KEY_LEN, (char *) hex, len, NULL, &n,
                          NULL)
           != 0
        || n != NGX_DERP_KEY_LEN)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


u_char *
ngx_derp_key_hex(u_char *p, u_char *key)
{
    char  buf[NGX_DERP_HEX_LEN + 1];

    sodium_bin2hex(buf, sizeof(buf), key, NGX_DERP_KEY_LEN);
    p = ngx_cpymem(p, buf, NGX_DERP_HEX_LEN);
    sodium_memzero(buf, sizeof(buf));

    return p;
}


ngx_uint_t
ngx_derp_key_equal(u_char *a, u_char *b)
{
    return sodium_memcmp(a, b, NGX_DERP_KEY_LEN) == 0;
}


ngx_uint_t
ngx_derp_key_is_zero(u_char *key)
{
    return sodium_is_zero(key, NGX_DERP_KEY_LEN);
}


void
ngx_derp_key_wipe(void *p, size_t len)
{
    sodium_memzero(p, len);
}


void
ngx_derp_random(void *p, size_t len)
{
    randombytes_buf(p, len);
}


uint64_t
ngx_derp_key_hash(u_char *key, u_char *secret)
{
    uint64_t  hash;

    (void) crypto_shorthash((u_char *) &hash, key, NGX_DERP_KEY_LEN, secret);

    return hash;
}


ngx_int_t
ngx_derp_box_shared(u_char *shared, u_char *public_key, u_char *private_key)
{
    return crypto_box_beforenm(shared, public_key, private_key) == 0
           ? NGX_OK : NGX_ERROR;
}


ngx_int_t
ngx_derp_box_open(u_char *box, size_t len, u_char *shared)
{
    u_char  *mac;

    if (len < NGX_DERP_BOX_OVERHEAD) {
        return NGX_DECLINED;
    }

    mac = box + NGX_DERP_NONCE_LEN;

    if (crypto_box_open_detached_afternm(box + NGX_DERP_BOX_OVERHEAD,
                                         box + NGX_DERP_BOX_OVERHEAD, mac,
                                         len - NGX_DERP_BOX_OVERHEAD, box,
                                         shared)
        != 0)
    {
        return NGX_DECLINED;
    }

    return NGX_OK;
}


u_char *
ngx_derp_box_seal(u_char *p, u_char *message, size_t len, u_char *shared)
{
    randombytes_buf(p, NGX_DERP_NONCE_LEN);

    /* fails for messages too long for any memory, never for these */

    (void) crypto_box_easy_afternm(p + NGX_DERP_NONCE_LEN, message, len, p,
                                   shared);

    return p + NGX_DERP_BOX_OVERHEAD + len;
}
