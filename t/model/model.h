
/*
 * Models of what workers do to a region, without nginx around them.
 *
 * src/region is compiled as it is.  What it needs of nginx, and what the
 * programs here have in common, is in model.c.
 */


#ifndef _MODEL_H_INCLUDED_
#define _MODEL_H_INCLUDED_


#include "ngx_derp_region.h"
#include "ngx_derp_registry.h"
#include "ngx_derp_journal.h"
#include "ngx_derp_channel.h"
#include "ngx_derp_inbox.h"
#include "ngx_derp_lease.h"
#include "ngx_derp_lock.h"
#include "ngx_derp_zone.h"
#include "ngx_derp_fault.h"


#define MODEL_KEYS      96
#define MODEL_LINKS     2               /* a worker's */
#define MODEL_MAX_OWN   24              /* clients of a worker */
#define MODEL_MEMORY    (16 * 1024 * 1024)


typedef struct {
    ngx_derp_route_t     route;
    uint32_t             key;
} model_client_t;


typedef struct {
    ngx_derp_route_t     route;         /* 0: it is not up */
    uint8_t              announced[MODEL_KEYS];
} model_link_t;


/* what a worker knows of the region, and what it has put there itself */

typedef struct {
    ngx_derp_region_t    region;
    uint64_t             random;
    ngx_uint_t           n;             /* of the worker */
    ngx_socket_t         bell;

    ngx_uint_t           nclients;
    model_client_t       clients[MODEL_MAX_OWN];
    model_link_t         links[MODEL_LINKS];

    uint64_t             cursor;
    uint8_t              present[MODEL_KEYS];   /* by the journal */
    uint8_t              heard[MODEL_KEYS];     /* until they leave */
    ngx_derp_handle_t    handles[MODEL_KEYS];   /* as once found */

    ngx_derp_producer_t  producers[NGX_DERP_SLOTS];
    uint64_t             sent[NGX_DERP_SLOTS];
    ngx_derp_consumer_t  consumers[NGX_DERP_SLOTS];
    uint64_t             taken[NGX_DERP_SLOTS];
    ngx_uint_t           nconsumers;
    uint32_t             known;

    ngx_derp_producer_t  sharers[NGX_DERP_SLOTS];   /* of others' inboxes */
    uint64_t             shared[NGX_DERP_SLOTS];
    ngx_derp_consumer_t  inbox;
    uint64_t             last[NGX_DERP_SLOTS];      /* of each sharer's */
} model_worker_t;


/* a region in zeroed memory, small enough to be full now and then */
void model_create(ngx_derp_region_t *region, void *memory,
    uint32_t capacity, uint32_t entries, uint32_t ring_size);

/* in a thread of its own, or a process */
void model_join(model_worker_t *w, void *memory, ngx_uint_t n);

/* one thing that a worker might do, by chance */
void model_step(model_worker_t *w);

/* a worker reads all that the journal has */
void model_replay(model_worker_t *w);

/* what the worker has and knows is what the region says; nobody changes it */
void model_check_worker(model_worker_t *w);

/* the region is whole, and there is nothing in it that nobody has */
void model_check_region(ngx_derp_region_t *region);

/*
 * With threads, who see each other's memory: keys from this one on are there
 * all along, and which routes each key has had is kept: by the index of the
 * connection and its generation.
 */
#define MODEL_HISTORY   256

typedef uint64_t  model_history_t[MODEL_HISTORY];

extern uint32_t          model_permanent;
extern model_history_t  *model_history;

/* a client of this worker, of the key; NGX_BUSY if the registry is full */
ngx_int_t model_add(model_worker_t *w, uint32_t id);

/* all that is dead is taken away; the lock may be another's for a while */
void model_reap(ngx_derp_region_t *region);

uint64_t model_random(uint64_t *state);
void model_key(u_char *key, uint32_t id);
void model_client(ngx_derp_client_t *client, uint32_t id, uint32_t nonce);

/* a record of len bytes that tells of its number, and whether one is whole */
void model_fill(u_char *p, size_t len, uint64_t number);
void model_verify(u_char *p, size_t len, uint64_t number);

#define model_assert(ok, ...)                                                 \
    do {                                                                      \
        if (!(ok)) {                                                          \
            model_fail(__FILE__, __LINE__, #ok, __VA_ARGS__);                 \
        }                                                                     \
    } while (0)

void model_fail(const char *file, int line, const char *what,
    const char *fmt, ...) __attribute__((noreturn, format(printf, 4, 5)));


/* which processes print what src/region logs */
extern ngx_log_t  model_log;


#endif /* _MODEL_H_INCLUDED_ */
