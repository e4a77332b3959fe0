
/*
 * floor: the least that relaying DERP packets on one core can cost.
 *
 *     floor port [certificate key [ciphersuites]]
 *
 * One process, one epoll, and nothing but the relaying: as much is read as
 * there is, each frame is copied into its receiver's buffer under a new header,
 * and each receiver is written to once a loop.  No limit, no drop, no timer, no
 * registry but a table of keys; clients that have left are not even freed.  A
 * yardstick, and no relay for anybody.
 */


#define _GNU_SOURCE
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frame.h"


#define BUCKETS      65536
#define IN_SIZE      (512 * 1024)
#define OUT_SIZE     65536
#define RECORD_SIZE  16384
#define READS        4

#define NONCE_LEN    crypto_box_NONCEBYTES
#define MAC_LEN      crypto_box_MACBYTES


typedef enum {
    AWAITS_REQUEST = 0,
    AWAITS_INFO,
    RELAYS
} state_e;


typedef struct peer_s  peer_t;

struct peer_s {
    int       fd;                   /* -1: it has left */
    int       blocked;
    int       touched;
    state_e   state;
    SSL      *ssl;
    u_char    key[KEY_LEN];

    u_char   *in;
    size_t    in_len;
    u_char   *out;
    size_t    out_pos;
    size_t    out_len;
    size_t    out_size;

    peer_t   *last;                 /* to whom it sent last */
    peer_t   *next;                 /* in the bucket */
    peer_t   *next_touched;
};


static int floor_listen(int port);
static SSL_CTX *floor_tls(char *certificate, char *key, char *ciphersuites);
static void floor_accept(int fd);
static void floor_read(peer_t *p);
static ssize_t floor_recv(peer_t *p);
static size_t floor_request(peer_t *p);
static void floor_frame(peer_t *p, int type, u_char *body, size_t len);
static void floor_packet(peer_t *p, u_char *body, size_t len);
static void floor_login(peer_t *p, u_char *body, size_t len);
static peer_t *floor_find(u_char *key);
static u_char *floor_put(peer_t *p, size_t len);
static void floor_flush(peer_t *p);
static void floor_flush_touched(void);
static void floor_block(peer_t *p, int blocked);
static void floor_close(peer_t *p);
static peer_t **floor_bucket(u_char *key);


static int       epoll;
static SSL_CTX  *tls;
static peer_t   *buckets[BUCKETS];
static peer_t   *touched;
static u_char    public_key[KEY_LEN];
static u_char    private_key[KEY_LEN];


int
main(int argc, char **argv)
{
    int                  i, n, fd;
    peer_t              *p;
    struct epoll_event   ev, events[512];

    if (argc != 2 && argc != 4 && argc != 5) {
        fprintf(stderr, "usage: floor port [certificate key [ciphersuites]]\n");
        return 2;
    }

    if (sodium_init() == -1) {
        return 2;
    }

    signal(SIGPIPE, SIG_IGN);
    crypto_box_keypair(public_key, private_key);

    if (argc > 2) {
        tls = floor_tls(argv[2], argv[3], argc > 4 ? argv[4] : NULL);
        if (tls == NULL) {
            fprintf(stderr, "floor: no such certificate, key or cipher\n");
            return 2;
        }
    }

    fd = floor_listen(atoi(argv[1]));
    epoll = epoll_create1(0);

    ev.events = EPOLLIN;
    ev.data.ptr = NULL;

    if (fd == -1 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev) == -1) {
        perror("floor: cannot listen");
        return 2;
    }

    for ( ;; ) {
        n = epoll_wait(epoll, events, 512, -1);

        for (i = 0; i < n; i++) {
            p = events[i].data.ptr;

            if (p == NULL) {
                floor_accept(fd);
                continue;
            }

            if (p->fd != -1 && events[i].events & ~EPOLLOUT) {
                floor_read(p);
            }

            if (p->fd != -1 && events[i].events & EPOLLOUT) {
                floor_flush(p);
            }
        }

        floor_flush_touched();
    }
}


static int
floor_listen(int port)
{
    int                 fd, one;
    struct sockaddr_in  sin;

    fd = socket(AF_INET, SOCK_STREAM|SOCK_NONBLOCK, 0);
    if (fd == -1) {
        return -1;
    }

    one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));

    memset(&sin, 0, sizeof(sin));
    sin.sin_family = AF_INET;
    sin.sin_port = htons(port);
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    if (bind(fd, (struct sockaddr *) &sin, sizeof(sin)) == -1
        || listen(fd, 1024) == -1)
    {
        return -1;
    }

    return fd;
}


