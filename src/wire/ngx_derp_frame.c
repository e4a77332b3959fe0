
/*
 * DERP frames.
 */


#include "ngx_derp_frame.h"


/* the magic, a key and a nonce */
#define NGX_DERP_DISCO_MIN  (6 + 32 + 24)


static const u_char  ngx_derp_magic[8] = {
    'D', 'E', 'R', 'P', 0xf0, 0x9f, 0x94, 0x91
};

static const u_char  ngx_derp_disco_magic[6] = {
    'T', 'S', 0xf0, 0x9f, 0x92, 0xac
};


/* derpserver's sclient.run() and the handlers that it calls */

static const ngx_derp_frame_rule_t  ngx_derp_frame_rules[] = {

    [NGX_DERP_SEND_PACKET] = {
        "SendPacket",
        NGX_DERP_KEY_LEN, NGX_DERP_KEY_LEN + NGX_DERP_MAX_PACKET, 0
    },

    [NGX_DERP_NOTE_PREFERRED] = { "NotePreferred", 1, 1, 0 },

    [NGX_DERP_FORWARD_PACKET] = {
        "ForwardPacket",
        2 * NGX_DERP_KEY_LEN, 2 * NGX_DERP_KEY_LEN + NGX_DERP_MAX_PACKET, 1
    },

    [NGX_DERP_WATCH_CONNS] = { "WatchConns", 0, 0, 1 },

    [NGX_DERP_CLOSE_PEER] = {
        "ClosePeer", NGX_DERP_KEY_LEN, NGX_DERP_KEY_LEN, 1
    },

    [NGX_DERP_PING] = { "Ping", NGX_DERP_PING_LEN, NGX_DERP_MAX_PING, 0 }
};


const ngx_derp_frame_rule_t *
ngx_derp_frame_rule(ngx_uint_t type)
{
    const ngx_derp_frame_rule_t  *rule;

    if (type >= sizeof(ngx_derp_frame_rules) / sizeof(ngx_derp_frame_rules[0]))
    {
        return NULL;
    }

    rule = &ngx_derp_frame_rules[type];

    return rule->name ? rule : NULL;
}


ngx_uint_t
ngx_derp_is_disco(u_char *packet, size_t len)
{
    return len >= NGX_DERP_DISCO_MIN
           && ngx_memcmp(packet, ngx_derp_disco_magic,
                         sizeof(ngx_derp_disco_magic)) == 0;
}


u_char *
ngx_derp_put_server_key(u_char *p, u_char *key)
{
    p = ngx_derp_put_header(p, NGX_DERP_SERVER_KEY,
                            sizeof(ngx_derp_magic) + NGX_DERP_KEY_LEN);
    p = ngx_cpymem(p, ngx_derp_magic, sizeof(ngx_derp_magic));

    return ngx_cpymem(p, key, NGX_DERP_KEY_LEN);
}


u_char *
ngx_derp_put_peer_gone(u_char *p, u_char *key, ngx_uint_t reason)
{
    p = ngx_derp_put_header(p, NGX_DERP_PEER_GONE, NGX_DERP_KEY_LEN + 1);
    p = ngx_cpymem(p, key, NGX_DERP_KEY_LEN);
    *p++ = (u_char) reason;

    return p;
}


u_char *
ngx_derp_put_peer_present(u_char *p, u_char *key, u_char *addr, in_port_t port,
    ngx_uint_t flags)
{
    p = ngx_derp_put_header(p, NGX_DERP_PEER_PRESENT,
                            NGX_DERP_KEY_LEN + 16 + 2 + 1);
    p = ngx_cpymem(p, key, NGX_DERP_KEY_LEN);
    p = ngx_cpymem(p, addr, 16);
    *p++ = (u_char) (port >> 8);
    *p++ = (u_char) port;
    *p++ = (u_char) flags;

    return p;
}


u_char *
ngx_derp_put_pong(u_char *p, u_char *data)
{
    p = ngx_derp_put_header(p, NGX_DERP_PONG, NGX_DERP_PING_LEN);

    return ngx_cpymem(p, data, NGX_DERP_PING_LEN);
}


u_char *
ngx_derp_put_restarting(u_char *p, ngx_msec_t reconnect_in, ngx_msec_t try_for)
{
    p = ngx_derp_put_header(p, NGX_DERP_RESTARTING, 4 + 4);
    p = ngx_derp_put_uint32(p, (uint32_t) reconnect_in);

    return ngx_derp_put_uint32(p, (uint32_t) try_for);
}


ngx_int_t
ngx_derp_get_server_key(u_char *body, size_t len, u_char **key)
{
    /* later versions may append to it: derp.Client.recvServerKey() */

    if (len < sizeof(ngx_derp_magic) + NGX_DERP_KEY_LEN
        || ngx_memcmp(body, ngx_derp_magic, sizeof(ngx_derp_magic)) != 0)
    {
        return NGX_DECLINED;
    }

    *key = body + sizeof(ngx_derp_magic);

    return NGX_OK;
}
