
/*
 * Channels between workers.
 */


#include "ngx_derp_channel.h"
#include "ngx_derp_lock.h"
#include "ngx_derp_fault.h"


#define ngx_derp_record_size(len)                                             \
    ngx_align(sizeof(ngx_derp_record_t) + (len), NGX_DERP_RECORD_ALIGN)


static void ngx_derp_channel_drop(ngx_derp_region_t *region,
    ngx_derp_channel_t *ch);
static u_char *ngx_derp_channel_harmed(ngx_derp_consumer_t *c);
static void ngx_derp_channel_pass(ngx_derp_consumer_t *c, size_t size);
static size_t ngx_derp_channel_needs(ngx_derp_producer_t *p, size_t size);
static ngx_uint_t ngx_derp_channel_fits(ngx_derp_producer_t *p, size_t size);


ngx_int_t
ngx_derp_channel_open(ngx_derp_region_t *region, ngx_uint_t to,
    ngx_derp_producer_t *p)
{
    ngx_int_t            rc;
    ngx_uint_t           i;
    ngx_derp_zone_t     *zone;
    ngx_derp_channel_t  *ch;

    zone = region->zone;

    if (ngx_derp_lock(region) != NGX_OK) {
        return NGX_AGAIN;
    }

    rc = NGX_DECLINED;

    if (zone->members[to].generation == 0) {
        goto done;
    }

    rc = NGX_BUSY;

    for (i = 0; i < zone->channels; i++) {
        ch = &region->channels[i];

        if (ch->used) {
            continue;
        }

        /* who finds itself in these sees that it is not in use: _accept() */

        ngx_derp_release_fence();

        ch->from = region->slot;
        ch->from_generation = region->generation;
        ch->from_left = 0;
        ngx_derp_store(&ch->to, (uint16_t) to);
        ngx_derp_store(&ch->to_generation, zone->members[to].generation);
        ngx_derp_store(&ch->to_left, 0);
        ch->tail = 0;
        ch->head = 0;
        ch->wanted = 0;

        NGX_DERP_FAULT(channel_open);
        ngx_derp_store_release(&ch->used, 1);
        NGX_DERP_FAULT(channel_open_used);
        ngx_derp_add(&zone->channels_changed, 1);
        NGX_DERP_FAULT(channel_open_told);

        p->channel = ch;
        p->ring = region->rings + (size_t) i * zone->ring_size;
        p->size = zone->ring_size;
        p->offset = 0;
        p->tail = 0;
        p->head = 0;
        p->lock = NULL;
        p->stuck = 0;

        rc = NGX_OK;
        break;
    }

    if (rc == NGX_BUSY) {
        ngx_derp_add(&zone->channels_short, 1);
    }

done:

    ngx_derp_unlock(region);

    return rc;
}


u_char *
ngx_derp_channel_put(ngx_derp_producer_t *p, ngx_derp_route_t route,
    size_t len, ngx_uint_t packets, uint64_t born)
{
    size_t              size, needs;
    ngx_derp_record_t  *record;

    size = ngx_derp_record_size(len);
    needs = ngx_derp_channel_needs(p, size);

    if (!ngx_derp_channel_fits(p, needs)) {
        return NULL;
    }

    record = (ngx_derp_record_t *) (p->ring + p->offset);

    if (needs != size) {

        /*
         * The ring's end is skipped, and published by itself: a consumer that
         * has passed it leaves the whole ring, in which any frame fits (in an
         * inbox, that of the first to come).
         */

        record->len = 0;

        p->tail += needs;
        p->offset = 0;

        ngx_derp_channel_publish(p);

        if (!ngx_derp_channel_fits(p, size)) {
            return NULL;
        }

        record = (ngx_derp_record_t *) p->ring;
    }

    record->len = len;
    record->packets = packets;
    record->route = route;
    record->born = born;

    NGX_DERP_FAULT(channel_put);
    p->tail += size;
    p->offset += size;

    if (p->offset == p->size) {
        p->offset = 0;
    }

    return (u_char *) record + sizeof(ngx_derp_record_t);
}


/* Frames are whole in the ring: first what is left at its end is to be free. */

static size_t
ngx_derp_channel_needs(ngx_derp_producer_t *p, size_t size)
{
    return ngx_min(size, p->size - p->offset);
}


