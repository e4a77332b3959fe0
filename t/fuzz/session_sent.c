
/*
 * What the worker has sent, parsed as it goes out: it is as a client, or a
 * relay, of DERP's will have it, and packets are whole.
 */


#include "session.h"


ngx_uint_t  fuzz_raw;


void
fuzz_fill(u_char *p, size_t size, ngx_uint_t disco)
{
    size_t  i;

    for (i = 0; i < size; i++) {
        p[i] = (u_char) (i * 7 + size);
    }

    if (disco && size >= 6) {
        ngx_memcpy(p, "TS\xf0\x9f\x92\xac", 6);
    }
}


void
fuzz_check_packet(u_char *p, size_t size)
{
    size_t  i;

    if (fuzz_raw) {
        return;
    }

    for (i = size >= 6 ? 6 : 0; i < size; i++) {
        stub_assert(p[i] == (u_char) (i * 7 + size));
    }
}


static void
fuzz_check_client_frame(fuzz_conn_t *fc, ngx_uint_t type, u_char *body,
    size_t len)
{
    switch (type) {

    case NGX_DERP_SERVER_INFO:
        stub_assert(!fc->replied);
        stub_assert(ngx_derp_box_open(body, len, fuzz_shared[fc->key])
                    == NGX_OK);
        stub_assert(len == NGX_DERP_BOX_OVERHEAD + 13
                    && ngx_memcmp(body + NGX_DERP_BOX_OVERHEAD,
                                  "{\"version\":2}", 13) == 0);
        fc->replied = 1;
        return;

    case NGX_DERP_RECV_PACKET:
        stub_assert(len >= NGX_DERP_KEY_LEN
                    && len <= NGX_DERP_KEY_LEN + NGX_DERP_MAX_PACKET);
        fuzz_check_packet(body + NGX_DERP_KEY_LEN, len - NGX_DERP_KEY_LEN);
        break;

    case NGX_DERP_KEEP_ALIVE:
        stub_assert(len == 0);
        break;

    case NGX_DERP_PEER_GONE:
        stub_assert(len == NGX_DERP_KEY_LEN + 1 && body[NGX_DERP_KEY_LEN] <= 1);
        break;

    case NGX_DERP_PEER_PRESENT:
        stub_assert(len == NGX_DERP_KEY_LEN + 19);
        break;

    case NGX_DERP_PONG:
        stub_assert(len == NGX_DERP_PING_LEN);
        break;

    case NGX_DERP_HEALTH:
        stub_assert(len <= NGX_DERP_NOTICE_MAX);
        break;

    case NGX_DERP_RESTARTING:
        stub_assert(len == 8);
        break;

    default:
        stub_assert(!"a frame that no server sends");
    }

    stub_assert(fc->replied);
}


static void
fuzz_check_link_frame(fuzz_conn_t *fc, ngx_uint_t type, u_char *body,
    size_t len)
{
    switch (type) {

    case NGX_DERP_CLIENT_INFO:
        stub_assert(len > NGX_DERP_KEY_LEN + NGX_DERP_BOX_OVERHEAD);
        fc->replied = 1;
        break;

    case NGX_DERP_WATCH_CONNS:
        stub_assert(len == 0);
        break;

    case NGX_DERP_FORWARD_PACKET:
        stub_assert(len >= 2 * NGX_DERP_KEY_LEN
                    && len <= 2 * NGX_DERP_KEY_LEN + NGX_DERP_MAX_PACKET);
        fuzz_check_packet(body + 2 * NGX_DERP_KEY_LEN,
                          len - 2 * NGX_DERP_KEY_LEN);
        break;

    case NGX_DERP_PING:
    case NGX_DERP_PONG:
        stub_assert(len == NGX_DERP_PING_LEN);
        break;

    default:
        stub_assert(!"a frame that no link sends");
    }

    stub_assert(fc->replied || fuzz_raw);
}


void
fuzz_sent(fuzz_conn_t *fc, u_char *p, size_t size)
{
    size_t  n, len;

    while (size) {

        len = NGX_DERP_HEADER_LEN;

        if (fc->out_len >= NGX_DERP_HEADER_LEN) {
            len += ngx_derp_get_uint32(fc->out + 1);
        }

        stub_assert(len <= sizeof(fc->out));

        n = ngx_min(size, len - fc->out_len);

        ngx_memcpy(fc->out + fc->out_len, p, n);
        fc->out_len += n;
        p += n;
        size -= n;

        if (fc->out_len < NGX_DERP_HEADER_LEN
            || fc->out_len < NGX_DERP_HEADER_LEN
                             + ngx_derp_get_uint32(fc->out + 1))
        {
            continue;
        }

        len = fc->out_len - NGX_DERP_HEADER_LEN;

        if (fc->link) {
            fuzz_check_link_frame(fc, fc->out[0],
                                  fc->out + NGX_DERP_HEADER_LEN, len);

        } else {
            fuzz_check_client_frame(fc, fc->out[0],
                                    fc->out + NGX_DERP_HEADER_LEN, len);
        }

        fc->out_len = 0;
    }
}
