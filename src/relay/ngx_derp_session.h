
/*
 * A session: one connection's life, from the upgrade to its end.
 *
 * It lives on the connection alone; what brought the connection here is let
 * go.  Idle it owns no buffer.  All functions are for workers.
 */


#ifndef _NGX_DERP_SESSION_H_INCLUDED_
#define _NGX_DERP_SESSION_H_INCLUDED_


#include "ngx_derp_outbox.h"


typedef enum {
    NGX_DERP_STATE_LOGIN = 0,       /* awaits ClientInfo */
    NGX_DERP_STATE_ENTERING,        /* to be registered: has shown who it is */
    NGX_DERP_STATE_CLIENT,          /* registered */
    NGX_DERP_STATE_LINK_LOGIN,      /* awaits the other relay's ServerKey */
    NGX_DERP_STATE_LINK,            /* to another relay, registered */
    NGX_DERP_STATE_CLOSING          /* to be closed at the turn's end */
} ngx_derp_state_e;


typedef struct ngx_derp_edge_s   ngx_derp_edge_t;
typedef struct ngx_derp_link_s   ngx_derp_link_t;


/* where a client comes from: the registry knows it once it is logged in */

typedef struct {
    u_char                addr[16];
    in_port_t             port;
} ngx_derp_origin_t;


typedef struct {
    uint64_t              packets_in;
    uint64_t              bytes_in;
    uint64_t              packets_out;
    uint64_t              bytes_out;
} ngx_derp_traffic_t;


/* there are as many of these as clients: it is to stay small */

struct ngx_derp_session_s {
    ngx_connection_t     *connection;
    ngx_derp_relay_t     *relay;

    ngx_derp_route_t      route;        /* its own, once registered */

    union {
        ngx_derp_handle_t   peer;       /* its own key's */
        ngx_derp_link_t    *link;       /* of one that is a link */
    };

    ngx_derp_handle_t     last;         /* the last destination's */
    uint64_t              born;         /* the journal's head at its login */

    u_char                key[NGX_DERP_KEY_LEN];

    ngx_derp_buf_t       *in;           /* what is not processed yet */
    ngx_derp_outbox_t     out;
    ngx_derp_edge_t      *edges;        /* from whom it has received */

    ngx_queue_t           queue;        /* in the relay's all */
    ngx_queue_t           waiting;      /* for what it is paused by; closing */

    ngx_msec_t            started;

    union {
        ngx_derp_origin_t   origin;     /* until the login is done */
        ngx_derp_traffic_t  traffic;    /* from then on, */
        uint32_t            removed;    /* and once it is closed */
    };

    union {
        ngx_msec_t          not_here;   /* when the next PeerGone is due */
        char               *reason;     /* why it is being closed, once it is */
    };

    uint32_t              skip;         /* bytes to be read past */
    uint8_t               state;
    unsigned              login:4;      /* NGX_DERP_LOGIN_...: how it ended */
    unsigned              flags:4;      /* NGX_DERP_PRESENT_... */
    unsigned              paused:1;     /* by a channel, or the zone's lock */
    unsigned              resumed:1;    /* what it holds is to be processed */
    unsigned              pong:1;       /* one is waiting */
    unsigned              linked:1;     /* a link to another relay */
    unsigned              mesh:1;       /* knows the mesh key */
    unsigned              sibling:1;    /* the link of a relay of our kind */
    unsigned              told:1;       /* that one, of a reload */
    unsigned              preferred:1;
    unsigned              draining:1;
    unsigned              watches:1;
    unsigned              seals:1;      /* its own TLS records: _ssl.h */
};


/*
 * Whether a relay has no part in this worker, since no slot was free, or nginx
 * is being stopped, or there is no room for another client, which is then
 * logged.
 */
ngx_uint_t ngx_derp_session_refused(ngx_derp_relay_t *relay);

/*
 * Takes a connection over that ServerKey has been sent by: from here on it is
 * the session's.  Its data and handlers are set, the login's timer is running.
 * client holds all but the key.  What has been read already is copied.  On
 * NGX_ERROR the connection is still the caller's.
 */
ngx_int_t ngx_derp_session_create(ngx_derp_relay_t *relay,
    ngx_connection_t *c, ngx_derp_client_t *client, u_char *data, size_t len);

/*
 * A session of the worker's own making, for a link; without a timer.  NULL if
 * there is no memory.
 */
ngx_derp_session_t *ngx_derp_session_alloc(ngx_derp_relay_t *relay,
    ngx_connection_t *c, ngx_derp_state_e state);

/*
 * Begins to read, with what has been read already, which is copied.
 */
void ngx_derp_session_begin(ngx_derp_session_t *s, u_char *data, size_t len);

/*
 * How long the kernel waits for the other end to acknowledge anything, or to
 * take anything: whoever is cut off is noticed by that.  A mesh peer, which has
 * longer to take what it is sent, is to have longer here too.
 */
void ngx_derp_session_user_timeout(ngx_connection_t *c, ngx_msec_t msec);

/* Goes over to another state. */
void ngx_derp_session_state(ngx_derp_session_t *s, ngx_derp_state_e state);

/*
 * The other end has broken a rule: says in the log what it sent, and fails.
 * Always NGX_ERROR.
 */
ngx_int_t ngx_derp_session_breach(ngx_derp_session_t *s, char *what,
    const char *name, size_t len);

/*
 * Ends a session at the end of this turn, for a reason that is a constant
 * string; nothing is read or sent any more.  Twice is no error.
 */
void ngx_derp_session_fail(ngx_derp_session_t *s, char *reason);

/*
 * Says why a login is about to fail, which is counted when its session ends;
 * of a session in another state it says nothing.
 */
void ngx_derp_session_login_fails(ngx_derp_session_t *s,
    ngx_derp_login_e reason);

/*
 * The one place where a session ends.  Only at the end of a turn, when nobody
 * holds a pointer to it any more.  Where the zone's lock is not to be had, the
 * registry has it a while longer than anybody else.
 */
void ngx_derp_session_close(ngx_derp_session_t *s);

/* Goes on with all sessions of a queue that they have been paused in. */
void ngx_derp_session_resume_all(ngx_queue_t *waiting);

/*
 * The zone's lock is not to be had: the session is paused, and the frame at
 * hand is to be offered again.  Always NGX_AGAIN.
 */
ngx_int_t ngx_derp_session_wait(ngx_derp_session_t *s);

/* Goes on with those who wait for it, if it is to be had again.  In a turn. */
void ngx_derp_session_retry(ngx_derp_relay_t *relay);

/*
 * Ends all sessions there are, and frees those that are closed and have not
 * come to be taken off the registry: at the worker's end, when all that it has
 * is taken off at once.
 */
void ngx_derp_session_discard(ngx_derp_relay_t *relay);

/* The outbox has been emptied after it was blocked. */
void ngx_derp_session_unblocked(ngx_derp_session_t *s);

/* The session of this worker at a route, or NULL if it is no more. */
ngx_derp_session_t *ngx_derp_session_find(ngx_derp_relay_t *relay,
    ngx_derp_route_t route);


#endif /* _NGX_DERP_SESSION_H_INCLUDED_ */