static ngx_uint_t
ngx_derp_channel_fits(ngx_derp_producer_t *p, size_t size)
{
    if (p->tail + size - p->head <= p->size) {
        return 1;
    }

    p->head = ngx_derp_load_acquire(&p->channel->head);

    /* others may have put something, which is taken already: that is later */

    if (p->lock) {
        p->tail = ngx_derp_load(&p->channel->tail);
    }

    return p->tail + size - p->head <= p->size;
}


void
ngx_derp_channel_publish(ngx_derp_producer_t *p)
{
    NGX_DERP_FAULT(channel_publish);
    ngx_derp_store_release(&p->channel->tail, p->tail);
    NGX_DERP_FAULT(channel_published);
}


ngx_int_t
ngx_derp_channel_want(ngx_derp_producer_t *p, size_t len)
{
    ngx_derp_store(&p->channel->wanted, 1);

    /* the consumer looks at it after it has taken something: see _wanted() */

    ngx_derp_barrier();
    NGX_DERP_FAULT(channel_want);

    len = ngx_derp_record_size(len);

    if (ngx_derp_channel_fits(p, ngx_derp_channel_needs(p, len))) {

        /* in an inbox it may be others' too */

        if (p->lock == NULL) {
            ngx_derp_store(&p->channel->wanted, 0);
        }

        return NGX_OK;
    }

    return NGX_AGAIN;
}


ngx_uint_t
ngx_derp_channel_broken(ngx_derp_region_t *region, ngx_derp_producer_t *p)
{
    ngx_derp_channel_t  *ch;

    ch = p->channel;

    return ngx_derp_load(&region->zone->members[ch->to].generation)
           != ch->to_generation;
}


ngx_uint_t
ngx_derp_channel_drained(ngx_derp_producer_t *p)
{
    return ngx_derp_load_acquire(&p->channel->head) >= p->tail;
}


ngx_int_t
ngx_derp_channel_close(ngx_derp_region_t *region, ngx_derp_producer_t *p)
{
    if (ngx_derp_lock(region) != NGX_OK) {
        return NGX_AGAIN;
    }

    /* with it all is seen that was published before */

    NGX_DERP_FAULT(channel_close);
    ngx_derp_store_release(&p->channel->from_left, 1);
    NGX_DERP_FAULT(channel_close_left);
    ngx_derp_channel_drop(region, p->channel);

    ngx_derp_unlock(region);

    p->channel = NULL;

    return NGX_OK;
}


static void
ngx_derp_channel_drop(ngx_derp_region_t *region, ngx_derp_channel_t *ch)
{
    if (ch->from_left && ch->to_left) {
        ngx_derp_store_release(&ch->used, 0);
        NGX_DERP_FAULT(channel_drop);
    }

    ngx_derp_add(&region->zone->channels_changed, 1);
}


ngx_int_t
ngx_derp_channel_accept(ngx_derp_region_t *region, ngx_uint_t *index,
    ngx_derp_consumer_t *c)
{
    ngx_derp_zone_t     *zone;
    ngx_derp_channel_t  *ch;

    zone = region->zone;

    while (*index < zone->channels) {

        ch = &region->channels[(*index)++];

        if (ngx_derp_load(&ch->to_generation) != region->generation
            || ngx_derp_load(&ch->to) != region->slot
            || ngx_derp_load(&ch->to_left))
        {
            continue;
        }

        /* it is this worker's until that lets go of it, or is being opened */

        ngx_derp_acquire_fence();

        if (!ngx_derp_load_acquire(&ch->used)) {
            continue;
        }

        c->channel = ch;
        c->ring = region->rings
                  + (size_t) (ch - region->channels) * zone->ring_size;
        c->head = ch->head;
        c->offset = ch->head % zone->ring_size;
        c->size = zone->ring_size;
        c->harmed = 0;

        return NGX_OK;
    }

    return NGX_DONE;
}


