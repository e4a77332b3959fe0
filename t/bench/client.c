
/*
 * A DERP client.
 */


#define _GNU_SOURCE
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>


#define IN_SIZE      (256 * 1024)
#define OUT_SIZE     (2 * MAX_FRAME + 64 * 1024)
#define RECORD_SIZE  16384

/* so often is a socket read before the others have their turn */
#define READS        8

#define NONCE_LEN    crypto_box_NONCEBYTES
#define MAC_LEN      crypto_box_MACBYTES


static int client_dial(client_t *c);
static int client_bind(client_t *c);
static int client_upgrade(client_t *c);
static int client_login(client_t *c);
static int client_send_info(client_t *c, u_char *server_key);
static int client_read_frame(client_t *c, int type, u_char *buf, size_t size);
static int client_read_all(client_t *c, u_char *p, size_t len);
static int client_write_all(client_t *c, u_char *p, size_t len);
static ssize_t client_recv(client_t *c, u_char *p, size_t len);
static ssize_t client_send(client_t *c, u_char *p, size_t len);
static int client_read(client_t *c);
static void client_frames(client_t *c);
static int client_block(client_t *c, int blocked);


client_t *
client_connect(server_t *server, frame_handler_pt handler, void *data)
{
    client_t            *c;
    struct epoll_event   ev;

    c = calloc(1, sizeof(client_t));
    if (c == NULL) {
        return NULL;
    }

    c->server = server;
    c->handler = handler;
    c->data = data;

    if (client_dial(c) == -1) {
        perror("cannot connect");
        goto failed;
    }

    if (client_upgrade(c) == -1 || client_login(c) == -1) {
        ERR_print_errors_fp(stderr);
        goto failed;
    }

    if (handler) {
        c->in = malloc(IN_SIZE);
        c->out = malloc(OUT_SIZE);

        if (c->in == NULL || c->out == NULL) {
            goto failed;
        }
    }

    ev.events = EPOLLIN;
    ev.data.ptr = c;

    if (fcntl(c->fd, F_SETFL, O_NONBLOCK) == -1
        || epoll_ctl(server->epoll, EPOLL_CTL_ADD, c->fd, &ev) == -1)
    {
        perror("cannot wait for a client");
        goto failed;
    }

    return c;

failed:

    client_close(c);

    return NULL;
}


void
client_close(client_t *c)
{
    SSL_free(c->ssl);

    if (c->fd != -1) {
        close(c->fd);
    }

    free(c->in);
    free(c->out);
    free(c);
}


static int
client_dial(client_t *c)
{
    int                 one;
    struct sockaddr_in  sin;

    memset(&sin, 0, sizeof(sin));
    sin.sin_family = AF_INET;
    sin.sin_port = htons(c->server->port);

    c->fd = -1;
    errno = EINVAL;

    if (inet_pton(AF_INET, c->server->host, &sin.sin_addr) != 1) {
        return -1;
    }

    c->fd = socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, 0);
    if (c->fd == -1) {
        return -1;
    }

    one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));

    if (c->server->addresses && client_bind(c) == -1) {
        return -1;
    }

    return connect(c->fd, (struct sockaddr *) &sin, sizeof(sin));
}


/* The port is chosen at connect(), and so one that others have, too. */

static int
client_bind(client_t *c)
{
    int                 one;
    struct sockaddr_in  sin;

    one = 1;

    if (setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one,
                   sizeof(one))
        == -1)
    {
        return -1;
    }

    memset(&sin, 0, sizeof(sin));
    sin.sin_family = AF_INET;
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1
                                + c->server->turn++ % c->server->addresses);

    return bind(c->fd, (struct sockaddr *) &sin, sizeof(sin));
}


