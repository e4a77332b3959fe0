
/*
 * What the files of the target "session" share.  Each stands on those before
 * it here, session_check.c beside session_commands.c, and session.c on all.
 */


#ifndef _SESSION_H_INCLUDED_
#define _SESSION_H_INCLUDED_


#include "stub.h"
#include "ngx_derp_mesh.h"
#include "ngx_derp_worker.h"


#define FUZZ_CLIENTS   4                /* connections; each may be any key */
#define FUZZ_LINK      FUZZ_CLIENTS     /* and one that is the link's */
#define FUZZ_CONNS     (FUZZ_CLIENTS + 1)

#define FUZZ_CAPACITY  24               /* to be full now and then */


/* whose keys there are: the clients' first, then those of others */

enum {
    FUZZ_KEY_OTHER = FUZZ_CLIENTS,      /* a client of the other worker */
    FUZZ_KEY_REMOTE,                    /* for our link to announce */
    FUZZ_KEY_FAR,                       /* announced by the other's link */
    FUZZ_KEY_NOBODY,
    FUZZ_KEY_SERVER,
    FUZZ_KEY_RELAY,                     /* the other relay's */
    FUZZ_KEYS
};


typedef struct {
    const uint8_t        *p;
    const uint8_t        *last;
} fuzz_input_t;


typedef struct {
    ngx_connection_t     *c;            /* NULL: not open */
    ngx_event_t           read;
    ngx_event_t           write;
    ngx_log_t             log;
    ngx_uint_t            link;         /* has been dialed */

    u_char               *in;           /* what the other end has sent */
    size_t                in_len;
    size_t                chunk;        /* at most so much arrives at once */
    ngx_uint_t            event;        /* something has arrived */
    ngx_uint_t            eof;
    ngx_uint_t            broken;

    size_t                room;         /* what the socket still takes */

    ngx_ssl_connection_t  ssl;          /* if it has TLS, which seals nothing */
    size_t                sealed;       /* that is to go out before all else */
    ngx_uint_t            reads;

    ngx_uint_t            login;        /* has been sent */
    ngx_uint_t            key;          /* as which */
    ngx_uint_t            replied;      /* ServerInfo, or ClientInfo */
    u_char                out[NGX_DERP_MAX_FORWARD_FRAME];
    size_t                out_len;      /* of the frame that is going out */
} fuzz_conn_t;


/* session_input.c */

/* one byte, and two; 0 behind the end */
ngx_uint_t fuzz_byte(fuzz_input_t *in);
ngx_uint_t fuzz_short(fuzz_input_t *in);

/* how many bytes of the input itself are to come: no more than are left */
size_t fuzz_len(fuzz_input_t *in);

/* a packet's size: the greatest and one more are to be likely */
size_t fuzz_size(fuzz_input_t *in);


/* session_worker.c */

extern u_char            fuzz_public[FUZZ_KEYS][NGX_DERP_KEY_LEN];
extern u_char            fuzz_shared[FUZZ_KEYS][NGX_DERP_KEY_LEN];
extern u_char            fuzz_mesh_key[NGX_DERP_KEY_LEN];

extern void             *fuzz_memory;   /* the zone's */
extern ngx_derp_relay_t  fuzz_relay;
extern ngx_derp_link_t   fuzz_the_link;

/* once: all but what closes a connection */
void fuzz_worker_configure(void);

/* the worker begins with a new zone, and leaves it */
void fuzz_worker_start(void);
void fuzz_worker_stop(void);


/* session_sent.c */

/* bytes of the input were sent as they are: packets may hold anything */
extern ngx_uint_t        fuzz_raw;

/* what a packet of this size holds, if it was not the input's own bytes */
void fuzz_fill(u_char *p, size_t size, ngx_uint_t disco);

/* it is what fuzz_fill() wrote */
void fuzz_check_packet(u_char *p, size_t size);

/* the worker has sent this, parts of frames or many */
void fuzz_sent(fuzz_conn_t *fc, u_char *p, size_t size);


/*
 * session_conn.c, which has ngx_derp_dial(), too: the input says how it ends;
 * and TLS that leaves everything as it is
 */

extern fuzz_conn_t       fuzz_conns[FUZZ_CONNS];

/* bytes that there were to read */
extern uint64_t          fuzz_arrived;

void fuzz_open(fuzz_conn_t *fc);
void fuzz_close(ngx_connection_t *c);

/* whose it is; it is open */
fuzz_conn_t *fuzz_conn(ngx_connection_t *c);

/* bytes arrive, all of them or none; the handler is called in the turn */
void fuzz_arrive(fuzz_conn_t *fc, u_char *p, size_t len);

/* what there is to tell to the connections' handlers is told */
void fuzz_conns_turn(void);

/* everybody hangs up, and what was blocked flows, from the next turn on */
void fuzz_conns_end(void);

/* for stub_after: what was read may be overwritten */
void fuzz_handled(void);


/* session_other.c */

/* it begins, and leaves, if it lives */
void fuzz_other_join(void);
void fuzz_other_leave(void);

/* commands: something of it changes, be it that it dies or is born again */
void fuzz_other_changes(fuzz_input_t *in);

/* it sends a packet to where a client of ours is, or was */
void fuzz_other_sends(fuzz_input_t *in);

/* it does, but what it has written by then is spoilt */
void fuzz_other_spoils(fuzz_input_t *in);

/* it takes what we have sent, so many packets of it */
void fuzz_other_takes(fuzz_input_t *in);


/* session_commands.c */

/* does the command, with what follows it in the input */
void fuzz_command(fuzz_input_t *in, ngx_uint_t command);


/* session_check.c */

/* after a turn: what the worker says that it holds its sessions hold */
void fuzz_check_worker(void);

/* everybody has hung up: the worker has nothing left, in itself or the zone */
void fuzz_check_finished(void);

/* both workers have left: nobody is in the zone any more */
void fuzz_check_empty(ngx_derp_region_t *region);


#endif /* _SESSION_H_INCLUDED_ */
