
/*
 * Keys and boxes: the one place for libsodium.
 *
 * Keys are 32 bytes of curve25519; a box is NaCl's crypto_box with the 24-byte
 * nonce in front of it (key.NodePrivate.SealTo(), OpenFrom()).  Every function
 * may be called in any process, after ngx_derp_key_init() in that process or
 * in one that it was forked from.
 */


#ifndef _NGX_DERP_KEY_H_INCLUDED_
#define _NGX_DERP_KEY_H_INCLUDED_


#include "ngx_derp_frame.h"


#define NGX_DERP_HEX_LEN       (2 * NGX_DERP_KEY_LEN)
#define NGX_DERP_NONCE_LEN     24
#define NGX_DERP_BOX_OVERHEAD  (NGX_DERP_NONCE_LEN + 16)
#define NGX_DERP_HASH_KEY_LEN  16


/* Once before all else; NGX_ERROR if there is no source of randomness. */
ngx_int_t ngx_derp_key_init(void);

void ngx_derp_key_generate(u_char *private_key);

/* NGX_ERROR for a private key that has no usable public one. */
ngx_int_t ngx_derp_key_public(u_char *public_key, u_char *private_key);

/* Reads 64 hex digits of either case; NGX_ERROR if they are not that. */
ngx_int_t ngx_derp_key_parse(u_char *key, u_char *hex, size_t len);

/* Writes 64 lower-case hex digits and no NUL, returns what is behind. */
u_char *ngx_derp_key_hex(u_char *p, u_char *key);

/* In constant time. */
ngx_uint_t ngx_derp_key_equal(u_char *a, u_char *b);
ngx_uint_t ngx_derp_key_is_zero(u_char *key);

/* For memory that held a secret: is not optimised away. */
void ngx_derp_key_wipe(void *p, size_t len);

void ngx_derp_random(void *p, size_t len);

/* SipHash-2-4 with a secret of NGX_DERP_HASH_KEY_LEN bytes. */
uint64_t ngx_derp_key_hash(u_char *key, u_char *secret);

/*
 * What two keys share, computed once for all boxes between them; to be wiped.
 * NGX_ERROR for a public key of small order.
 */
ngx_int_t ngx_derp_box_shared(u_char *shared, u_char *public_key,
    u_char *private_key);

/*
 * Opens a box of len bytes in place: the message is then at
 * box + NGX_DERP_BOX_OVERHEAD, and that much shorter.  NGX_DECLINED if it was
 * not made with these keys or is shorter than NGX_DERP_BOX_OVERHEAD.
 */
ngx_int_t ngx_derp_box_open(u_char *box, size_t len, u_char *shared);

/*
 * Writes the box of a message, len + NGX_DERP_BOX_OVERHEAD bytes, returns what
 * is behind.
 */
u_char *ngx_derp_box_seal(u_char *p, u_char *message, size_t len,
    u_char *shared);


#endif /* _NGX_DERP_KEY_H_INCLUDED_ */
