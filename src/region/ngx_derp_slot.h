
/*
 * Slots: which worker processes there are.
 *
 * One table for the whole nginx, made once in the master and inherited by the
 * workers of every configuration generation.  A worker claims a slot for its
 * life; all that it puts into shared memory carries the slot and the claim's
 * generation.  That it lives is vouched for by the kernel: it holds a robust
 * mutex, which no reused pid can fake.
 *
 * A worker's bell is a unix datagram socket in the abstract namespace, named by
 * the table, the slot and the claim.  So a worker holds one descriptor, however
 * many others there are, and can ring those that are started after it.
 */


#ifndef _NGX_DERP_SLOT_H_INCLUDED_
#define _NGX_DERP_SLOT_H_INCLUDED_


#include "ngx_derp_atomic.h"

#include <pthread.h>


/* as many as NGX_MAX_PROCESSES, for which nginx has room; a test has fewer */
#ifndef NGX_DERP_SLOTS
#define NGX_DERP_SLOTS    1024
#endif

#define NGX_DERP_NO_SLOT  NGX_DERP_SLOTS


typedef struct {
    pthread_mutex_t  life;          /* held by the owner for its life */
    uint32_t         generation;    /* of the claim, never 0 once claimed */
    uint32_t         awake;         /* will look again before it sleeps */
    ngx_pid_t        pid;           /* for people; 0: it was given back */
} ngx_derp_aligned ngx_derp_slot_t;


typedef struct {
    uint32_t         configurations;    /* that have started workers */
    uint32_t         stopped;           /* the last of them that was to quit */
    uint32_t         top;               /* slots up to the last ever claimed */
    uint64_t         id;                /* random, in the names of the bells */
    ngx_derp_slot_t  slots[NGX_DERP_SLOTS];
} ngx_derp_slots_t;


/*
 * Makes the table if there is none yet.  In the master, before its workers are
 * forked.  NGX_ERROR with a line in the log.
 */
ngx_int_t ngx_derp_slots_init(ngx_log_t *log);

/*
 * Counts a configuration, which is put to use, with relays or without: workers
 * of older ones were replaced.  In the master, as above.
 */
void ngx_derp_slots_configure(void);

/*
 * Claims a free slot for this worker until it exits or dies.  Returns its
 * number, or NGX_DERP_NO_SLOT if every one is taken.  In a worker, once.
 */
ngx_uint_t ngx_derp_slot_claim(void);

/* Gives the slot back.  In its worker. */
void ngx_derp_slot_release(ngx_uint_t slot);

/*
 * Whether the claim of this generation still lives.  In any worker; may say
 * yes once too often while another worker is claiming the slot.
 */
ngx_uint_t ngx_derp_slot_alive(ngx_uint_t slot, uint32_t generation);

/* How many slots are taken, by whatever lives.  In any process. */
ngx_uint_t ngx_derp_slots_used(void);

/* No slot from this number on has ever been claimed.  In any process. */
ngx_uint_t ngx_derp_slots_top(void);

uint32_t ngx_derp_slot_generation(ngx_uint_t slot);
ngx_pid_t ngx_derp_slot_pid(ngx_uint_t slot);

/*
 * Whether a newer configuration than this process's has workers: then a worker
 * that is told to quit was replaced.
 */
ngx_uint_t ngx_derp_slots_reloaded(void);

/*
 * A worker that was told to quit says so; if it is of the newest configuration
 * nginx stops.  Whether that has been said, by whichever worker: old ones are
 * told to quit only once.
 */
void ngx_derp_slots_quit(void);
ngx_uint_t ngx_derp_slots_stopping(void);

/*
 * The number of this process's configuration, growing with every reload, and
 * that of the newest there is.
 */
uint32_t ngx_derp_slots_configuration(void);
uint32_t ngx_derp_slots_newest(void);

/*
 * Makes the bell of this worker's slot, on which others ring it. Returns the
 * descriptor, which becomes readable with each ring, a datagram of one byte,
 * and is the caller's to read and to close; -1 with a line in the log. In a
 * worker, after its claim.
 */
ngx_socket_t ngx_derp_slot_bell(ngx_uint_t slot, ngx_log_t *log);

/*
 * Rings the worker in the slot from this worker's own bell, unless that one is
 * awake.  One system call at most, in any worker; the woken worker sees what
 * was written to shared memory before.
 */
void ngx_derp_slot_ring(ngx_uint_t slot, ngx_socket_t bell, ngx_log_t *log);

/*
 * The same, whatever it says: who took it upon itself to ring may have died
 * before it did.
 */
void ngx_derp_slot_rouse(ngx_uint_t slot, ngx_socket_t bell, ngx_log_t *log);

/*
 * The owner of a slot says that it is going to sleep.  It must look at all
 * that it might have been rung for once more after that.
 */
void ngx_derp_slot_sleep(ngx_uint_t slot);

/* The owner is awake, and will look again before it sleeps. */
void ngx_derp_slot_wake(ngx_uint_t slot);


#endif /* _NGX_DERP_SLOT_H_INCLUDED_ */
