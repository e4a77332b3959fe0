
/*
 * Records whose sizes are wrong: each is found when it is taken, nothing
 * outside of the ring is touched, and what comes after it is taken as ever.
 */


#include "model.h"

#include <stdio.h>
#include <sys/mman.h>


#define RECORD_LEN  100


static model_worker_t        from, to;
static ngx_derp_producer_t  *producer;
static ngx_derp_consumer_t   consumer;


static ngx_derp_record_t *
record_put(uint64_t number)
{
    u_char  *p;

    p = ngx_derp_channel_put(producer, 1, RECORD_LEN, 1, 0);
    model_assert(p, "no room");

    model_fill(p, RECORD_LEN, number);

    return (ngx_derp_record_t *) (p - sizeof(ngx_derp_record_t));
}


static void
record_is_taken(const char *what, uint64_t number)
{
    u_char             *p;
    ngx_derp_record_t   record;

    p = ngx_derp_channel_get(&consumer, &record);

    model_assert(p && !consumer.harmed, "%s: the next one is not there", what);
    model_verify(p, record.len, number);

    ngx_derp_channel_take(&consumer, &record);
}


static void
record_is_dropped(const char *what)
{
    u_char             *p;
    ngx_derp_record_t   record;

    ngx_derp_channel_publish(producer);

    p = ngx_derp_channel_get(&consumer, &record);

    model_assert(p == NULL && consumer.harmed, "%s is not found", what);
    model_assert(ngx_derp_load(&consumer.channel->head)
                 == ngx_derp_load(&consumer.channel->tail),
                 "%s: something is left", what);

    consumer.harmed = 0;

    model_assert(ngx_derp_channel_get(&consumer, &record) == NULL
                 && !consumer.harmed, "%s: it is found again", what);

    (void) record_put(7);
    ngx_derp_channel_publish(producer);
    record_is_taken(what, 7);
}


int
main(void)
{
    void               *memory;
    uint64_t            tail;
    ngx_uint_t          index;
    ngx_derp_region_t   region;
    ngx_derp_record_t   record, *r;

    memory = mmap(NULL, MODEL_MEMORY, PROT_READ|PROT_WRITE,
                  MAP_ANON|MAP_SHARED, -1, 0);
    model_assert(memory != MAP_FAILED, "mmap");

    model_create(&region, memory, 64, 64, NGX_DERP_RING_MIN);
    model_join(&from, memory, 0);
    model_join(&to, memory, 1);

    producer = &from.producers[0];
    index = 0;

    model_assert(ngx_derp_channel_open(&from.region, to.region.slot, producer)
                 == NGX_OK
                 && ngx_derp_channel_accept(&to.region, &index, &consumer)
                    == NGX_OK, "no channel");

    (void) record_put(1);
    ngx_derp_channel_publish(producer);
    record_is_taken("none", 1);

    r = record_put(2);
    r->len = RECORD_LEN + 16;
    record_is_dropped("a record longer than what is published");

    r = record_put(2);
    r->len = (uint32_t) -1;
    record_is_dropped("a record longer than the ring");

    r = record_put(2);
    r->len = 0;
    record_is_dropped("a skip over what is not published");

    r = record_put(2);
    r->packets = 0;
    record_is_dropped("a record of no packets");

    /* the producer's own tail is right, and is published next time */

    tail = producer->tail;
    producer->tail += producer->size + NGX_DERP_RECORD_ALIGN;
    ngx_derp_channel_publish(producer);

    model_assert(ngx_derp_channel_get(&consumer, &record) == NULL
                 && consumer.harmed, "a tail beyond the ring is not found");

    consumer.harmed = 0;
    producer->tail = tail;
    (void) record_put(3);
    ngx_derp_channel_publish(producer);

    model_assert(ngx_derp_channel_get(&consumer, &record) == NULL
                 && consumer.harmed, "a tail behind the head is not found");

    consumer.harmed = 0;
    producer->head = ngx_derp_load(&consumer.channel->head);
    (void) record_put(4);
    ngx_derp_channel_publish(producer);
    record_is_taken("a wrong tail", 4);

    printf("record: each wrong size was found, and nothing else lost\n");

    return 0;
}
