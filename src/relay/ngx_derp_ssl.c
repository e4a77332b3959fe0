
/*
 * TLS with few system calls.
 */


#include "ngx_derp_ssl.h"


/* what the BIO stands for; it is lent to one connection after the other */

typedef struct {
    BIO_METHOD        *method;
    BIO               *bio;
    BIO               *socket;      /* the connection's own, meanwhile */
    ngx_connection_t  *connection;
    u_char            *buffer;      /* of what is sealed */
    size_t             len;
    unsigned           drained:1;   /* the socket has nothing more */
    unsigned           eof:1;
} ngx_derp_ssl_t;


static void ngx_derp_ssl_lend(ngx_connection_t *c);
static void ngx_derp_ssl_take_back(ngx_connection_t *c, ngx_str_t *sealed);
static int ngx_derp_ssl_bio_read(BIO *bio, char *p, int len);
static int ngx_derp_ssl_bio_write(BIO *bio, const char *p, int len);
static long ngx_derp_ssl_bio_ctrl(BIO *bio, int cmd, long num, void *ptr);


static ngx_derp_ssl_t  ngx_derp_ssl;


ngx_int_t
ngx_derp_ssl_init(ngx_log_t *log)
{
    BIO_METHOD  *method;

    ngx_derp_ssl.buffer = ngx_alloc(NGX_DERP_SSL_SEALED, log);
    if (ngx_derp_ssl.buffer == NULL) {
        return NGX_ERROR;
    }

    method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "derp");

    if (method == NULL
        || !BIO_meth_set_read(method, ngx_derp_ssl_bio_read)
        || !BIO_meth_set_write(method, ngx_derp_ssl_bio_write)
        || !BIO_meth_set_ctrl(method, ngx_derp_ssl_bio_ctrl))
    {
        ngx_ssl_error(NGX_LOG_EMERG, log, 0, "BIO_meth_new() failed");
        return NGX_ERROR;
    }

    ngx_derp_ssl.method = method;
    ngx_derp_ssl.bio = BIO_new(method);

    if (ngx_derp_ssl.bio == NULL) {
        ngx_ssl_error(NGX_LOG_EMERG, log, 0, "BIO_new() failed");
        return NGX_ERROR;
    }

    BIO_set_init(ngx_derp_ssl.bio, 1);

    return NGX_OK;
}


void
ngx_derp_ssl_exit(void)
{
    (void) BIO_free(ngx_derp_ssl.bio);
    BIO_meth_free(ngx_derp_ssl.method);

    ngx_free(ngx_derp_ssl.buffer);
}


ngx_uint_t
ngx_derp_ssl_adopt(ngx_connection_t *c)
{
    BIO  *socket;
    SSL  *ssl;

    if (c->ssl == NULL) {
        return 0;
    }

    ssl = c->ssl->connection;
    socket = SSL_get_rbio(ssl);

    /* what a blocked connection is to be sent is kept elsewhere */

    (void) SSL_set_mode(ssl, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);

#ifdef BIO_get_ktls_send
    if (BIO_get_ktls_send(socket) || BIO_get_ktls_recv(socket)) {
        return 0;
    }
#endif

#ifdef TLSEXT_max_fragment_length_DISABLED

    /*
     * RFC 6066, max_fragment_length: more records than there is room for.
     * BoringSSL and AWS-LC never agree to smaller fragments, and therefore
     * have neither the function nor the macro.
     */

    if (SSL_SESSION_get_max_fragment_length(SSL_get_session(ssl))) {
        return 0;
    }

#endif

    return socket == SSL_get_wbio(ssl);
}


ssize_t
ngx_derp_ssl_seal(ngx_connection_t *c, u_char *p, size_t size,
    ngx_str_t *sealed)
{
    size_t      done;
    ssize_t     n;
    ngx_uint_t  i;

    done = 0;
    n = 0;

    ngx_derp_ssl_lend(c);

    for (i = 0; done < size && i < NGX_DERP_SSL_RECORDS; i++) {

        n = c->send(c, p + done, ngx_min(size - done, NGX_DERP_RECORD));

        if (n <= 0) {
            break;
        }

        done += n;
    }

    ngx_derp_ssl_take_back(c, sealed);

    if (n <= 0) {

        /* what was sealed is not to be followed by anything */

        c->ssl->no_send_shutdown = 1;
        return NGX_ERROR;
    }

    return (ssize_t) done;
}


ssize_t
ngx_derp_ssl_recv(ngx_connection_t *c, ngx_chain_t *in, ngx_str_t *sealed)
{
    ssize_t  n;

    ngx_derp_ssl_lend(c);

    n = c->recv_chain(c, in, 0);

    ngx_derp_ssl_take_back(c, sealed);

    return n;
}


static void
ngx_derp_ssl_lend(ngx_connection_t *c)
{
    BIO  *bio, *socket;
    SSL  *ssl;

    ssl = c->ssl->connection;
    bio = ngx_derp_ssl.bio;
    socket = SSL_get_rbio(ssl);

    ngx_derp_ssl.connection = c;
    ngx_derp_ssl.socket = socket;
    ngx_derp_ssl.len = 0;
    ngx_derp_ssl.drained = 0;
    ngx_derp_ssl.eof = 0;

    /* each place of a BIO is a reference to it: one is kept of the socket's */

    (void) BIO_up_ref(socket);
    (void) BIO_up_ref(bio);
    (void) BIO_up_ref(bio);

    SSL_set0_rbio(ssl, bio);
    SSL_set0_wbio(ssl, bio);
}


static void
ngx_derp_ssl_take_back(ngx_connection_t *c, ngx_str_t *sealed)
{
    BIO  *socket;
    SSL  *ssl;

    ssl = c->ssl->connection;
    socket = ngx_derp_ssl.socket;

    (void) BIO_up_ref(socket);

    SSL_set0_rbio(ssl, socket);
    SSL_set0_wbio(ssl, socket);

    sealed->data = ngx_derp_ssl.buffer;
    sealed->len = ngx_derp_ssl.len;
}


/*
 * What comes after a read that was not filled is another event, but not the
 * connection's end, if that has been told already.
 */

static int
ngx_derp_ssl_bio_read(BIO *bio, char *p, int len)
{
    ssize_t            n;
    ngx_connection_t  *c;

    c = ngx_derp_ssl.connection;

    BIO_clear_retry_flags(bio);

    if (ngx_derp_ssl.drained) {
        BIO_set_retry_read(bio);
        return -1;
    }

    n = recv(c->fd, p, len, 0);

    if (n == -1 && (ngx_socket_errno == NGX_EAGAIN
                    || ngx_socket_errno == NGX_EINTR))
    {
        BIO_set_retry_read(bio);
    }

    ngx_derp_ssl.eof = (n == 0);
    ngx_derp_ssl.drained = (n > 0 && n < len && !c->read->pending_eof);

    return (int) n;
}


static int
ngx_derp_ssl_bio_write(BIO *bio, const char *p, int len)
{
    BIO_clear_retry_flags(bio);

    if ((size_t) len > NGX_DERP_SSL_SEALED - ngx_derp_ssl.len) {
        return -1;
    }

    ngx_memcpy(ngx_derp_ssl.buffer + ngx_derp_ssl.len, p, len);
    ngx_derp_ssl.len += len;

    return len;
}


static long
ngx_derp_ssl_bio_ctrl(BIO *bio, int cmd, long num, void *ptr)
{
    switch (cmd) {

    case BIO_CTRL_EOF:
        return ngx_derp_ssl.eof;

    case BIO_CTRL_FLUSH:
        return 1;

    default:
        return 0;
    }
}
