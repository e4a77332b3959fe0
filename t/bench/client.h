
/*
 * A DERP client: it connects and logs in at once, and then sends and receives
 * frames without blocking.
 */


#ifndef _CLIENT_H_INCLUDED_
#define _CLIENT_H_INCLUDED_


#include <openssl/ssl.h>

#include "frame.h"


typedef struct {
    const char     *host;           /* an IPv4 address */
    int             addresses;      /* to connect from, 127.0.0.2 and on;
                                       0: from whichever there is */
    int             turn;           /* of these addresses */
    int             port;
    const char     *uri;
    const char     *name;           /* for Host and SNI */
    const char     *mesh_key;       /* 64 hex digits, or NULL */
    SSL_CTX        *ssl;            /* NULL: plain */
    int             fast_start;
    int             epoll;
} server_t;


typedef struct client_s  client_t;

typedef void (*frame_handler_pt)(client_t *c, int type, u_char *body,
    size_t len);

struct client_s {
    int                fd;
    int                blocked;     /* waits until it may write again */
    SSL               *ssl;
    server_t          *server;
    u_char             public_key[KEY_LEN];
    u_char             private_key[KEY_LEN];

    frame_handler_pt   handler;     /* NULL: whatever comes is read past */
    void              *data;        /* the handler's */

    u_char            *in;
    size_t             in_len;
    u_char            *out;
    size_t             out_pos;
    size_t             out_len;
};


/*
 * A client that is logged in, and in the server's epoll.  Without a handler it
 * owns no buffers.  NULL, with a line on stderr.
 */
client_t *client_connect(server_t *server, frame_handler_pt handler,
    void *data);
void client_close(client_t *c);

/* Where to write the body of a frame to be sent; NULL: no room. */
u_char *client_put(client_t *c, int type, size_t len);

/* Sends what was put, or as much as the socket takes; -1: closed. */
int client_flush(client_t *c);

/* What epoll said; calls the handler with each whole frame.  -1: closed. */
int client_event(client_t *c, uint32_t events);


#endif /* _CLIENT_H_INCLUDED_ */
