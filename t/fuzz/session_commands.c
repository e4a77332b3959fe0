
/*
 * The commands.  Each takes what it needs from the input, beginning with the
 * connection.  What each byte means must stay: the corpus is made of them.
 */


#include "session.h"
#include "ngx_derp_client.h"
#include "ngx_derp_client_info.h"
#include "ngx_derp_mesh.h"
#include "ngx_derp_notice.h"


static void fuzz_connect(fuzz_input_t *in);
static void fuzz_bytes(fuzz_input_t *in);
static void fuzz_login(fuzz_input_t *in);
static void fuzz_frame(fuzz_input_t *in);
static void fuzz_chunk(fuzz_input_t *in);
static void fuzz_room(fuzz_input_t *in);
static void fuzz_end(fuzz_input_t *in);
static void fuzz_dialed(fuzz_input_t *in);
static void fuzz_refuse(fuzz_input_t *in);
static void fuzz_memory_bound(fuzz_input_t *in);
static void fuzz_notice(fuzz_input_t *in);
static void fuzz_quit(fuzz_input_t *in);
static void fuzz_clock(fuzz_input_t *in);
static void fuzz_long_clock(fuzz_input_t *in);
static void fuzz_nothing(fuzz_input_t *in);


static void  (*fuzz_commands[])(fuzz_input_t *in) = {
    fuzz_connect,
    fuzz_bytes,
    fuzz_login,
    fuzz_frame,
    fuzz_frame,
    fuzz_chunk,
    fuzz_room,
    fuzz_end,
    fuzz_dialed,
    fuzz_other_changes,
    fuzz_other_sends,
    fuzz_other_takes,
    fuzz_refuse,
    fuzz_memory_bound,
    fuzz_notice,
    fuzz_quit,
    fuzz_clock,
    fuzz_long_clock,
    fuzz_nothing,
    fuzz_other_spoils
};

#define FUZZ_COMMANDS  (sizeof(fuzz_commands) / sizeof(fuzz_commands[0]))


void
fuzz_command(fuzz_input_t *in, ngx_uint_t command)
{
    fuzz_commands[command % 32 % FUZZ_COMMANDS](in);
}


static fuzz_conn_t *
fuzz_which(fuzz_input_t *in)
{
    return &fuzz_conns[fuzz_byte(in) % FUZZ_CONNS];
}


/* a client connects, and may have sent something with the upgrade */

static void
fuzz_connect(fuzz_input_t *in)
{
    size_t              len;
    u_char              early[256];
    fuzz_conn_t        *fc;
    ngx_derp_client_t   client;

    fc = &fuzz_conns[fuzz_byte(in) % FUZZ_CLIENTS];

    if (fc->c) {
        return;
    }

    ngx_memzero(&client, sizeof(client));
    client.addr[15] = fc - fuzz_conns;
    client.port = 1000;

    len = fuzz_byte(in);
    client.flags = len & 1 ? NGX_DERP_PRESENT_NOT_IDEAL : 0;
    len = ngx_min(len / 2, (size_t) (in->last - in->p));

    if (len) {
        fuzz_raw = 1;
        ngx_memcpy(early, in->p, len);
        in->p += len;
    }

    fuzz_open(fc);

    if (ngx_derp_session_create(&fuzz_relay, fc->c, &client, early, len)
        != NGX_OK)
    {
        fuzz_close(fc->c);
    }
}


/* bytes as they are */

static void
fuzz_bytes(fuzz_input_t *in)
{
    size_t        len;
    u_char        bytes[256];
    fuzz_conn_t  *fc;

    fc = fuzz_which(in);
    len = fuzz_len(in);

    ngx_memcpy(bytes, in->p, len);
    in->p += len;

    fuzz_raw = 1;
    fuzz_arrive(fc, bytes, len);
}


/* a ClientInfo that opens */

static void
fuzz_login(fuzz_input_t *in)
{
    u_char       *p, *json, frame[1024], text[300];
    size_t        len;
    ngx_uint_t    how;
    fuzz_conn_t  *fc;

    fc = &fuzz_conns[fuzz_byte(in) % FUZZ_CLIENTS];
    how = fuzz_byte(in);

    json = text;

    switch (how >> 2 & 7) {

    case 0:
        p = ngx_derp_client_info_json(json, fuzz_mesh_key);
        break;

    case 1:
        p = ngx_derp_client_info_json(json, fuzz_public[FUZZ_KEY_NOBODY]);
        break;

    case 2:
        p = ngx_cpymem(json, "{\"IsProber\":true}", 17);
        break;

    case 3:
        len = fuzz_len(in);
        p = ngx_cpymem(json, in->p, len);
        in->p += len;
        break;

    default:
        p = ngx_cpymem(json, "{}", 2);
    }

    len = p - json;

    if (!fc->login) {
        fc->login = 1;
        fc->key = how % FUZZ_CLIENTS;
    }

    p = ngx_derp_put_header(frame, NGX_DERP_CLIENT_INFO,
                            NGX_DERP_KEY_LEN + NGX_DERP_BOX_OVERHEAD + len);
    p = ngx_cpymem(p, fuzz_public[fc->key], NGX_DERP_KEY_LEN);
    p = ngx_derp_box_seal(p, json, len, fuzz_shared[fc->key]);

    fuzz_arrive(fc, frame, p - frame);
}


