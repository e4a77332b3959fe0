
/*
 * Channels: how frames get from one worker to another.
 *
 * A channel is a byte ring in the zone with one producer and one consumer,
 * both workers.  The producer opens it when it first has something to send,
 * the consumer finds it.  Either may end or die: the channel is free again
 * once both have let go, by themselves or by whoever reaps them, and until
 * then the survivor may go on using it.
 */


#ifndef _NGX_DERP_CHANNEL_H_INCLUDED_
#define _NGX_DERP_CHANNEL_H_INCLUDED_


#include "ngx_derp_region.h"


/* the largest frame fits, with the record's own bytes; a multiple of 4K */
#define NGX_DERP_RING_MIN      (68 * 1024)

/* of records in a ring */
#define NGX_DERP_RECORD_ALIGN  16

/* of a ring; no more than one frame in a larger record, for two to have room */
#define ngx_derp_channel_span(size)  ((size) / 2 - sizeof(ngx_derp_record_t))


struct ngx_derp_channel_s {

    /* written under the zone's lock */

    uint32_t          used;
    uint32_t          from_generation;  /* of the producer's claim */
    uint32_t          to_generation;
    uint16_t          from;
    uint16_t          to;
    uint8_t           from_left;        /* the producer has let go */
    uint8_t           to_left;

    /* free-running positions in the ring, each with one writer at a time */

    uint64_t          tail ngx_derp_aligned;    /* the producer's */
    uint64_t          head ngx_derp_aligned;    /* the consumer's */
    uint32_t          wanted;           /* a producer waits for room */
} ngx_derp_aligned;


/* a producer's own end */

typedef struct {
    ngx_derp_channel_t  *channel;       /* NULL: not open */
    u_char              *ring;
    uint64_t             tail;          /* what is written, published or not */
    uint64_t             head;          /* as last seen */
    uint32_t             offset;        /* of the tail in the ring */
    uint32_t             size;          /* of the ring */
    pthread_mutex_t     *lock;          /* an inbox's, NULL: its own */
    unsigned             stuck:1;       /* the last wait for it was in vain */
} ngx_derp_producer_t;


/* a consumer's own end */

typedef struct {
    ngx_derp_channel_t  *channel;
    u_char              *ring;
    uint64_t             head;
    uint32_t             offset;        /* of the head in the ring */
    uint32_t             size;
    unsigned             harmed:1;      /* what was there was no record */
} ngx_derp_consumer_t;


/* frames on their way, one behind the other, to the same connection */

typedef struct {
    uint32_t             len;           /* in bytes, 0: the rest is empty */
    uint32_t             packets;
    ngx_derp_route_t     route;
    uint64_t             born;          /* the sender's: see its session */
} ngx_derp_record_t;


/*
 * Opens the channel from this worker to that in the slot.  NGX_DECLINED if
 * that worker is no more, NGX_BUSY if all channels are taken, NGX_AGAIN if the
 * zone's lock is not to be had.
 */
ngx_int_t ngx_derp_channel_open(ngx_derp_region_t *region, ngx_uint_t to,
    ngx_derp_producer_t *p);

/*
 * Room for so many packets in frames of len bytes, to be filled by the caller;
 * NULL: the ring is full.  The consumer sees it after
 * ngx_derp_channel_publish().
 */
u_char *ngx_derp_channel_put(ngx_derp_producer_t *p, ngx_derp_route_t route,
    size_t len, ngx_uint_t packets, uint64_t born);
void ngx_derp_channel_publish(ngx_derp_producer_t *p);

/*
 * Says that the producer waits for room, unless there is some by now:
 * NGX_AGAIN, and the consumer will ring once it has taken something; NGX_OK,
 * and ngx_derp_channel_put() is to be tried again.
 */
ngx_int_t ngx_derp_channel_want(ngx_derp_producer_t *p, size_t len);

/* Whether the consumer has left or died, so that the channel is of no use. */
ngx_uint_t ngx_derp_channel_broken(ngx_derp_region_t *region,
    ngx_derp_producer_t *p);

/* Whether the consumer has taken all that this producer published. */
ngx_uint_t ngx_derp_channel_drained(ngx_derp_producer_t *p);

/* Lets go of the producer's end.  NGX_AGAIN: not yet, as above. */
ngx_int_t ngx_derp_channel_close(ngx_derp_region_t *region,
    ngx_derp_producer_t *p);

/*
 * The next channel to this worker, at or behind *index in the zone, that it
 * has not let go of: NGX_OK, with *index set behind it, or NGX_DONE.  Takes no
 * lock: what others send is to be had, whoever stands still.
 */
ngx_int_t ngx_derp_channel_accept(ngx_derp_region_t *region,
    ngx_uint_t *index, ngx_derp_consumer_t *c);

/*
 * The oldest record's frames, in the ring itself: the caller's to change until
 * ngx_derp_channel_take(), which gives their room back to the producer.  NULL:
 * there is none, or what there is lies outside of what was published or of the
 * ring.  Then all of it is dropped, and c->harmed is set, for the caller to say
 * so and to clear.  What the frames say of themselves is not looked at.
 */
u_char *ngx_derp_channel_get(ngx_derp_consumer_t *c, ngx_derp_record_t *record);
void ngx_derp_channel_take(ngx_derp_consumer_t *c, ngx_derp_record_t *record);

/* Drops all that was published, as where one size is wrong it all may be. */
void ngx_derp_channel_discard(ngx_derp_consumer_t *c);

/* After taking: the slot of the producer if it waits for room, else NO_SLOT. */
ngx_uint_t ngx_derp_channel_wanted(ngx_derp_consumer_t *c);

/* Whether the producer has let go, so that nothing more will come. */
ngx_uint_t ngx_derp_channel_ended(ngx_derp_consumer_t *c);

/* Lets go of the consumer's end.  NGX_AGAIN: not yet, as above. */
ngx_int_t ngx_derp_channel_release(ngx_derp_region_t *region,
    ngx_derp_consumer_t *c);

/* Both ends that a slot's worker had are let go of; under the lock. */
void ngx_derp_channel_remove_slot(ngx_derp_region_t *region, ngx_uint_t slot);


#endif /* _NGX_DERP_CHANNEL_H_INCLUDED_ */
