
/*
 * The other worker: it has a client and a link, or has died.  Its commands are
 * here, too.
 */


#include "session.h"
#include "ngx_derp_inbox.h"
#include "ngx_derp_registry.h"
#include "ngx_derp_slot.h"
#include "ngx_derp_zone.h"


static ngx_derp_region_t    fuzz_other;
static ngx_derp_producer_t  fuzz_producer;
static ngx_derp_consumer_t  fuzz_inbox;
static ngx_derp_route_t     fuzz_other_route;
static ngx_derp_route_t     fuzz_other_link;
static ngx_uint_t           fuzz_other_lives;


static void fuzz_other_takes_from(ngx_derp_consumer_t *consumer, ngx_uint_t n);


void
fuzz_other_join(void)
{
    ngx_uint_t  slot;

    slot = ngx_derp_slot_claim();
    stub_assert(slot != NGX_DERP_NO_SLOT);

    fuzz_other.zone = fuzz_memory;
    stub_assert(ngx_derp_zone_open(&fuzz_other, fuzz_memory) == NGX_OK);
    stub_assert(ngx_derp_zone_join(&fuzz_other, slot,
                                   ngx_derp_worker.bell->fd, &stub_log)
                == NGX_OK);

    stub_assert(ngx_derp_inbox_accept(&fuzz_other, &fuzz_inbox) == NGX_OK);

    fuzz_producer.channel = NULL;
    fuzz_other_route = NGX_DERP_NO_ROUTE;
    fuzz_other_link = NGX_DERP_NO_ROUTE;
    fuzz_other_lives = 1;
}


void
fuzz_other_leave(void)
{
    if (fuzz_other_lives) {
        ngx_derp_zone_leave(&fuzz_other);
        ngx_derp_slot_release(fuzz_other.slot);
        fuzz_other_lives = 0;
    }
}


void
fuzz_other_changes(fuzz_input_t *in)
{
    uint32_t            index;
    ngx_uint_t          what, n;
    ngx_derp_client_t   client;
    ngx_derp_handle_t   handle;

    what = fuzz_byte(in);
    index = 0;

    if (!fuzz_other_lives) {
        fuzz_other_join();
        return;
    }

    switch (what % 6) {

    case 0:
        if (fuzz_other_route != NGX_DERP_NO_ROUTE) {
            stub_assert(ngx_derp_registry_remove(&fuzz_other, fuzz_other_route,
                                                 &index)
                        == NGX_OK);
            fuzz_other_route = NGX_DERP_NO_ROUTE;
            break;
        }

        /* a key of its own, or one that we have, too */

        ngx_memzero(&client, sizeof(client));
        ngx_memcpy(client.key,
                   fuzz_public[what & 0x80 ? what / 8 % FUZZ_CLIENTS
                                           : FUZZ_KEY_OTHER],
                   NGX_DERP_KEY_LEN);
        client.flags = NGX_DERP_PRESENT_REGULAR;

        (void) ngx_derp_registry_add(&fuzz_other, &client, &fuzz_other_route,
                                     &handle);
        break;

    case 1:
        if (fuzz_other_link == NGX_DERP_NO_ROUTE) {
            (void) ngx_derp_registry_add_link(&fuzz_other, 77,
                                              &fuzz_other_link);
            break;
        }

        stub_assert(ngx_derp_registry_remove(&fuzz_other, fuzz_other_link,
                                             &index)
                    == NGX_OK);
        fuzz_other_link = NGX_DERP_NO_ROUTE;
        break;

    case 2:
        if (fuzz_other_link != NGX_DERP_NO_ROUTE) {
            (void) ngx_derp_registry_announce(&fuzz_other, fuzz_other_link,
                                   fuzz_public[what & 0x80 ? FUZZ_KEY_REMOTE
                                                           : FUZZ_KEY_FAR]);
        }

        break;

    case 3:
        if (fuzz_other_route != NGX_DERP_NO_ROUTE) {
            (void) ngx_derp_registry_activate(&fuzz_other, fuzz_other_route);
        }

        break;

    case 4:
        (void) ngx_derp_registry_close(&fuzz_other,
                                       fuzz_public[what / 8 % FUZZ_CLIENTS],
                                       &n);
        break;

    default:

        /* it dies, with all that it has; the kernel says so */

        ngx_derp_slot_release(fuzz_other.slot);
        fuzz_other_lives = 0;
        return;
    }

    ngx_derp_region_ring(&fuzz_other);
}


/* it sends a packet to where a client of ours is, or was */

