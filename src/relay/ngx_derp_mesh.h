
/*
 * The mesh: links to the other relays of the region.
 *
 * Each other relay has one link from the whole nginx, kept by the worker with
 * the lease on it.  By the link a relay tells which clients it has, and packets
 * for them are forwarded.  cmd/derper's startMeshWithHost() and derphttp's
 * Client.RunWatchConnectionLoop().
 */


#ifndef _NGX_DERP_MESH_H_INCLUDED_
#define _NGX_DERP_MESH_H_INCLUDED_


#include "ngx_derp_session.h"


typedef enum {
    NGX_DERP_LINK_DOWN = 0,         /* of another worker, or to be dialed */
    NGX_DERP_LINK_DIALING,
    NGX_DERP_LINK_SESSION,          /* logging in, or logged in */
    NGX_DERP_LINK_SELF              /* it is this very relay */
} ngx_derp_link_state_e;


/* another relay, as configured, and a worker's link to it if it has it */

struct ngx_derp_link_s {
    ngx_derp_relay_t       *relay;
    uint64_t                id;         /* of the lease */
    ngx_url_t               url;        /* with addresses, or to be resolved */
    ngx_str_t               name;       /* for TLS and Host */
    unsigned                secure:1;

    ngx_derp_link_state_e   state;
    ngx_connection_t       *connection;
    ngx_derp_session_t     *session;
    ngx_resolver_ctx_t     *resolving;
    ngx_event_t             retry;
    ngx_log_t               log;        /* the connection's own */
    ngx_addr_t              addr;       /* what is dialed */
    struct sockaddr_storage  sockaddr;
    ngx_buf_t              *buf;        /* the request, then the reply */
    ngx_uint_t              attempt;    /* in vain since the last success */
    ngx_msec_t              heard;      /* when the other one last was */
    ngx_msec_t              replaced;   /* since when another worker's is up */
    ngx_msec_t              orphaned;   /* since when the worker exits */
};


struct ngx_derp_mesh_s {
    ngx_array_t             links;      /* of ngx_derp_link_t */
    ngx_ssl_t              *ssl;
    ngx_str_t               trusted_certificate;
    ngx_str_t               ssl_name;
    ngx_flag_t              ssl_verify;
    ngx_uint_t              ssl_verify_depth;
    ngx_resolver_t         *resolver;   /* NULL: there is none */
    ngx_msec_t              resolver_timeout;
};


/* Takes and gives back leases, and dials.  In a worker, now and then. */
void ngx_derp_mesh_tick(ngx_derp_relay_t *relay);

/* Ends all links of this worker, which exits. */
void ngx_derp_mesh_exit(ngx_derp_relay_t *relay);

/* The connection of a link is there and upgraded, and is the session's now. */
void ngx_derp_mesh_connected(ngx_derp_link_t *link, u_char *data, size_t len);

/* Dialing has failed: another try is made later. */
void ngx_derp_mesh_failed(ngx_derp_link_t *link);

/* A link's session has been closed. */
void ngx_derp_mesh_closed(ngx_derp_session_t *s);

/* What a session of a link does: see ngx_derp_session.c. */
ngx_int_t ngx_derp_mesh_login_check(ngx_derp_session_t *s, ngx_uint_t type,
    size_t len);
ngx_int_t ngx_derp_mesh_login(ngx_derp_session_t *s, u_char *frame,
    size_t *len, u_char *last);
ngx_int_t ngx_derp_mesh_check(ngx_derp_session_t *s, ngx_uint_t type,
    size_t len);
ngx_int_t ngx_derp_mesh_frame(ngx_derp_session_t *s, u_char *frame,
    size_t *len, u_char *last);
void ngx_derp_mesh_timer(ngx_derp_session_t *s);


#endif /* _NGX_DERP_MESH_H_INCLUDED_ */
