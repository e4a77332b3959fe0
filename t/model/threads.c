
/*
 * Workers as threads, so that a thread sanitizer sees all that they share.
 *
 *     threads [seconds]
 *
 * First two threads that send one record to and fro, then a producer and a
 * consumer with a ring of a few records, then two who share a third one's inbox.
 * They sleep whenever there is nothing to do: a bell that is not rung is a
 * thread that sleeps for ever.  Then two threads, and four, that do what workers
 * do; now and then they all stand still, and the region is looked at.
 */


#include "model.h"

#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>


#define THREADS_MAX       4
#define THREADS_PATIENCE  10000         /* ms */
#define THREADS_RATE      20000         /* records a second, or more */
#define THREADS_RING      256
#define THREADS_RECORD    100


typedef struct {
    pthread_t           id;
    ngx_uint_t          n;
    model_worker_t      worker;
} threads_thread_t;


static void               *memory;
static ngx_derp_region_t   region;
static pthread_barrier_t   barrier;
static uint32_t            halting, ending, ended, nframes;
static uint64_t            steps;
static threads_thread_t    threads[THREADS_MAX];


static void
threads_begin(uint32_t capacity, uint32_t ring_size)
{
    memory = mmap(NULL, MODEL_MEMORY, PROT_READ|PROT_WRITE,
                  MAP_ANON|MAP_SHARED, -1, 0);
    model_assert(memory != MAP_FAILED, "mmap");

    model_create(&region, memory, capacity, 64, ring_size);

    model_history = calloc(capacity, sizeof(model_history_t));
    model_assert(model_history, "calloc");
}


static void
threads_end(void)
{
    (void) munmap(memory, MODEL_MEMORY);
    free(model_history);
    model_history = NULL;
}


static void
threads_leave(model_worker_t *w)
{
    ngx_derp_zone_leave(&w->region);
    ngx_derp_slot_release(w->region.slot);
    (void) close(w->bell);
}


/* Sleeps, if there is still nothing to do once it has said so. */

static void
threads_sleep(model_worker_t *w, ngx_uint_t (*pending)(model_worker_t *w))
{
    u_char         ring;
    struct pollfd  pfd;

    ngx_derp_slot_sleep(w->region.slot);

    if (!pending(w)) {
        pfd.fd = w->bell;
        pfd.events = POLLIN;

        model_assert(poll(&pfd, 1, THREADS_PATIENCE) == 1,
                     "worker %u was not rung", (unsigned) w->n);
    }

    /* each ring is a byte of its own */

    while (read(w->bell, &ring, 1) > 0) { /* void */ }

    ngx_derp_slot_wake(w->region.slot);
}


/* so that they meet at any two instructions */

static void
threads_spin(model_worker_t *w)
{
    volatile uint64_t  n;

    for (n = model_random(&w->random) % 512; n; n--) { /* void */ }
}


static ngx_uint_t
threads_room(model_worker_t *w)
{
    return !ngx_derp_load(&w->producers[0].channel->wanted);
}


static ngx_uint_t
threads_data(model_worker_t *w)
{
    return (w->nconsumers == 0
            && ngx_derp_load(&w->region.zone->channels_changed) != w->known)
           || (w->nconsumers
               && ngx_derp_load(&w->consumers[0].channel->tail)
                  != w->consumers[0].head);
}


static void
threads_accept(model_worker_t *w)
{
    ngx_uint_t  index;

    w->known = ngx_derp_load_acquire(&w->region.zone->channels_changed);

    index = 0;
    w->nconsumers = (ngx_derp_channel_accept(&w->region, &index,
                                             &w->consumers[0])
                     == NGX_OK);
}


static void
threads_open(model_worker_t *w, ngx_uint_t to)
{
    ngx_int_t  rc;

    do {
        rc = ngx_derp_channel_open(&w->region, to, &w->producers[0]);
    } while (rc == NGX_AGAIN);

    model_assert(rc == NGX_OK, "open");
}


/* Both do this; who is the first begins. */

static void *
threads_pong(void *data)
{
    u_char               *p;
    uint32_t              i, n;
    ngx_uint_t            to;
    model_worker_t       *w;
    threads_thread_t     *t = data;
    ngx_derp_record_t     record;
    ngx_derp_producer_t  *producer;

    w = &t->worker;

    model_join(w, memory, t->n);
    (void) pthread_barrier_wait(&barrier);

    producer = &w->producers[0];
    to = threads[!t->n].worker.region.slot;

    threads_open(w, to);

    for (i = 0; i < nframes; i++) {

        while (i || t->n) {

            if (w->nconsumers == 0) {
                threads_accept(w);
            }

            if (w->nconsumers
                && (p = ngx_derp_channel_get(&w->consumers[0], &record)))
            {
                model_verify(p, record.len, i - !t->n);
                ngx_derp_channel_take(&w->consumers[0], &record);
                break;
            }

            /* about as long as the other takes, or it always sleeps too */

            for (n = model_random(&w->random) % 64;
                 n && !threads_data(w);
                 n--)
            {
                ngx_cpu_pause();
            }

            if (n == 0) {
                threads_sleep(w, threads_data);
            }
        }

        p = ngx_derp_channel_put(producer, i + 1, 8, 1, 0);
        model_assert(p, "no room for the only one");
        model_fill(p, 8, i);

        ngx_derp_channel_publish(producer);
        ngx_derp_slot_ring(to, w->bell, &model_log);
    }

    (void) pthread_barrier_wait(&barrier);
    threads_leave(w);

    return NULL;
}