static SSL_CTX *
floor_tls(char *certificate, char *key, char *ciphersuites)
{
    SSL_CTX  *ctx;

    ctx = SSL_CTX_new(TLS_server_method());

    if (ctx == NULL
        || SSL_CTX_use_certificate_chain_file(ctx, certificate) != 1
        || SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
    {
        return NULL;
    }

    if (ciphersuites && SSL_CTX_set_ciphersuites(ctx, ciphersuites) != 1) {
        return NULL;
    }

    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE
                          |SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);

    return ctx;
}


static void
floor_accept(int listening)
{
    int                  fd, one;
    peer_t              *p;
    struct epoll_event   ev;

    while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) != -1) {

        p = calloc(1, sizeof(peer_t));
        if (p == NULL) {
            exit(2);
        }

        p->fd = fd;
        p->in = malloc(IN_SIZE);

        one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));

        if (tls) {
            p->ssl = SSL_new(tls);
            SSL_set_fd(p->ssl, fd);
            SSL_set_accept_state(p->ssl);
        }

        ev.events = EPOLLIN;
        ev.data.ptr = p;

        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev) == -1) {
            exit(2);
        }
    }
}


static void
floor_read(peer_t *p)
{
    int      i;
    u_char  *pos, *last;
    size_t   len;
    ssize_t  n;

    for (i = 0; i < READS; i++) {

        n = floor_recv(p);

        if (n == 0) {
            return;
        }

        if (n == -1) {
            floor_close(p);
            return;
        }

        p->in_len += n;

        pos = p->in;
        last = p->in + p->in_len;

        if (p->state == AWAITS_REQUEST) {
            pos += floor_request(p);

            if (pos == p->in) {
                continue;
            }
        }

        while (last - pos >= HEADER_LEN) {
            len = get_length(pos);

            if (len > MAX_FRAME) {
                floor_close(p);
                return;
            }

            if ((size_t) (last - pos) < HEADER_LEN + len) {
                break;
            }

            floor_frame(p, pos[0], pos + HEADER_LEN, len);

            if (p->fd == -1) {
                return;
            }

            pos += HEADER_LEN + len;
        }

        p->in_len = last - pos;

        if (pos != p->in) {
            memmove(p->in, pos, p->in_len);
        }

        /* OpenSSL gives one record at a time, the kernel all there is */

        if (p->ssl == NULL) {
            return;
        }
    }
}


/* 0: nothing there now; -1: closed. */

static ssize_t
floor_recv(peer_t *p)
{
    ssize_t  n;

    if (p->ssl == NULL) {
        n = read(p->fd, p->in + p->in_len, IN_SIZE - p->in_len);

        if (n > 0) {
            return n;
        }

        return n == -1 && errno == EAGAIN ? 0 : -1;
    }

    n = SSL_read(p->ssl, p->in + p->in_len, IN_SIZE - p->in_len);

    if (n > 0) {
        return n;
    }

    switch (SSL_get_error(p->ssl, n)) {

    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return 0;

    default:
        return -1;
    }
}


/* The length of the request; 0: it is not there yet. */

static size_t
floor_request(peer_t *p)
{
    u_char  *end, *fast, *frame;

    static const char  response[] =
        "HTTP/1.1 101 Switching Protocols\r\n"
        "Upgrade: DERP\r\n"
        "Connection: Upgrade\r\n\r\n";

    end = memmem(p->in, p->in_len, "\r\n\r\n", 4);
    if (end == NULL) {
        return 0;
    }

    end += 4;
    fast = memmem(p->in, end - p->in, "Fast-Start: 1", 13);

    if (fast == NULL) {
        memcpy(floor_put(p, sizeof(response) - 1), response,
               sizeof(response) - 1);
    }

    frame = floor_put(p, HEADER_LEN + 8 + KEY_LEN);

    put_header(frame, SERVER_KEY, 8 + KEY_LEN);
    memcpy(frame + HEADER_LEN, "DERP\xf0\x9f\x94\x91", 8);
    memcpy(frame + HEADER_LEN + 8, public_key, KEY_LEN);

    p->state = AWAITS_INFO;

    return end - p->in;
}


static void
floor_frame(peer_t *p, int type, u_char *body, size_t len)
{
    if (type == SEND_PACKET && p->state == RELAYS && len >= KEY_LEN) {
        floor_packet(p, body, len);

    } else if (type == CLIENT_INFO && p->state == AWAITS_INFO) {
        floor_login(p, body, len);
    }
}