void
fuzz_other_sends(fuzz_input_t *in)
{
    u_char            *p;
    size_t             size, len;
    ngx_uint_t         key, disco;
    ngx_derp_route_t   route;
    ngx_derp_handle_t  handle;

    static ngx_derp_route_t  last;

    key = fuzz_byte(in);
    size = fuzz_size(in);

    if (!fuzz_other_lives || size > NGX_DERP_MAX_PACKET) {
        return;
    }

    disco = key & 0x80;

    handle.generation = 0;
    route = ngx_derp_registry_find(&fuzz_other, fuzz_public[key % FUZZ_KEYS],
                                   &handle);

    if (key & 0x40) {
        route = last;
    }

    if (route == NGX_DERP_NO_ROUTE
        || ngx_derp_route_slot(route) != ngx_derp_worker.slot
        || ngx_derp_route_index(route) >= FUZZ_CAPACITY)
    {
        return;
    }

    last = route;

    if (fuzz_producer.channel == NULL
        && ngx_derp_channel_open(&fuzz_other, ngx_derp_worker.slot,
                                 &fuzz_producer)
           != NGX_OK)
    {
        stub_assert(ngx_derp_inbox_open(&fuzz_other, ngx_derp_worker.slot,
                                        &fuzz_producer)
                    == NGX_OK);
    }

    stub_assert(ngx_derp_inbox_enter(&fuzz_producer) == NGX_OK);

    len = NGX_DERP_PACKET_OFFSET + size;

    if (route & NGX_DERP_ROUTE_LINK) {
        len += NGX_DERP_KEY_LEN;
    }

    p = ngx_derp_channel_put(&fuzz_producer, route, len, 1, 0);
    if (p == NULL) {
        ngx_derp_inbox_leave(&fuzz_producer);
        return;
    }

    p = ngx_derp_put_header(p, route & NGX_DERP_ROUTE_LINK
                               ? NGX_DERP_FORWARD_PACKET : NGX_DERP_RECV_PACKET,
                            len - NGX_DERP_HEADER_LEN);
    p = ngx_cpymem(p, fuzz_public[FUZZ_KEY_OTHER], NGX_DERP_KEY_LEN);

    if (route & NGX_DERP_ROUTE_LINK) {
        p = ngx_cpymem(p, fuzz_public[FUZZ_KEY_REMOTE], NGX_DERP_KEY_LEN);
    }

    fuzz_fill(p, size, disco);

    ngx_derp_channel_publish(&fuzz_producer);
    ngx_derp_inbox_leave(&fuzz_producer);
    ngx_derp_slot_ring(ngx_derp_worker.slot, fuzz_other.bell, &stub_log);
}


/*
 * It sends, and then some of what it has written is another value: where the
 * ring ends, what a record says, a byte of its frames.
 */

void
fuzz_other_spoils(fuzz_input_t *in)
{
    u_char              *p;
    size_t               offset;
    ngx_uint_t           what, value;
    ngx_derp_record_t   *record;
    ngx_derp_channel_t  *ch;

    fuzz_other_sends(in);

    what = fuzz_byte(in);
    value = fuzz_short(in);

    if (!fuzz_other_lives || fuzz_producer.channel == NULL) {
        return;
    }

    fuzz_raw = 1;
    stub_alerts_allowed = 1;

    ch = fuzz_producer.channel;
    offset = ch->head % fuzz_producer.size / NGX_DERP_RECORD_ALIGN
             * NGX_DERP_RECORD_ALIGN;

    p = fuzz_producer.ring + offset;
    record = (ngx_derp_record_t *) p;

    if (what % 8 == 0) {
        ch->tail += what & 0x80 ? value * NGX_DERP_RECORD_ALIGN : value;
        return;
    }

    /* the rest of a ring may be too short for one */

    if (fuzz_producer.size - offset < sizeof(ngx_derp_record_t)
                                      + NGX_DERP_HEADER_LEN)
    {
        return;
    }

    p += sizeof(ngx_derp_record_t);

    switch (what % 8) {

    case 1:
        record->len = value << (what >> 4);
        break;

    case 2:

        /* the frame agrees */

        record->len = value;
        ngx_derp_put_header(p, p[0], value - NGX_DERP_HEADER_LEN);
        break;

    case 3:
        record->packets = value;
        break;

    case 4:
        record->route ^= (uint64_t) value << (what & 0x80 ? 48 : 24);
        break;

    case 5:
        record->born = value;
        break;

    default:
        p[ngx_min(value, fuzz_producer.size - offset - 1
                         - sizeof(ngx_derp_record_t))]
            = (u_char) what;
    }
}


/* it takes what we have sent, so many packets of each channel and its inbox */

void
fuzz_other_takes(fuzz_input_t *in)
{
    ngx_uint_t            n, index;
    ngx_derp_consumer_t   consumer;

    n = fuzz_byte(in);
    index = 0;

    if (!fuzz_other_lives) {
        return;
    }

    while (ngx_derp_channel_accept(&fuzz_other, &index, &consumer) == NGX_OK) {
        fuzz_other_takes_from(&consumer, n);
    }

    fuzz_other_takes_from(&fuzz_inbox, n);
}


static void
fuzz_other_takes_from(ngx_derp_consumer_t *consumer, ngx_uint_t n)
{
    u_char             *p, *last;
    size_t              size, len;
    ngx_uint_t          slot, i;
    ngx_derp_record_t   record;

    for ( /* void */ ; n; n--) {
        p = ngx_derp_channel_get(consumer, &record);
        stub_assert(!consumer->harmed);

        if (p == NULL) {
            break;
        }

        last = p + record.len;
        size = NGX_DERP_PACKET_OFFSET
               + (record.route & NGX_DERP_ROUTE_LINK ? NGX_DERP_KEY_LEN : 0);

        for (i = 0; i < record.packets; i++) {
            len = ngx_derp_frame_len(p);

            stub_assert(len >= size && len <= (size_t) (last - p));
            fuzz_check_packet(p + size, len - size);

            p += len;
        }

        stub_assert(p == last);

        ngx_derp_channel_take(consumer, &record);
    }

    slot = ngx_derp_channel_wanted(consumer);

    if (slot == fuzz_other.slot) {
        fuzz_other.everybody = 1;
        ngx_derp_region_ring(&fuzz_other);

    } else if (slot != NGX_DERP_NO_SLOT) {
        ngx_derp_slot_ring(slot, fuzz_other.bell, &stub_log);
    }
}