static void *
threads_produce(void *data)
{
    u_char               *p;
    size_t                len;
    uint32_t              i;
    ngx_uint_t            to;
    model_worker_t       *w;
    threads_thread_t     *t = data;
    ngx_derp_producer_t  *producer;

    w = &t->worker;

    model_join(w, memory, t->n);
    (void) pthread_barrier_wait(&barrier);

    producer = &w->producers[0];
    to = threads[1].worker.region.slot;

    threads_open(w, to);

    for (i = 0; i < nframes; i++) {
        len = 8 + model_random(&w->random) % (THREADS_RECORD - 8);
        threads_spin(w);

        while ((p = ngx_derp_channel_put(producer, i + 1, len, 1, 0)) == NULL) {

            ngx_derp_channel_publish(producer);
            ngx_derp_slot_ring(to, w->bell, &model_log);

            if (ngx_derp_channel_want(producer, len) == NGX_AGAIN) {
                threads_sleep(w, threads_room);
            }
        }

        model_fill(p, len, i);

        if (model_random(&w->random) % 2) {
            ngx_derp_channel_publish(producer);
            ngx_derp_slot_ring(to, w->bell, &model_log);
        }
    }

    ngx_derp_channel_publish(producer);
    ngx_derp_slot_ring(to, w->bell, &model_log);

    (void) pthread_barrier_wait(&barrier);
    threads_leave(w);

    return NULL;
}


static void *
threads_consume(void *data)
{
    u_char               *p;
    uint32_t              i;
    ngx_uint_t            slot;
    model_worker_t       *w;
    threads_thread_t     *t = data;
    ngx_derp_record_t     record;
    ngx_derp_consumer_t  *c;

    w = &t->worker;

    model_join(w, memory, t->n);
    (void) pthread_barrier_wait(&barrier);

    c = &w->consumers[0];
    for (i = 0; i < nframes; /* void */) {

        if (w->nconsumers == 0) {
            threads_accept(w);
        }

        while (w->nconsumers && (p = ngx_derp_channel_get(c, &record))) {
            model_assert(record.route == i + 1, "out of order");
            model_verify(p, record.len, i++);

            threads_spin(w);
            ngx_derp_channel_take(c, &record);

            slot = ngx_derp_channel_wanted(c);

            if (slot != NGX_DERP_NO_SLOT) {
                ngx_derp_slot_ring(slot, w->bell, &model_log);
            }
        }

        if (i < nframes) {
            threads_sleep(w, threads_data);
        }
    }

    (void) pthread_barrier_wait(&barrier);
    threads_leave(w);

    return NULL;
}


static ngx_uint_t
threads_inbox_room(model_worker_t *w)
{
    ngx_derp_producer_t  *p;

    p = &w->sharers[0];

    return !ngx_derp_load(&p->channel->wanted)
           || ngx_derp_load(&p->channel->head) != p->head;
}


static ngx_uint_t
threads_inbox_data(model_worker_t *w)
{
    return ngx_derp_load(&w->inbox.channel->tail) != w->inbox.head;
}


/* Large ones, of which the inbox holds few. */

static void *
threads_share(void *data)
{
    u_char               *p;
    size_t                len;
    uint32_t              i;
    ngx_uint_t            to;
    model_worker_t       *w;
    threads_thread_t     *t = data;
    ngx_derp_producer_t  *producer;

    w = &t->worker;

    model_join(w, memory, t->n);
    (void) pthread_barrier_wait(&barrier);

    producer = &w->sharers[0];
    to = threads[2].worker.region.slot;

    model_assert(ngx_derp_inbox_open(&w->region, to, producer) == NGX_OK,
                 "open");

    for (i = 0; i < nframes; /* void */) {
        len = 8 + model_random(&w->random) % 30000;

        while (ngx_derp_inbox_enter(producer) != NGX_OK) { /* void */ }

        p = ngx_derp_channel_put(producer, t->n, len, 1, 0);

        if (p) {
            model_fill(p, len, i++);
            ngx_derp_channel_publish(producer);
        }

        ngx_derp_inbox_leave(producer);
        ngx_derp_slot_ring(to, w->bell, &model_log);

        if (p == NULL && ngx_derp_channel_want(producer, len) == NGX_AGAIN) {
            threads_sleep(w, threads_inbox_room);
        }
    }

    (void) pthread_barrier_wait(&barrier);
    threads_leave(w);

    return NULL;
}