static int
client_upgrade(client_t *c)
{
    int      n;
    char     buf[8192];
    size_t   len;

    if (c->server->ssl) {
        c->ssl = SSL_new(c->server->ssl);

        if (c->ssl == NULL
            || SSL_set_fd(c->ssl, c->fd) != 1
            || SSL_set_tlsext_host_name(c->ssl, c->server->name) != 1
            || SSL_connect(c->ssl) != 1)
        {
            fprintf(stderr, "TLS handshake failed\n");
            return -1;
        }
    }

    n = snprintf(buf, sizeof(buf),
                 "GET %s HTTP/1.1\r\nHost: %s\r\n"
                 "Connection: Upgrade\r\nUpgrade: DERP\r\n%s\r\n",
                 c->server->uri, c->server->name,
                 c->server->fast_start ? "Derp-Fast-Start: 1\r\n" : "");

    if (n >= (int) sizeof(buf)
        || client_write_all(c, (u_char *) buf, n) == -1)
    {
        return -1;
    }

    if (c->server->fast_start) {
        return 0;
    }

    /* byte by byte, as what follows is not HTTP any more */

    for (len = 0; len < sizeof(buf) - 1; /* void */) {

        if (client_read_all(c, (u_char *) buf + len, 1) == -1) {
            return -1;
        }

        buf[++len] = '\0';

        if (len >= 4 && memcmp(buf + len - 4, "\r\n\r\n", 4) == 0) {
            break;
        }
    }

    if (strncmp(buf, "HTTP/1.1 101 ", 13) != 0) {
        fprintf(stderr, "unexpected response: %s", buf);
        return -1;
    }

    return 0;
}


static int
client_login(client_t *c)
{
    int     n;
    u_char  buf[1024], text[1024], *key;

    static const u_char  magic[] = "DERP\xf0\x9f\x94\x91";

    crypto_box_keypair(c->public_key, c->private_key);

    n = client_read_frame(c, SERVER_KEY, buf, sizeof(buf));

    if (n < 8 + KEY_LEN || memcmp(buf, magic, 8) != 0) {
        fprintf(stderr, "no ServerKey\n");
        return -1;
    }

    key = buf + 8;

    if (client_send_info(c, key) == -1) {
        return -1;
    }

    memcpy(text, key, KEY_LEN);
    key = text;

    n = client_read_frame(c, SERVER_INFO, buf, sizeof(buf));

    if (n < (int) (NONCE_LEN + MAC_LEN)
        || crypto_box_open_easy(text + KEY_LEN, buf + NONCE_LEN, n - NONCE_LEN,
                                buf, key, c->private_key)
           != 0)
    {
        fprintf(stderr, "no ServerInfo\n");
        return -1;
    }

    return 0;
}


static int
client_send_info(client_t *c, u_char *server_key)
{
    int     len;
    char    json[256];
    u_char  frame[512], *p;

    len = snprintf(json, sizeof(json),
                   "{\"version\":2,\"CanAckPings\":true%s%s%s}",
                   c->server->mesh_key ? ",\"meshKey\":\"" : "",
                   c->server->mesh_key ? c->server->mesh_key : "",
                   c->server->mesh_key ? "\"" : "");

    if (len >= (int) sizeof(json)) {
        return -1;
    }

    put_header(frame, CLIENT_INFO, KEY_LEN + NONCE_LEN + MAC_LEN + len);

    p = frame + HEADER_LEN;
    memcpy(p, c->public_key, KEY_LEN);
    p += KEY_LEN;

    randombytes_buf(p, NONCE_LEN);

    if (crypto_box_easy(p + NONCE_LEN, (u_char *) json, len, p, server_key,
                        c->private_key)
        != 0)
    {
        return -1;
    }

    p += NONCE_LEN + MAC_LEN + len;

    return client_write_all(c, frame, p - frame);
}


/* The length of its body; -1: it is not of that type, or too long. */

static int
client_read_frame(client_t *c, int type, u_char *buf, size_t size)
{
    size_t  len;
    u_char  header[HEADER_LEN];

    if (client_read_all(c, header, HEADER_LEN) == -1) {
        return -1;
    }

    len = get_length(header);

    if (header[0] != type || len > size
        || client_read_all(c, buf, len) == -1)
    {
        return -1;
    }

    return len;
}


static int
client_read_all(client_t *c, u_char *p, size_t len)
{
    ssize_t  n;

    while (len) {
        n = c->ssl ? SSL_read(c->ssl, p, len) : read(c->fd, p, len);

        if (n <= 0) {
            fprintf(stderr, "closed before the login's end\n");
            return -1;
        }

        p += n;
        len -= n;
    }

    return 0;
}


