
/*
 * DERP frames: the type, the limits, and the bytes of each.
 *
 * A frame is type (1) + length (4, big-endian) + body.  Nothing here touches
 * a connection, shared memory or the clock; every function may be called in
 * any process.
 */


#ifndef _NGX_DERP_FRAME_H_INCLUDED_
#define _NGX_DERP_FRAME_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


#define NGX_DERP_KEY_LEN            32
#define NGX_DERP_HEADER_LEN         5
#define NGX_DERP_PING_LEN           8
#define NGX_DERP_MAX_PACKET         65536

#define NGX_DERP_MAX_LOGIN          (256 * 1024)
#define NGX_DERP_MAX_PING           1000
#define NGX_DERP_MAX_SERVER_FRAME   (1024 * 1024)

/* a packet on its way: header, one key, packet; and with both keys */
#define NGX_DERP_PACKET_OFFSET      (NGX_DERP_HEADER_LEN + NGX_DERP_KEY_LEN)
#define NGX_DERP_FORWARD_OFFSET                                               \
    (NGX_DERP_HEADER_LEN + 2 * NGX_DERP_KEY_LEN)
#define NGX_DERP_MAX_FORWARD_FRAME                                            \
    (NGX_DERP_FORWARD_OFFSET + NGX_DERP_MAX_PACKET)

#define NGX_DERP_SERVER_KEY_FRAME   (NGX_DERP_HEADER_LEN + 8 + NGX_DERP_KEY_LEN)
#define NGX_DERP_PEER_GONE_FRAME    (NGX_DERP_HEADER_LEN + NGX_DERP_KEY_LEN + 1)
#define NGX_DERP_PEER_PRESENT_FRAME                                           \
    (NGX_DERP_HEADER_LEN + NGX_DERP_KEY_LEN + 16 + 2 + 1)
#define NGX_DERP_PONG_FRAME         (NGX_DERP_HEADER_LEN + NGX_DERP_PING_LEN)
#define NGX_DERP_RESTARTING_FRAME   (NGX_DERP_HEADER_LEN + 4 + 4)


/* derp.FrameType */

enum {
    NGX_DERP_SERVER_KEY = 0x01,
    NGX_DERP_CLIENT_INFO = 0x02,
    NGX_DERP_SERVER_INFO = 0x03,
    NGX_DERP_SEND_PACKET = 0x04,
    NGX_DERP_RECV_PACKET = 0x05,
    NGX_DERP_KEEP_ALIVE = 0x06,
    NGX_DERP_NOTE_PREFERRED = 0x07,
    NGX_DERP_PEER_GONE = 0x08,
    NGX_DERP_PEER_PRESENT = 0x09,
    NGX_DERP_FORWARD_PACKET = 0x0a,
    NGX_DERP_WATCH_CONNS = 0x10,
    NGX_DERP_CLOSE_PEER = 0x11,
    NGX_DERP_PING = 0x12,
    NGX_DERP_PONG = 0x13,
    NGX_DERP_HEALTH = 0x14,
    NGX_DERP_RESTARTING = 0x15
};


/* derp.PeerGoneReasonType */

enum {
    NGX_DERP_GONE_DISCONNECTED = 0,
    NGX_DERP_GONE_NOT_HERE = 1
};


/* derp.PeerPresentFlags */

#define NGX_DERP_PRESENT_REGULAR    0x01
#define NGX_DERP_PRESENT_MESH       0x02
#define NGX_DERP_PRESENT_PROBER     0x04
#define NGX_DERP_PRESENT_NOT_IDEAL  0x08


/* what a server expects of the length of a frame that a client sends */

typedef struct {
    const char      *name;
    uint32_t         min;           /* bytes of the body, inclusive */
    uint32_t         max;
    unsigned         mesh:1;        /* needs the mesh key */
} ngx_derp_frame_rule_t;


static ngx_inline uint32_t
ngx_derp_get_uint32(u_char *p)
{
    return (uint32_t) p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
}


/* The length of a frame with its header, of which NGX_DERP_HEADER_LEN are. */
#define ngx_derp_frame_len(p)                                                 \
    (NGX_DERP_HEADER_LEN + (size_t) ngx_derp_get_uint32((p) + 1))


static ngx_inline u_char *
ngx_derp_put_uint32(u_char *p, uint32_t v)
{
    *p++ = (u_char) (v >> 24);
    *p++ = (u_char) (v >> 16);
    *p++ = (u_char) (v >> 8);
    *p++ = (u_char) v;

    return p;
}


/* Writes the NGX_DERP_HEADER_LEN bytes of a header, returns what is behind. */

static ngx_inline u_char *
ngx_derp_put_header(u_char *p, ngx_uint_t type, uint32_t len)
{
    *p++ = (u_char) type;

    return ngx_derp_put_uint32(p, len);
}


/*
 * The rule for a frame of this type, or NULL: the frame is to be read past,
 * as derpserver's handleUnknownFrame() does.
 */
const ngx_derp_frame_rule_t *ngx_derp_frame_rule(ngx_uint_t type);

/*
 * Whether a packet looks like one of disco's, as disco.LooksLikeDiscoWrapper()
 * has it: the magic, a key and a nonce.
 */
ngx_uint_t ngx_derp_is_disco(u_char *packet, size_t len);

/*
 * The frames that a server sends.  Each writes the whole frame to p, which
 * must hold NGX_DERP_..._FRAME bytes, and returns what is behind it.
 */
u_char *ngx_derp_put_server_key(u_char *p, u_char *key);
u_char *ngx_derp_put_peer_gone(u_char *p, u_char *key, ngx_uint_t reason);
u_char *ngx_derp_put_peer_present(u_char *p, u_char *key, u_char *addr,
    in_port_t port, ngx_uint_t flags);
u_char *ngx_derp_put_pong(u_char *p, u_char *data);
u_char *ngx_derp_put_restarting(u_char *p, ngx_msec_t reconnect_in,
    ngx_msec_t try_for);

/*
 * Reads the magic and the key of a ServerKey's body, NGX_DECLINED if it is
 * none.  The key stays where it is, *key points to it.
 */
ngx_int_t ngx_derp_get_server_key(u_char *body, size_t len, u_char **key);


#endif /* _NGX_DERP_FRAME_H_INCLUDED_ */
