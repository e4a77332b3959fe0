
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


/* longer than the relay's mesh_write_timeout, which says what has happened */
#define NGX_DERP_MESH_USER_TIMEOUT  45000


typedef enum {
    NGX_DERP_LINK_DOWN = 0,         /* of another worker, or to be dialed */
    NGX_DERP_LINK_DIALING,
    NGX_DERP_LINK_SESSION,          /* logging in, or logged in */
    NGX_DERP_LINK_SELF              /* it is this very relay */
} ngx_derp_link_state_e;


/* a session of a link, all zero if there is none */

typedef struct {
    ngx_derp_session_t     *session;
    ngx_msec_t              heard;      /* when the other relay last was */
    ngx_msec_t              answered;   /* when it answered the first ping */
    ngx_uint_t              told;       /* of so many clients, in this tick */
    unsigned                pong:1;     /* it has */
    unsigned                up:1;       /* it has told of all, we take it */
    unsigned                restart:1;  /* another one is to take its place */
    unsigned                missed:1;   /* of some clients, for want of room */
    unsigned                leaving:1;  /* gets nothing new */
    unsigned                shut:1;     /* has sent all that it had */
} ngx_derp_line_t;


/*
 * Another relay, as configured, and a worker's link to it if it has it.  Where
 * a link is to be made anew while it works, the old line stays until the new
 * one is up.
 */

struct ngx_derp_link_s {
    ngx_derp_relay_t       *relay;
    uint64_t                id;         /* of the lease */
    ngx_url_t               url;        /* with addresses, or to be resolved */
    ngx_str_t               name;       /* for TLS and Host */
    unsigned                secure:1;
    unsigned                owned:1;    /* the lease is ours */
    unsigned                self:1;     /* what was dialed is our own zone */

    ngx_derp_link_state_e   state;      /* of the new line */
    ngx_connection_t       *connection; /* while it is being dialed */
    ngx_derp_line_t         line;
    ngx_derp_line_t         old;
    ngx_resolver_ctx_t     *resolving;
    ngx_event_t             retry;
    ngx_log_t               log;        /* while dialing; lines have a copy */
    time_t                  logged;     /* when a failure last was */
    time_t                  complained; /* that its key is ours */
    ngx_addr_t              addr;       /* what is dialed */
    struct sockaddr_storage  sockaddr;
    ngx_buf_t              *buf;        /* the request, then the reply */
    ngx_uint_t              attempt;    /* in vain since the last success */
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


/*
 * Takes and gives back leases, dials, and hands links over; tells other relays
 * of a reload.  In a worker, now and then: each tick is a step.
 */
void ngx_derp_mesh_tick(ngx_derp_relay_t *relay);

/* Stops all links of this worker, which exits and closes their sessions. */
void ngx_derp_mesh_exit(ngx_derp_relay_t *relay);

/* The connection of a link is there and upgraded, and is the session's now. */
void ngx_derp_mesh_connected(ngx_derp_link_t *link, u_char *data, size_t len);

/* Dialing has failed, for a reason: another try is made later. */
void ngx_derp_mesh_failed(ngx_derp_link_t *link, const char *reason);

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