u_char *
ngx_derp_channel_get(ngx_derp_consumer_t *c, ngx_derp_record_t *record)
{
    u_char    *p;
    size_t     left;
    uint64_t   tail, published;

    for ( ;; ) {

        tail = ngx_derp_load_acquire(&c->channel->tail);

        if (tail == c->head) {
            return NULL;
        }

        /* it may have been left anywhere, and producers begin at a step */

        c->head = ngx_align(c->head, (uint64_t) NGX_DERP_RECORD_ALIGN);
        c->offset = ngx_align(c->offset, NGX_DERP_RECORD_ALIGN) % c->size;

        published = tail - c->head;
        left = c->size - c->offset;

        if (published > c->size || published < NGX_DERP_RECORD_ALIGN) {
            return ngx_derp_channel_harmed(c);
        }

        p = c->ring + c->offset;

        /* the end of the ring that is skipped may be less than a record */

        if (((ngx_derp_record_t *) p)->len == 0) {

            if (left > published) {
                return ngx_derp_channel_harmed(c);
            }

            ngx_derp_channel_pass(c, left);
            continue;
        }

        if (left < sizeof(ngx_derp_record_t)) {
            return ngx_derp_channel_harmed(c);
        }

        *record = *(ngx_derp_record_t *) p;

        if (record->len == 0
            || record->len > left - sizeof(ngx_derp_record_t)
            || ngx_derp_record_size(record->len) > published
            || record->packets == 0)
        {
            return ngx_derp_channel_harmed(c);
        }

        return p + sizeof(ngx_derp_record_t);
    }
}


static u_char *
ngx_derp_channel_harmed(ngx_derp_consumer_t *c)
{
    c->harmed = 1;
    ngx_derp_channel_discard(c);

    return NULL;
}


void
ngx_derp_channel_discard(ngx_derp_consumer_t *c)
{
    c->head = ngx_derp_load_acquire(&c->channel->tail);
    c->offset = c->head % c->size;

    ngx_derp_store_release(&c->channel->head, c->head);
}


void
ngx_derp_channel_take(ngx_derp_consumer_t *c, ngx_derp_record_t *record)
{
    ngx_derp_channel_pass(c, ngx_derp_record_size(record->len));
}


static void
ngx_derp_channel_pass(ngx_derp_consumer_t *c, size_t size)
{
    c->head += size;
    c->offset += size;

    if (c->offset == c->size) {
        c->offset = 0;
    }

    NGX_DERP_FAULT(channel_take);
    ngx_derp_store_release(&c->channel->head, c->head);
}


ngx_uint_t
ngx_derp_channel_wanted(ngx_derp_consumer_t *c)
{
    /* orders what was taken before the look: see _want() */

    ngx_derp_barrier();

    if (ngx_derp_load(&c->channel->wanted) == 0
        || ngx_derp_exchange(&c->channel->wanted, 0) == 0)
    {
        return NGX_DERP_NO_SLOT;
    }

    NGX_DERP_FAULT(channel_wanted);

    return ngx_min(c->channel->from, NGX_DERP_NO_SLOT);
}


ngx_uint_t
ngx_derp_channel_ended(ngx_derp_consumer_t *c)
{
    return ngx_derp_load_acquire(&c->channel->from_left);
}


ngx_int_t
ngx_derp_channel_release(ngx_derp_region_t *region, ngx_derp_consumer_t *c)
{
    if (ngx_derp_lock(region) != NGX_OK) {
        return NGX_AGAIN;
    }

    NGX_DERP_FAULT(channel_release);
    ngx_derp_store(&c->channel->to_left, 1);
    NGX_DERP_FAULT(channel_release_left);
    ngx_derp_channel_drop(region, c->channel);

    ngx_derp_unlock(region);

    c->channel = NULL;

    return NGX_OK;
}


void
ngx_derp_channel_remove_slot(ngx_derp_region_t *region, ngx_uint_t slot)
{
    ngx_uint_t           i;
    ngx_derp_channel_t  *ch;

    /*
     * The members' generations tell this slot's claim from the ones before,
     * whose ends have been let go of already.
     */

    for (i = 0; i < region->zone->channels; i++) {
        ch = &region->channels[i];

        if (!ch->used) {
            continue;
        }

        if (ch->from == slot
            && ch->from_generation == region->zone->members[slot].generation)
        {
            ngx_derp_store_release(&ch->from_left, 1);
            NGX_DERP_FAULT(channel_remove_from);
            ngx_derp_channel_drop(region, ch);
        }

        if (ch->to == slot
            && ch->to_generation == region->zone->members[slot].generation)
        {
            ngx_derp_store(&ch->to_left, 1);
            NGX_DERP_FAULT(channel_remove_to);
            ngx_derp_channel_drop(region, ch);
        }
    }
}
