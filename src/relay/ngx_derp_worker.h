
/*
 * The worker: its slot, its buffers, and the turn of its event loop.
 *
 * A turn is what a worker does once, after all events of an iteration of the
 * event loop: takes what other workers sent, reads the journals, writes what
 * was appended to outboxes, rings those it has sent something to, and closes
 * what is to be closed.
 */


#ifndef _NGX_DERP_WORKER_H_INCLUDED_
#define _NGX_DERP_WORKER_H_INCLUDED_


#include "ngx_derp_session.h"


/* what is read at once, and the room in front of it for what was held back */
#define NGX_DERP_READ_SIZE   (256 * 1024)
#define NGX_DERP_READ_FRONT                                                   \
    ngx_align(NGX_DERP_BUF_MAX + NGX_DERP_KEY_LEN, 4096)
#define NGX_DERP_READ_ROOM   (NGX_DERP_READ_FRONT + NGX_DERP_READ_SIZE)


typedef struct {
    ngx_uint_t            slot;         /* NGX_DERP_NO_SLOT: none was free */
    ngx_derp_bufs_t       bufs;
    u_char               *memory;       /* NGX_DERP_READ_ROOM bytes */
    u_char               *buffer;       /* the last READ_SIZE of them */

    ngx_array_t          *relays;       /* of ngx_derp_relay_t * */
    ngx_uint_t            joined;       /* so many of them */

    ngx_queue_t           touched;      /* outboxes */
    ngx_uint_t            ntouched;
    ngx_queue_t           holders[NGX_DERP_HOLDERS];    /* outboxes, blocked */
    ngx_queue_t           closing;      /* sessions */
    ngx_queue_t           holding;      /* buffers of halves of frames */
    size_t                held;         /* bytes of these */
    size_t                parked;       /* of what waits for other workers */
    size_t                queued;       /* and of what blocked clients have */

    ngx_event_t           turn;
    ngx_event_t           tick;
    ngx_connection_t     *bell;
    ngx_connection_t      dummy;        /* for the tick's data */
    ngx_log_t            *log;

    unsigned              draining:1;   /* nginx stops, all are told so */
    unsigned              late:1;       /* it could not join at once */
} ngx_derp_worker_t;


extern ngx_derp_worker_t  ngx_derp_worker;


/*
 * A worker takes part in all relays of its configuration, and leaves them.
 * Where it cannot yet, it says so in the log, and goes on trying: a relay
 * without sessions is not to be used.  NGX_ERROR with a line in the log.
 */
ngx_int_t ngx_derp_worker_init(ngx_cycle_t *cycle, ngx_array_t *relays);
void ngx_derp_worker_exit(void);

/* An error of a relay's that may come at any rate: not every one is logged. */
void ngx_derp_worker_complain(ngx_derp_relay_t *relay, char *what);

/* There will be a turn. */
void ngx_derp_worker_post(void);

/*
 * Tells what the journal had to tell when its head was at born, and before
 * that what others had sent by then.
 */
void ngx_derp_worker_catch_up(ngx_derp_relay_t *relay, uint64_t born);


#endif /* _NGX_DERP_WORKER_H_INCLUDED_ */
