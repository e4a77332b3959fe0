
/*
 * Inboxes: the channels that many workers share.
 *
 * Each worker has one, for those that find no channel of their own to it when
 * all are taken.  A producer enters it for each frame: a robust mutex keeps
 * the others out, and passes to the next one when its owner dies, who has
 * published nothing that is not whole.  The consumer takes from it as from any
 * channel.
 *
 * An inbox is the slot's: what a worker has left in its own, the next one
 * finds, for clients that it does not have.
 *
 * All functions but ngx_derp_inbox_create() are for workers.
 */


#ifndef _NGX_DERP_INBOX_H_INCLUDED_
#define _NGX_DERP_INBOX_H_INCLUDED_


#include "ngx_derp_channel.h"


/* the largest frame fits */
#define NGX_DERP_INBOX_SIZE  NGX_DERP_RING_MIN


struct ngx_derp_inbox_s {
    ngx_derp_channel_t  channel;        /* from itself */
    pthread_mutex_t     lock;
} ngx_derp_aligned;


/* Makes the inboxes of a zone that is being made.  In the master. */
ngx_int_t ngx_derp_inbox_create(ngx_derp_region_t *region);

/* This worker's is its own from now on; under the zone's lock. */
void ngx_derp_inbox_join(ngx_derp_region_t *region);

/*
 * A producer's end of the inbox of the worker in the slot.  NGX_DECLINED if
 * that worker is no more, NGX_BUSY if the zone has no inbox for that slot.
 */
ngx_int_t ngx_derp_inbox_open(ngx_derp_region_t *region, ngx_uint_t to,
    ngx_derp_producer_t *p);

/* This worker's own end.  NGX_DECLINED if it has none. */
ngx_int_t ngx_derp_inbox_accept(ngx_derp_region_t *region,
    ngx_derp_consumer_t *c);

/*
 * Between these a producer puts a frame and publishes it.  NGX_DECLINED: the
 * worker that is in there does not come out, or did not a moment ago, and none
 * of this must be done.  Nothing at all for a channel of one's own.
 */
ngx_int_t ngx_derp_inbox_enter(ngx_derp_producer_t *p);
void ngx_derp_inbox_leave(ngx_derp_producer_t *p);


#endif /* _NGX_DERP_INBOX_H_INCLUDED_ */
