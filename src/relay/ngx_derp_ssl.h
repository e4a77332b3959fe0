
/*
 * TLS with few system calls.
 *
 * OpenSSL writes each record by itself: a system call, and the waking of
 * whoever reads it.  And it reads until there is nothing more, one call in
 * vain each time.  Here it has a BIO of ours in place of the socket's: what it
 * seals gathers in a buffer, the worker's, which the caller writes at once; and
 * a read that was not filled is known to be the last.
 *
 * All functions are for workers; sealing and reading are for connections that
 * _ssl_adopt() is true of.
 */


#ifndef _NGX_DERP_SSL_H_INCLUDED_
#define _NGX_DERP_SSL_H_INCLUDED_


#include "ngx_derp_buf.h"

#include <ngx_event.h>


/* so many records go out together: the largest frame is in five */
#define NGX_DERP_SSL_RECORDS  5

/* one of them sealed: header, type, padding, IV and tag are less */
#define NGX_DERP_SSL_RECORD   (NGX_DERP_RECORD + 128)

#define NGX_DERP_SSL_SEALED   (NGX_DERP_SSL_RECORDS * NGX_DERP_SSL_RECORD)


/* Makes ready; NGX_ERROR with a line in the log.  Once, before all else. */
ngx_int_t ngx_derp_ssl_init(ngx_log_t *log);
void ngx_derp_ssl_exit(void);

/*
 * Makes a connection's TLS ready for a session, if it has any.  Whether it is
 * done here: not if the kernel does it (kTLS), nor with fragments that the
 * client has made smaller.
 */
ngx_uint_t ngx_derp_ssl_adopt(ngx_connection_t *c);

/*
 * Seals what is at p, or the first of it, and sets *sealed to what is then to
 * go out before anything else; it is the worker's.  Returns how many bytes were
 * taken; NGX_ERROR: the connection has failed.
 */
ssize_t ngx_derp_ssl_seal(ngx_connection_t *c, u_char *p, size_t size,
    ngx_str_t *sealed);

/*
 * As the connection's recv_chain(); *sealed is set to what OpenSSL answers
 * (that it has changed its key, or an alert), mostly nothing.
 */
ssize_t ngx_derp_ssl_recv(ngx_connection_t *c, ngx_chain_t *in,
    ngx_str_t *sealed);


#endif /* _NGX_DERP_SSL_H_INCLUDED_ */