/* a frame of any type, with the keys that there are and a size */

static void
fuzz_frame(fuzz_input_t *in)
{
    u_char         *p, *keys;
    size_t          size;
    ngx_uint_t      type, key, disco;
    fuzz_conn_t    *fc;
    static u_char   frame[NGX_DERP_FORWARD_OFFSET + 2 * NGX_DERP_MAX_PACKET];

    fc = fuzz_which(in);
    type = fuzz_byte(in) % 24;
    key = fuzz_byte(in);
    size = fuzz_size(in);

    disco = key & 0x80;
    key %= FUZZ_KEYS;

    p = frame + NGX_DERP_HEADER_LEN;
    keys = fuzz_public[key];

    switch (type) {

    case NGX_DERP_SERVER_KEY:
        p = ngx_derp_put_server_key(frame, keys);
        size = 0;
        break;

    case NGX_DERP_FORWARD_PACKET:
        p = ngx_cpymem(p, fuzz_public[FUZZ_KEY_REMOTE], NGX_DERP_KEY_LEN);

        /* fall through */

    case NGX_DERP_SEND_PACKET:
        p = ngx_cpymem(p, keys, NGX_DERP_KEY_LEN);
        break;

    case NGX_DERP_PEER_PRESENT:
    case NGX_DERP_PEER_GONE:
    case NGX_DERP_CLOSE_PEER:
        p = ngx_cpymem(p, keys, NGX_DERP_KEY_LEN);
        size = type == NGX_DERP_CLOSE_PEER ? 0 : size % 40;
        break;

    case NGX_DERP_NOTE_PREFERRED:
        size = 1 + (size & 0x100 ? 1 : 0);
        *p = (u_char) key;
        break;

    case NGX_DERP_WATCH_CONNS:
        size = 0;
        break;

    default:
        break;
    }

    fuzz_fill(p, size, disco);

    if (type == NGX_DERP_PEER_GONE && size) {
        *p = disco ? 1 : 0;
    }

    p += size;

    ngx_derp_put_header(frame, type, p - frame - NGX_DERP_HEADER_LEN);

    fuzz_arrive(fc, frame, p - frame);
}


/* what of it arrives at once, and what the socket takes */

static void
fuzz_chunk(fuzz_input_t *in)
{
    fuzz_conn_t  *fc;

    fc = fuzz_which(in);
    fc->chunk = fuzz_short(in) + 1;
}


static void
fuzz_room(fuzz_input_t *in)
{
    fuzz_conn_t  *fc;

    fc = fuzz_which(in);
    fc->room = fuzz_short(in);

    if (fc->room == 0xffff) {
        fc->room = (size_t) -1 / 2;
    }
}


static void
fuzz_end(fuzz_input_t *in)
{
    fuzz_conn_t  *fc;

    fc = fuzz_which(in);

    if (fuzz_byte(in) & 1) {
        fc->broken = 1;
    }

    fc->eof = 1;
    fc->event = 1;
}


static void
fuzz_dialed(fuzz_input_t *in)
{
    size_t  len;
    u_char  early[256];

    if (fuzz_the_link.connection == NULL) {
        return;
    }

    len = fuzz_byte(in);

    if (len == 255) {
        ngx_derp_mesh_failed(&fuzz_the_link, "fuzz");
        return;
    }

    len = ngx_min(len, (size_t) (in->last - in->p));

    if (len) {
        fuzz_raw = 1;
        ngx_memcpy(early, in->p, len);
        in->p += len;
    }

    ngx_derp_mesh_connected(&fuzz_the_link, early, len);
}


static void
fuzz_refuse(fuzz_input_t *in)
{
    stub_refuse = fuzz_byte(in);
}


static void
fuzz_memory_bound(fuzz_input_t *in)
{
    fuzz_relay.buffers = fuzz_short(in) * 16;
}


static void
fuzz_notice(fuzz_input_t *in)
{
    u_char     text[NGX_DERP_NOTICE_MAX];
    ngx_str_t  notice;

    ngx_memset(text, 'n', sizeof(text));
    notice.data = text;
    notice.len = fuzz_short(in) % (NGX_DERP_NOTICE_MAX + 1);

    ngx_derp_notice_set(&fuzz_relay.region, &notice);
}


/* the worker is told to quit, by a reload or because nginx stops */

static void
fuzz_quit(fuzz_input_t *in)
{
    ngx_uint_t  how;

    how = fuzz_byte(in);

    /* nobody changes his mind, and it is not to be the end of most inputs */

    if (how < 200) {
        return;
    }

    ngx_exiting = 1;

    if (how & 1) {
        ngx_derp_slots_quit();
    }
}


static void
fuzz_clock(fuzz_input_t *in)
{
    ngx_current_msec += fuzz_byte(in) * 50;
    ngx_cached_time->sec = ngx_current_msec / 1000;

    stub_timers();
}


/* an hour, but for what happens every quarter of a second in it */

static void
fuzz_long_clock(fuzz_input_t *in)
{
    ngx_current_msec += fuzz_byte(in) * 1000;
    ngx_cached_time->sec = ngx_current_msec / 1000;

    stub_timers();
}


static void
fuzz_nothing(fuzz_input_t *in)
{
}