static int
client_write_all(client_t *c, u_char *p, size_t len)
{
    ssize_t  n;

    while (len) {
        n = c->ssl ? SSL_write(c->ssl, p, len) : write(c->fd, p, len);

        if (n <= 0) {
            fprintf(stderr, "closed before the login's end\n");
            return -1;
        }

        p += n;
        len -= n;
    }

    return 0;
}


u_char *
client_put(client_t *c, int type, size_t len)
{
    u_char  *p;

    if (c->out_len + HEADER_LEN + len > OUT_SIZE) {
        return NULL;
    }

    p = c->out + c->out_len;
    put_header(p, type, len);
    c->out_len += HEADER_LEN + len;

    return p + HEADER_LEN;
}


int
client_flush(client_t *c)
{
    ssize_t  n;

    while (c->out_pos < c->out_len) {
        n = client_send(c, c->out + c->out_pos, c->out_len - c->out_pos);

        if (n <= 0) {
            return n == 0 ? client_block(c, 1) : -1;
        }

        c->out_pos += n;
    }

    c->out_pos = 0;
    c->out_len = 0;

    return client_block(c, 0);
}


/* 0: not now. */

static ssize_t
client_send(client_t *c, u_char *p, size_t len)
{
    ssize_t  n;

    if (c->ssl == NULL) {
        n = write(c->fd, p, len);
        return n == -1 && errno == EAGAIN ? 0 : n;
    }

    n = SSL_write(c->ssl, p, len < RECORD_SIZE ? len : RECORD_SIZE);

    if (n > 0) {
        return n;
    }

    return SSL_get_error(c->ssl, n) == SSL_ERROR_WANT_WRITE ? 0 : -1;
}


/* 0: nothing there now. */

static ssize_t
client_recv(client_t *c, u_char *p, size_t len)
{
    ssize_t  n;

    if (c->ssl == NULL) {
        n = read(c->fd, p, len);

        if (n > 0) {
            return n;
        }

        return n == -1 && errno == EAGAIN ? 0 : -1;
    }

    n = SSL_read(c->ssl, p, len);

    if (n > 0) {
        return n;
    }

    return SSL_get_error(c->ssl, n) == SSL_ERROR_WANT_READ ? 0 : -1;
}


int
client_event(client_t *c, uint32_t events)
{
    if (events & ~EPOLLOUT && client_read(c) == -1) {
        return -1;
    }

    if (events & EPOLLOUT) {
        return client_flush(c);
    }

    return 0;
}


static int
client_read(client_t *c)
{
    int      i;
    ssize_t  n;

    static u_char  scratch[16384];

    /* what OpenSSL has read ahead no event will tell of */

    for (i = 0; i < READS || (c->ssl && SSL_has_pending(c->ssl)); i++) {

        if (c->handler == NULL) {
            n = client_recv(c, scratch, sizeof(scratch));

        } else {
            n = client_recv(c, c->in + c->in_len, IN_SIZE - c->in_len);
        }

        if (n <= 0) {
            return n;
        }

        if (c->handler) {
            c->in_len += n;
            client_frames(c);
        }
    }

    return 0;
}


static void
client_frames(client_t *c)
{
    size_t   len;
    u_char  *p, *last;

    p = c->in;
    last = c->in + c->in_len;

    while (last - p >= HEADER_LEN) {
        len = get_length(p);

        if ((size_t) (last - p) < HEADER_LEN + len) {
            break;
        }

        c->handler(c, p[0], p + HEADER_LEN, len);

        p += HEADER_LEN + len;
    }

    c->in_len = last - p;
    memmove(c->in, p, c->in_len);
}


static int
client_block(client_t *c, int blocked)
{
    struct epoll_event  ev;

    if (c->blocked == blocked) {
        return 0;
    }

    c->blocked = blocked;

    ev.events = EPOLLIN | (blocked ? EPOLLOUT : 0);
    ev.data.ptr = c;

    return epoll_ctl(c->server->epoll, EPOLL_CTL_MOD, c->fd, &ev);
}