static void *
threads_empty(void *data)
{
    u_char             *p;
    uint32_t            numbers[2] = { 0, 0 };
    model_worker_t     *w;
    threads_thread_t   *t = data;
    ngx_derp_record_t   record;

    w = &t->worker;

    model_join(w, memory, t->n);
    (void) pthread_barrier_wait(&barrier);

    while (numbers[0] + numbers[1] < 2 * nframes) {

        while ((p = ngx_derp_channel_get(&w->inbox, &record))) {
            model_verify(p, record.len, numbers[record.route]++);
            ngx_derp_channel_take(&w->inbox, &record);

            if (ngx_derp_channel_wanted(&w->inbox) == w->region.slot) {
                w->region.everybody = 1;
                ngx_derp_region_ring(&w->region);
            }
        }

        if (numbers[0] + numbers[1] < 2 * nframes) {
            threads_sleep(w, threads_inbox_data);
        }
    }

    (void) pthread_barrier_wait(&barrier);
    threads_leave(w);

    return NULL;
}


static void
threads_together(void *(*work[])(void *), ngx_uint_t n)
{
    ngx_uint_t  i;

    threads_begin(64, THREADS_RING);

    (void) pthread_barrier_init(&barrier, NULL, n);

    for (i = 0; i < n; i++) {
        threads[i].n = i;
        (void) pthread_create(&threads[i].id, NULL, work[i], &threads[i]);
    }

    for (i = 0; i < n; i++) {
        (void) pthread_join(threads[i].id, NULL);
    }

    (void) pthread_barrier_destroy(&barrier);

    threads_end();
}


static void *
threads_work(void *data)
{
    uint64_t           i;
    model_worker_t    *w;
    threads_thread_t  *t = data;

    w = &t->worker;

    model_join(w, memory, t->n);

    for (i = 0; /* void */ ; i++) {

        if (!ngx_derp_load(&halting)) {
            model_step(w);
            continue;
        }

        (void) pthread_barrier_wait(&barrier);

        if (t->n == 0) {
            model_check_region(&region);

            ngx_derp_store(&ended, ngx_derp_load(&ending));
            ngx_derp_store(&halting, 0);
        }

        model_replay(w);
        model_check_worker(w);

        (void) pthread_barrier_wait(&barrier);

        if (ngx_derp_load(&ended)) {
            break;
        }
    }

    threads_leave(w);

    (void) __atomic_add_fetch(&steps, i, __ATOMIC_RELAXED);

    return NULL;
}


static void
threads_run(ngx_uint_t n, time_t seconds)
{
    time_t          end;
    uint32_t        id;
    ngx_uint_t      i;
    model_worker_t  base;

    threads_begin(MODEL_KEYS / 4 + n * MODEL_MAX_OWN, NGX_DERP_RING_MIN);

    model_join(&base, memory, 100);

    model_permanent = MODEL_KEYS - MODEL_MAX_OWN;

    for (id = model_permanent; id < MODEL_KEYS; id++) {
        model_assert(model_add(&base, id) == NGX_OK, "full or locked");
    }

    (void) pthread_barrier_init(&barrier, NULL, n);

    end = time(NULL) + seconds;
    ending = 0;
    ended = 0;
    halting = 0;

    for (i = 0; i < n; i++) {
        threads[i].n = i;
        (void) pthread_create(&threads[i].id, NULL, threads_work, &threads[i]);
    }

    while (time(NULL) < end) {
        usleep(100000);
        ngx_derp_store(&halting, 1);
    }

    ngx_derp_store(&ending, 1);

    while (!ngx_derp_load(&ended)) {
        ngx_derp_store(&halting, 1);
        usleep(1000);
    }

    for (i = 0; i < n; i++) {
        (void) pthread_join(threads[i].id, NULL);
    }

    /* one that did not get the lock for a second has left it to others */

    model_reap(&region);

    model_check_region(&region);
    threads_leave(&base);

    (void) pthread_barrier_destroy(&barrier);

    model_permanent = MODEL_KEYS;
    threads_end();
}


int
main(int argc, char **argv)
{
    time_t  seconds;

    static void  *(*ping_pong[])(void *) = { threads_pong, threads_pong };
    static void  *(*channel[])(void *) = { threads_produce, threads_consume };
    static void  *(*inbox[])(void *) = { threads_share, threads_share,
                                         threads_empty };

    seconds = argc > 1 ? atoi(argv[1]) : 20;

    setvbuf(stdout, NULL, _IOLBF, 0);

    nframes = seconds * THREADS_RATE;

    threads_together(ping_pong, 2);
    threads_together(channel, 2);

    printf("threads: %u records to and fro, %u through a small ring, nobody "
           "slept for ever\n", nframes, nframes);

    nframes /= 10;
    threads_together(inbox, 3);

    printf("threads: twice %u records through one inbox\n", nframes);

    threads_run(2, seconds / 4 + 1);
    threads_run(4, seconds / 4 + 1);

    printf("threads: %llu steps by two and by four threads\n",
           (unsigned long long) steps);

    return 0;
}
