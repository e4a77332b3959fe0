
/*
 * The inboxes of workers.
 */


#include "ngx_derp_inbox.h"
#include "ngx_derp_mutex.h"
#include "ngx_derp_fault.h"


/* for one who was put off with the lock in its hands: so often, and ms */
#define NGX_DERP_INBOX_TRIES     5
#define NGX_DERP_INBOX_PATIENCE  20


static u_char *ngx_derp_inbox_ring(ngx_derp_region_t *region, ngx_uint_t slot);
static int ngx_derp_inbox_lock(ngx_derp_producer_t *p);


ngx_int_t
ngx_derp_inbox_create(ngx_derp_region_t *region)
{
    ngx_uint_t         i;
    ngx_derp_inbox_t  *inbox;

    for (i = 0; i < region->zone->inboxes; i++) {
        inbox = &region->inboxes[i];

        inbox->channel.used = 1;
        inbox->channel.from = i;
        inbox->channel.to = i;

        if (ngx_derp_mutex_create(&inbox->lock) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


void
ngx_derp_inbox_join(ngx_derp_region_t *region)
{
    if (region->slot < region->zone->inboxes) {
        ngx_derp_store(&region->inboxes[region->slot].channel.to_generation,
                       region->generation);
    }
}


ngx_int_t
ngx_derp_inbox_open(ngx_derp_region_t *region, ngx_uint_t to,
    ngx_derp_producer_t *p)
{
    if (ngx_derp_load_acquire(&region->zone->members[to].generation) == 0) {
        return NGX_DECLINED;
    }

    if (to >= region->zone->inboxes) {
        return NGX_BUSY;
    }

    p->channel = &region->inboxes[to].channel;
    p->lock = &region->inboxes[to].lock;
    p->ring = ngx_derp_inbox_ring(region, to);
    p->size = NGX_DERP_INBOX_SIZE;
    p->stuck = 0;

    /* the rest is as found on entering; before that, nothing was put */

    p->tail = 0;
    p->head = 0;
    p->offset = 0;

    return NGX_OK;
}


ngx_int_t
ngx_derp_inbox_accept(ngx_derp_region_t *region, ngx_derp_consumer_t *c)
{
    if (region->slot >= region->zone->inboxes) {
        return NGX_DECLINED;
    }

    c->channel = &region->inboxes[region->slot].channel;
    c->ring = ngx_derp_inbox_ring(region, region->slot);
    c->size = NGX_DERP_INBOX_SIZE;
    c->head = ngx_derp_load(&c->channel->head);
    c->offset = c->head % c->size;
    c->harmed = 0;

    return NGX_OK;
}


static u_char *
ngx_derp_inbox_ring(ngx_derp_region_t *region, ngx_uint_t slot)
{
    return region->inbox_rings + slot * NGX_DERP_INBOX_SIZE;
}


ngx_int_t
ngx_derp_inbox_enter(ngx_derp_producer_t *p)
{
    int  rc;

    if (p->lock == NULL) {
        return NGX_OK;
    }

    rc = ngx_derp_inbox_lock(p);

    p->stuck = (rc != 0);

    if (rc != 0) {
        return NGX_DECLINED;
    }

    NGX_DERP_FAULT(inbox_enter);

    /* whatever others have left there, what is written stays in the ring */

    p->tail = ngx_align(ngx_derp_load(&p->channel->tail),
                        (uint64_t) NGX_DERP_RECORD_ALIGN);
    p->head = ngx_derp_load_acquire(&p->channel->head);
    p->offset = p->tail % p->size;

    return NGX_OK;
}


/* The wake-up may be lost with a waiter who was killed: see ngx_derp_lock(). */

static int
ngx_derp_inbox_lock(ngx_derp_producer_t *p)
{
    int         rc;
    ngx_uint_t  i;

    /* who was waited for once in vain is not waited for again */

    for (i = 0; i < NGX_DERP_INBOX_TRIES && !p->stuck; i++) {

        rc = ngx_derp_mutex_wait(p->lock, NGX_DERP_INBOX_PATIENCE);

        if (rc != ETIMEDOUT) {
            return rc;
        }
    }

    return ngx_derp_mutex_try(p->lock);
}


void
ngx_derp_inbox_leave(ngx_derp_producer_t *p)
{
    if (p->lock) {
        NGX_DERP_FAULT(inbox_leave);
        (void) pthread_mutex_unlock(p->lock);
    }
}