static void
floor_packet(peer_t *p, u_char *body, size_t len)
{
    u_char  *frame;
    peer_t  *to;

    to = p->last;

    if (to == NULL || to->fd == -1 || memcmp(to->key, body, KEY_LEN) != 0) {
        to = floor_find(body);
        p->last = to;

        if (to == NULL) {
            return;
        }
    }

    frame = floor_put(to, HEADER_LEN + len);

    put_header(frame, RECV_PACKET, len);
    memcpy(frame + HEADER_LEN, p->key, KEY_LEN);
    memcpy(frame + HEADER_LEN + KEY_LEN, body + KEY_LEN, len - KEY_LEN);
}


static void
floor_login(peer_t *p, u_char *body, size_t len)
{
    u_char   text[4096], *box, *frame;
    peer_t **bucket;

    static const u_char  info[] = "{\"version\":2}";

    box = body + KEY_LEN;

    if (len < KEY_LEN + NONCE_LEN + MAC_LEN
        || len > sizeof(text)
        || crypto_box_open_easy(text, box + NONCE_LEN,
                                len - KEY_LEN - NONCE_LEN, box, body,
                                private_key)
           != 0)
    {
        floor_close(p);
        return;
    }

    memcpy(p->key, body, KEY_LEN);

    bucket = floor_bucket(p->key);
    p->next = *bucket;
    *bucket = p;

    frame = floor_put(p, HEADER_LEN + NONCE_LEN + MAC_LEN + sizeof(info) - 1);

    put_header(frame, SERVER_INFO, NONCE_LEN + MAC_LEN + sizeof(info) - 1);
    frame += HEADER_LEN;
    randombytes_buf(frame, NONCE_LEN);

    if (crypto_box_easy(frame + NONCE_LEN, info, sizeof(info) - 1, frame,
                        p->key, private_key)
        != 0)
    {
        floor_close(p);
        return;
    }

    p->state = RELAYS;
}


static peer_t *
floor_find(u_char *key)
{
    peer_t  *p;

    for (p = *floor_bucket(key); p; p = p->next) {
        if (memcmp(p->key, key, KEY_LEN) == 0) {
            return p;
        }
    }

    return NULL;
}


static u_char *
floor_put(peer_t *p, size_t len)
{
    u_char  *dst;

    if (p->out_len + len > p->out_size && p->out_pos) {
        p->out_len -= p->out_pos;
        memmove(p->out, p->out + p->out_pos, p->out_len);
        p->out_pos = 0;
    }

    while (p->out_len + len > p->out_size) {
        p->out_size = p->out_size ? p->out_size * 2 : OUT_SIZE;
        p->out = realloc(p->out, p->out_size);

        if (p->out == NULL) {
            exit(2);
        }
    }

    if (!p->touched) {
        p->touched = 1;
        p->next_touched = touched;
        touched = p;
    }

    dst = p->out + p->out_len;
    p->out_len += len;

    return dst;
}


static void
floor_flush(peer_t *p)
{
    size_t   len;
    ssize_t  n;

    while (p->out_pos < p->out_len) {
        len = p->out_len - p->out_pos;

        if (p->ssl) {
            n = SSL_write(p->ssl, p->out + p->out_pos,
                          len < RECORD_SIZE ? len : RECORD_SIZE);

            if (n <= 0
                && SSL_get_error(p->ssl, n) == SSL_ERROR_WANT_WRITE)
            {
                floor_block(p, 1);
                return;
            }

        } else {
            n = write(p->fd, p->out + p->out_pos, len);

            if (n == -1 && errno == EAGAIN) {
                floor_block(p, 1);
                return;
            }
        }

        if (n <= 0) {
            floor_close(p);
            return;
        }

        p->out_pos += n;
    }

    p->out_pos = 0;
    p->out_len = 0;

    floor_block(p, 0);
}


static void
floor_flush_touched(void)
{
    peer_t  *p;

    while (touched) {
        p = touched;
        touched = p->next_touched;
        p->touched = 0;

        if (p->fd != -1) {
            floor_flush(p);
        }
    }
}


static void
floor_block(peer_t *p, int blocked)
{
    struct epoll_event  ev;

    if (p->blocked == blocked) {
        return;
    }

    p->blocked = blocked;

    ev.events = EPOLLIN | (blocked ? EPOLLOUT : 0);
    ev.data.ptr = p;

    (void) epoll_ctl(epoll, EPOLL_CTL_MOD, p->fd, &ev);
}


/* Others may still point to it. */

static void
floor_close(peer_t *p)
{
    peer_t  **prev;

    for (prev = floor_bucket(p->key); *prev; prev = &(*prev)->next) {
        if (*prev == p) {
            *prev = p->next;
            break;
        }
    }

    close(p->fd);

    p->fd = -1;
    p->out_pos = 0;
    p->out_len = 0;
}


static peer_t **
floor_bucket(u_char *key)
{
    uint32_t  n;

    memcpy(&n, key, 4);

    return &buckets[n % BUCKETS];
}
