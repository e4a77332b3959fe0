
/*
 * What the models have in common.
 */


#include "model.h"

#include <stdarg.h>
#include <stdio.h>


/* of nginx */

ngx_pid_t             ngx_pid;
ngx_uint_t            ngx_process = NGX_PROCESS_WORKER;
volatile ngx_cycle_t *ngx_cycle;

uint32_t              model_permanent = MODEL_KEYS;
model_history_t      *model_history;

/* it stands still */
static ngx_time_t      model_time;
volatile ngx_time_t   *ngx_cached_time = &model_time;

ngx_log_t             model_log = { .log_level = NGX_LOG_ERR };


void
ngx_log_error_core(ngx_uint_t level, ngx_log_t *log, ngx_err_t err,
    const char *fmt, ...)
{
    fprintf(stderr, "log %d: %s (%d)\n", (int) level, fmt, (int) err);
}


void
model_fail(const char *file, int line, const char *what, const char *fmt, ...)
{
    va_list  args;
    char     text[512];

    va_start(args, fmt);
    (void) vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);

    fprintf(stderr, "%s:%d: [%d] not so: %s: %s\n", file, line, (int) getpid(),
            what, text);

    _exit(70);
}


/* splitmix64 */

uint64_t
model_random(uint64_t *state)
{
    uint64_t  z;

    z = (*state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;

    return z ^ (z >> 31);
}


void
model_key(u_char *key, uint32_t id)
{
    size_t    i;
    uint64_t  state, v;

    state = id;

    for (i = 0; i < NGX_DERP_KEY_LEN; i += 8) {
        v = model_random(&state);
        ngx_memcpy(key + i, &v, 8);
    }

    ngx_memcpy(key, &id, sizeof(id));
}


static uint32_t
model_key_id(u_char *key)
{
    u_char    whole[NGX_DERP_KEY_LEN];
    uint32_t  id;

    ngx_memcpy(&id, key, sizeof(id));
    model_key(whole, id);

    model_assert(id < MODEL_KEYS
                 && ngx_memcmp(whole, key, NGX_DERP_KEY_LEN) == 0,
                 "a key that never was, id %u", id);
    return id;
}


void
model_client(ngx_derp_client_t *client, uint32_t id, uint32_t nonce)
{
    uint64_t  state, v;

    model_key(client->key, id);

    state = (uint64_t) id << 32 | nonce;
    ngx_memcpy(client->addr, &state, 8);

    v = model_random(&state);
    ngx_memcpy(client->addr + 8, &v, 8);

    v = model_random(&state);
    client->port = (in_port_t) v;
    client->flags = (uint8_t) (v >> 16);
}


static void
model_check_client(ngx_derp_client_t *client)
{
    uint32_t           id, nonce;
    ngx_derp_client_t  whole;

    id = model_key_id(client->key);
    ngx_memcpy(&nonce, client->addr, sizeof(nonce));
    model_client(&whole, id, nonce);

    model_assert(ngx_memcmp(whole.addr, client->addr, 16) == 0
                 && whole.port == client->port
                 && whole.flags == client->flags,
                 "a client made of two, id %u", id);
}


void
model_fill(u_char *p, size_t len, uint64_t number)
{
    ngx_memcpy(p, &number, 8);
    ngx_memset(p + 8, (u_char) number, len - 8);
}


void
model_verify(u_char *p, size_t len, uint64_t number)
{
    size_t    i;
    uint64_t  n;

    ngx_memcpy(&n, p, 8);
    model_assert(n == number, "record %llu instead of %llu",
                 (unsigned long long) n, (unsigned long long) number);

    for (i = 8; i < len; i++) {
        model_assert(p[i] == (u_char) number, "record %llu harmed at %zu",
                     (unsigned long long) number, i);
    }
}


void
model_create(ngx_derp_region_t *region, void *memory, uint32_t capacity,
    uint32_t entries, uint32_t ring_size)
{
    model_assert(ngx_derp_key_init() == NGX_OK, "no randomness");
    model_assert(ngx_derp_slots_init(&model_log) == NGX_OK, "no slots");
    model_assert(ngx_derp_zone_create(region, memory, MODEL_MEMORY, 4)
                 == NGX_OK, "no region");

    /* few buckets make chains */

    region->zone->capacity = capacity;
    region->zone->buckets = 16;
    region->zone->entries = entries;
    region->zone->ring_size = ring_size;

    region->slot = NGX_DERP_NO_SLOT;
    region->bell = socket(AF_UNIX, SOCK_DGRAM|SOCK_NONBLOCK, 0);
    region->log = &model_log;

    model_assert(ngx_derp_zone_open(region, memory) == NGX_OK, "layout");
}


/* As a watcher begins: a cursor first, then all who are there. */

static void
model_flood(model_worker_t *w)
{
    uint32_t           index;
    ngx_int_t          rc;
    ngx_uint_t         n;
    ngx_derp_client_t  client;

    rc = NGX_DECLINED;

    do {
        if (rc == NGX_DECLINED) {
            w->cursor = ngx_derp_journal_cursor(&w->region);
            ngx_memzero(w->present, sizeof(w->present));
            index = 0;
        }

        n = 1;

        while ((rc = ngx_derp_registry_clients(&w->region, w->cursor, &index,
                                               &client, &n))
               == NGX_AGAIN)
        {
            (void) sched_yield();
        }

        if (rc == NGX_OK && n) {
            model_check_client(&client);
            w->present[model_key_id(client.key)] = 1;
        }

    } while (rc != NGX_DONE);
}


void
model_reap(ngx_derp_region_t *region)
{
    while (ngx_derp_zone_reap(region) == NGX_AGAIN) {
        (void) sched_yield();
    }
}


void
model_join(model_worker_t *w, void *memory, ngx_uint_t n)
{
    ngx_uint_t  slot;

    ngx_memzero(w, sizeof(model_worker_t));

    w->n = n;
    w->random = n * 7919 + (uint64_t) ngx_getpid() * 104729;

    slot = ngx_derp_slot_claim();
    model_assert(slot != NGX_DERP_NO_SLOT, "slots leak");

    w->bell = ngx_derp_slot_bell(slot, &model_log);
    model_assert(w->bell != -1, "no bell");

    model_assert(ngx_derp_zone_open(&w->region, memory) == NGX_OK, "layout");
    model_assert(ngx_derp_zone_join(&w->region, slot, w->bell, &model_log)
                 == NGX_OK, "nobody lets go of the lock");

    w->known = ngx_derp_load(&w->region.zone->channels_changed) - 1;

    model_assert(ngx_derp_inbox_accept(&w->region, &w->inbox) == NGX_OK,
                 "no inbox");
    model_flood(w);
}


/* In a repair it may be said to look later. */

static ngx_derp_route_t
model_find(model_worker_t *w, u_char *key, ngx_derp_handle_t *handle)
{
    ngx_derp_route_t  route;

    do {
        route = ngx_derp_registry_find(&w->region, key, handle);
    } while (route == NGX_DERP_ROUTE_AGAIN);

    return route;
}


void
model_replay(model_worker_t *w)
{
    u_char             key[NGX_DERP_KEY_LEN];
    uint32_t           id;
    ngx_int_t          rc;
    ngx_derp_entry_t   entry;
    ngx_derp_handle_t  handle;

    for ( ;; ) {

        rc = ngx_derp_journal_read(&w->region, &w->cursor, &entry);

        if (rc == NGX_DONE) {
            return;
        }

        if (rc == NGX_DECLINED) {
            model_flood(w);

            for (id = 0; id < MODEL_KEYS; id++) {
                handle.generation = 0;
                model_key(key, id);

                if (model_find(w, key, &handle) == NGX_DERP_NO_ROUTE) {
                    w->heard[id] = 0;
                }
            }

            continue;
        }

        id = model_key_id(entry.key);

        if (entry.what & NGX_DERP_JOURNAL_PRESENT) {
            w->present[id] = 1;
        }

        if (entry.what & NGX_DERP_JOURNAL_GONE) {
            w->present[id] = 0;
        }

        if (entry.what & NGX_DERP_JOURNAL_LEFT) {
            w->heard[id] = 0;
        }
    }
}


static uint64_t *
model_past(ngx_derp_route_t route)
{
    return &model_history[ngx_derp_route_index(route)]
                         [ngx_derp_route_generation(route) % MODEL_HISTORY];
}


ngx_int_t
model_add(model_worker_t *w, uint32_t id)
{
    ngx_int_t          rc;
    model_client_t    *c;
    ngx_derp_route_t   route;
    ngx_derp_client_t  client;
    ngx_derp_handle_t  handle;

    model_client(&client, id, (uint32_t) model_random(&w->random));

    rc = ngx_derp_registry_add(&w->region, &client, &route, &handle);

    if (rc != NGX_OK) {
        model_assert(rc == NGX_BUSY || rc == NGX_AGAIN, "add: %d", (int) rc);
        return rc;
    }

    if (model_history) {
        ngx_derp_store_release(model_past(route),
                               (uint64_t) ngx_derp_route_generation(route)
                               << 32 | id);
    }

    c = &w->clients[w->nclients++];
    c->route = route;
    c->key = id;

    route = ngx_derp_registry_route(&w->region, &handle);

    model_assert(route != NGX_DERP_NO_ROUTE
                 && (route & NGX_DERP_ROUTE_LINK) == 0,
                 "a key that is here has no route");

    return NGX_OK;
}


static void
model_step_add(model_worker_t *w)
{
    uint32_t  id;

    if (w->nclients < MODEL_MAX_OWN) {

        /* some keys are had by many */

        id = model_random(&w->random) % MODEL_KEYS;

        (void) model_add(w, id < MODEL_KEYS / 3 ? id % 3 : id);
    }
}


static void
model_step_remove(model_worker_t *w)
{
    uint32_t    index;
    ngx_uint_t  i;

    if (w->nclients == 0) {
        return;
    }

    i = model_random(&w->random) % w->nclients;
    index = 0;

    if (ngx_derp_registry_remove(&w->region, w->clients[i].route, &index)
        == NGX_OK)
    {
        w->clients[i] = w->clients[--w->nclients];
    }
}


static void
model_step_activate(model_worker_t *w)
{
    if (w->nclients) {
        (void) ngx_derp_registry_activate(&w->region,
              w->clients[model_random(&w->random) % w->nclients].route);
    }
}


static void
model_step_link(model_worker_t *w)
{
    uint32_t       index;
    model_link_t  *link;

    link = &w->links[model_random(&w->random) % MODEL_LINKS];

    if (link->route == NGX_DERP_NO_ROUTE) {
        (void) ngx_derp_registry_add_link(&w->region,
                                          1 + model_random(&w->random) % 3,
                                          &link->route);
        return;
    }

    if (model_random(&w->random) % 8 == 0) {
        index = 0;

        while (ngx_derp_registry_remove(&w->region, link->route, &index)
               == NGX_AGAIN)
        {
            (void) sched_yield();
        }

        ngx_memzero(link, sizeof(model_link_t));
    }
}


static void
model_step_announce(model_worker_t *w)
{
    u_char         key[NGX_DERP_KEY_LEN];
    uint32_t       id;
    model_link_t  *link;

    link = &w->links[model_random(&w->random) % MODEL_LINKS];

    if (link->route == NGX_DERP_NO_ROUTE) {
        return;
    }

    id = model_random(&w->random) % MODEL_KEYS;
    model_key(key, id);

    if (model_random(&w->random) % 2) {
        if (ngx_derp_registry_announce(&w->region, link->route, key)
            == NGX_OK)
        {
            link->announced[id] = 1;
        }

    } else {
        if (ngx_derp_registry_withdraw(&w->region, link->route, key)
            == NGX_OK)
        {
            link->announced[id] = 0;
        }
    }
}


/* A route that is found is one that the key had, at some time or now. */

static void
model_check_route(ngx_derp_route_t route, uint32_t id)
{
    uint64_t  past;
    uint32_t  generation;

    model_assert(id < model_permanent
                 || (route != NGX_DERP_NO_ROUTE
                     && (route & NGX_DERP_ROUTE_LINK) == 0),
                 "key %u is there all along, and not found", id);

    if (model_history == NULL || route == NGX_DERP_NO_ROUTE
        || route & NGX_DERP_ROUTE_LINK)
    {
        return;
    }

    generation = ngx_derp_route_generation(route);

    do {
        /* who has just added it comes to note it, too */

        past = ngx_derp_load_acquire(model_past(route));

    } while ((int32_t) ((uint32_t) (past >> 32) - generation) < 0);

    model_assert((uint32_t) (past >> 32) != generation
                 || (uint32_t) past == id,
                 "what was found for key %u is of key %u", id,
                 (uint32_t) past);
}


static void
model_step_find(model_worker_t *w)
{
    u_char             key[NGX_DERP_KEY_LEN];
    uint32_t           id;
    ngx_uint_t         i;
    ngx_derp_route_t   route, past;
    ngx_derp_handle_t  handle;

    id = model_random(&w->random) % MODEL_KEYS;
    model_key(key, id);

    /* first it is noted, then looked for: ngx_derp_heard_note() */

    handle.generation = 0;
    w->heard[id] = 1;
    route = model_find(w, key, &handle);

    if (route == NGX_DERP_NO_ROUTE) {
        w->heard[id] = 0;
    }

    model_check_route(route, id);

    /* what is remembered of a key is of no other */

    if (w->handles[id].generation) {
        past = ngx_derp_registry_route(&w->region, &w->handles[id]);

        if (past != NGX_DERP_NO_ROUTE) {
            model_check_route(past, id);
        }
    }

    w->handles[id] = handle;

    for (i = 0; i < w->nclients; i++) {
        model_assert(w->clients[i].key != id
                     || (route != NGX_DERP_NO_ROUTE
                         && (route & NGX_DERP_ROUTE_LINK) == 0),
                     "key %u is here, and not found", id);
    }

    for (i = 0; i < MODEL_LINKS; i++) {
        model_assert(!w->links[i].announced[id] || route != NGX_DERP_NO_ROUTE,
                     "key %u is announced, and not found", id);
    }
}


static void
model_step_client(model_worker_t *w)
{
    uint32_t           top, index;
    ngx_uint_t         n;
    ngx_derp_client_t  client;

    top = ngx_derp_load_acquire(&w->region.zone->peers_top);
    index = top ? model_random(&w->random) % top : 0;
    n = 1;

    if (ngx_derp_registry_clients(&w->region,
                                  ngx_derp_journal_cursor(&w->region), &index,
                                  &client, &n)
        == NGX_OK
        && n)
    {
        model_check_client(&client);
    }
}


static void
model_step_send(model_worker_t *w)
{
    u_char               *p;
    size_t                len;
    ngx_int_t             rc;
    ngx_uint_t            i, slot;
    ngx_derp_producer_t  *producer;

    slot = model_random(&w->random) % 12;

    if (slot == w->region.slot) {
        return;
    }

    producer = &w->producers[slot];

    if (producer->channel
        && ngx_derp_channel_broken(&w->region, producer)
        && ngx_derp_channel_close(&w->region, producer) != NGX_OK)
    {
        return;
    }

    if (producer->channel == NULL) {
        rc = ngx_derp_channel_open(&w->region, slot, producer);

        if (rc != NGX_OK) {
            return;
        }

        w->sent[slot] = 0;
    }

    for (i = model_random(&w->random) % 8; i; i--) {
        len = 8 + model_random(&w->random)
                  % (model_random(&w->random) % 16 ? 200 : 60000);

        p = ngx_derp_channel_put(producer, w->sent[slot] + 1, len, 1, 0);

        if (p == NULL) {
            (void) ngx_derp_channel_want(producer, len);
            break;
        }

        model_fill(p, len, w->sent[slot]++);
    }

    ngx_derp_channel_publish(producer);
    ngx_derp_slot_ring(slot, w->bell, &model_log);

    if (model_random(&w->random) % 256 == 0) {
        (void) ngx_derp_channel_close(&w->region, producer);
    }
}


/* which claim of which slot a record in an inbox is from, and its number there */

#define model_origin(w, n)                                                    \
    ((uint64_t) (w)->region.generation << 32                                  \
     | (uint64_t) (w)->region.slot << 24 | (n))


static void
model_step_share(model_worker_t *w)
{
    u_char               *p;
    size_t                len;
    ngx_uint_t            i, slot;
    ngx_derp_producer_t  *producer;

    slot = model_random(&w->random) % 12;
    producer = &w->sharers[slot];

    if (slot == w->region.slot
        || (producer->channel == NULL
            && ngx_derp_inbox_open(&w->region, slot, producer) != NGX_OK))
    {
        return;
    }

    if (ngx_derp_channel_broken(&w->region, producer)) {
        producer->channel = NULL;
        return;
    }

    for (i = model_random(&w->random) % 8; i; i--) {
        len = 8 + model_random(&w->random)
                  % (model_random(&w->random) % 16 ? 200 : 60000);

        if (ngx_derp_inbox_enter(producer) != NGX_OK) {
            break;
        }

        p = ngx_derp_channel_put(producer,
                                 model_origin(w, w->shared[slot] + 1), len,
                                 1, 0);

        if (p) {
            model_fill(p, len, w->shared[slot]++);
            ngx_derp_channel_publish(producer);
        }

        ngx_derp_inbox_leave(producer);

        if (p == NULL) {
            (void) ngx_derp_channel_want(producer, len);
            break;
        }
    }

    ngx_derp_slot_ring(slot, w->bell, &model_log);
}


/* What each claim of a slot has put is all there, from where we came in. */

static void
model_step_inbox(model_worker_t *w)
{
    u_char             *p;
    uint64_t            number;
    ngx_uint_t          n, slot;
    ngx_derp_record_t   record;

    for (n = 0; n < 64; n++) {
        p = ngx_derp_channel_get(&w->inbox, &record);

        if (p == NULL) {
            break;
        }

        number = record.route & 0xffffff;
        slot = record.route >> 24 & 0xff;

        model_assert(slot < NGX_DERP_SLOTS, "whose is it?");
        model_assert(record.route == w->last[slot] + 1
                     || record.route >> 32 != w->last[slot] >> 32,
                     "out of order");
        model_verify(p, record.len, number - 1);

        w->last[slot] = record.route;
        ngx_derp_channel_take(&w->inbox, &record);
    }

    if (ngx_derp_channel_wanted(&w->inbox) == w->region.slot) {
        w->region.everybody = 1;
        ngx_derp_region_ring(&w->region);
    }
}


static void
model_accept(model_worker_t *w)
{
    ngx_uint_t           i, index;
    ngx_derp_consumer_t  consumer;

    w->known = ngx_derp_load_acquire(&w->region.zone->channels_changed);

    for (index = 0;
         ngx_derp_channel_accept(&w->region, &index, &consumer) == NGX_OK;
         /* void */)
    {
        for (i = 0; i < w->nconsumers; i++) {
            if (w->consumers[i].channel == consumer.channel) {
                break;
            }
        }

        if (i == w->nconsumers && i < NGX_DERP_SLOTS) {
            w->consumers[i] = consumer;
            w->taken[i] = 0;
            w->nconsumers++;
        }
    }
}


static void
model_step_receive(model_worker_t *w)
{
    u_char               *p;
    ngx_uint_t            i, n, ended, slot;
    ngx_derp_record_t     record;
    ngx_derp_consumer_t  *c;

    if (ngx_derp_load_acquire(&w->region.zone->channels_changed) != w->known) {
        model_accept(w);
    }

    for (i = 0; i < w->nconsumers; i++) {
        c = &w->consumers[i];
        ended = ngx_derp_channel_ended(c);

        for (n = 0; n < 64; n++) {
            p = ngx_derp_channel_get(c, &record);

            if (p == NULL) {
                break;
            }

            model_assert(record.route == w->taken[i] + 1, "out of order");
            model_verify(p, record.len, w->taken[i]++);
            ngx_derp_channel_take(c, &record);
        }

        slot = ngx_derp_channel_wanted(c);

        if (slot != NGX_DERP_NO_SLOT) {
            ngx_derp_slot_ring(slot, w->bell, &model_log);
        }

        if (n < 64 && ended
            && ngx_derp_channel_release(&w->region, c) == NGX_OK)
        {
            w->nconsumers--;
            *c = w->consumers[w->nconsumers];
            w->taken[i] = w->taken[w->nconsumers];
            i--;
        }
    }
}


void
model_step(model_worker_t *w)
{
    switch (model_random(&w->random) % 24) {

    case 0: case 1:
        model_step_add(w);
        break;

    case 2: case 3:
        model_step_remove(w);
        break;

    case 4:
        model_step_activate(w);
        break;

    case 5:
        model_step_link(w);
        break;

    case 6: case 7:
        model_step_announce(w);
        break;

    case 8: case 9:
        model_step_client(w);
        break;

    case 10: case 11:
        model_step_send(w);
        break;

    case 12: case 13:
        model_step_receive(w);
        break;

    case 14:
        model_replay(w);
        break;

    case 15:
        if (model_random(&w->random) % 16 == 0) {
            (void) ngx_derp_zone_reap(&w->region);
        }

        break;

    case 16:
        (void) ngx_derp_lease(&w->region, 1 + model_random(&w->random) % 4,
                              model_random(&w->random) % 3,
                              model_random(&w->random) % 2);
        ngx_derp_slot_wake(w->region.slot);
        ngx_derp_slot_sleep(w->region.slot);
        break;

    case 17: case 18:
        model_step_share(w);
        break;

    case 19: case 20:
        model_step_inbox(w);
        break;

    default:
        model_step_find(w);
    }
}


void
model_check_worker(model_worker_t *w)
{
    u_char              key[NGX_DERP_KEY_LEN];
    uint32_t            i, id;
    ngx_uint_t          n, own, present[MODEL_KEYS];
    ngx_derp_conn_t    *conn;
    ngx_derp_handle_t   handle;

    own = w->nclients;

    for (n = 0; n < MODEL_LINKS; n++) {
        if (w->links[n].route) {
            own++;

            for (id = 0; id < MODEL_KEYS; id++) {
                own += w->links[n].announced[id];
            }
        }
    }

    ngx_memzero(present, sizeof(present));
    n = 0;

    for (i = 0; i < w->region.zone->conns_top; i++) {
        conn = &w->region.conns[i];

        n += (conn->kind != NGX_DERP_CONN_FREE
              && conn->slot == w->region.slot);

        if (conn->kind == NGX_DERP_CONN_CLIENT) {
            present[model_key_id(w->region.peers[conn->peer].key)] = 1;
        }
    }

    model_assert(n == own, "the region has %u of the worker's %u connections",
                 (unsigned) n, (unsigned) own);

    for (n = 0; n < w->nclients; n++) {
        conn = &w->region.conns[ngx_derp_route_index(w->clients[n].route)];

        model_assert(conn->kind == NGX_DERP_CONN_CLIENT
                     && conn->generation
                        == ngx_derp_route_generation(w->clients[n].route)
                     && model_key_id(w->region.peers[conn->peer].key)
                        == w->clients[n].key,
                     "a client is lost");
    }

    for (id = 0; id < MODEL_KEYS; id++) {

        model_assert(w->present[id] == present[id],
                     "key %u: by the journal %d, by the registry %d", id,
                     (int) w->present[id], (int) present[id]);

        handle.generation = 0;
        model_key(key, id);

        model_assert(!w->heard[id]
                     || model_find(w, key, &handle),
                     "key %u has left, and the journal does not say so", id);
    }
}


static uint32_t
model_check_list(ngx_derp_region_t *region, uint32_t peer, uint32_t list,
    ngx_uint_t kind, uint8_t *seen)
{
    uint32_t          i, n, prev;
    uint64_t          stamp;
    ngx_derp_conn_t  *conn;

    n = 0;
    prev = 0;
    stamp = 0;

    for (i = list; i; i = conn->next) {

        model_assert(i <= region->zone->conns_top, "list leads to %u", i);
        conn = &region->conns[i - 1];

        model_assert(!seen[i - 1], "conn %u is in two lists", i - 1);
        seen[i - 1] = 1;

        model_assert(conn->kind == kind && conn->peer == peer
                     && conn->prev == prev, "conn %u is wrong in its list",
                     i - 1);
        model_assert(n == 0 || (kind == NGX_DERP_CONN_CLIENT
                                ? conn->stamp < stamp : conn->stamp >= stamp),
                     "conn %u is out of order", i - 1);
        model_assert(ngx_derp_region_alive(region, conn->slot),
                     "conn %u is of a worker that is no more", i - 1);

        stamp = conn->stamp;
        prev = i;
        n++;
    }

    return n;
}


static void
model_check_announced(ngx_derp_region_t *region, ngx_derp_conn_t *conn)
{
    ngx_derp_conn_t  *link;

    link = &region->conns[ngx_derp_route_index(conn->link)];

    model_assert(conn->link & NGX_DERP_ROUTE_LINK
                 && link->kind == NGX_DERP_CONN_LINK
                 && link->slot == conn->slot
                 && link->generation == ngx_derp_route_generation(conn->link),
                 "an announcement without its link");
}


static void
model_check_conns(ngx_derp_region_t *region, uint8_t *seen)
{
    uint32_t          i, n;
    ngx_derp_conn_t  *conn;

    n = 0;

    for (i = region->zone->conns_free; i; i = region->conns[i - 1].next) {
        model_assert(i <= region->zone->conns_top
                     && region->conns[i - 1].kind == NGX_DERP_CONN_FREE
                     && !seen[i - 1], "free conn %u", i - 1);
        seen[i - 1] = 1;
        n++;
    }

    for (i = 0; i < region->zone->conns_top; i++) {
        conn = &region->conns[i];

        if (conn->kind == NGX_DERP_CONN_LINK) {
            model_assert(!seen[i], "link %u is in a list", i);
            model_assert(ngx_derp_region_alive(region, conn->slot),
                         "link %u is of a worker that is no more", i);
            continue;
        }

        if (conn->kind == NGX_DERP_CONN_ANNOUNCED) {
            model_check_announced(region, conn);
        }

        model_assert(seen[i], "conn %u of kind %d is lost", i, conn->kind);
    }
}


static void
model_check_peers(ngx_derp_region_t *region, uint8_t *seen, uint8_t *peers)
{
    uint32_t          i, b, clients, links, counts[4];
    ngx_derp_conn_t  *conn;
    ngx_derp_peer_t  *peer;
    ngx_derp_zone_t  *zone;
    ngx_derp_route_t  route;

    zone = region->zone;
    ngx_memzero(counts, sizeof(counts));

    for (b = 0; b < zone->buckets; b++) {

        for (i = region->buckets[b]; i; i = peer->next) {

            model_assert(i <= zone->peers_top && !peers[i - 1],
                         "chain %u leads to %u", b, i);
            peers[i - 1] = 1;
            peer = &region->peers[i - 1];

            model_assert(ngx_derp_peer_bucket(region, peer->key) == b
                         && (ngx_derp_key_hash(peer->key, zone->secret)
                             & (zone->buckets - 1)) == b,
                         "peer %u is in the wrong chain", i - 1);

            clients = model_check_list(region, i - 1, peer->clients,
                                       NGX_DERP_CONN_CLIENT, seen);
            links = model_check_list(region, i - 1, peer->links,
                                     NGX_DERP_CONN_ANNOUNCED, seen);

            model_assert(clients == peer->nclients && clients + links,
                         "peer %u has %u clients and says %u", i - 1, clients,
                         peer->nclients);

            conn = &region->conns[(clients ? peer->clients : peer->links) - 1];

            route = clients ? ngx_derp_route(conn->slot, conn - region->conns,
                                             conn->generation)
                            : conn->link;

            model_assert(peer->route == route, "peer %u has the wrong route",
                         i - 1);

            counts[0] += (clients != 0);
            counts[1] += clients;
            counts[2] += (clients > 1);
            counts[3] += clients > 1 ? clients : 0;
        }
    }

    model_assert(counts[0] == zone->keys && counts[1] == zone->clients
                 && counts[2] == zone->duplicate_keys
                 && counts[3] == zone->duplicate_clients,
                 "keys %u/%u clients %u/%u duplicates %u/%u, %u/%u",
                 zone->keys, counts[0], zone->clients, counts[1],
                 zone->duplicate_keys, counts[2], zone->duplicate_clients,
                 counts[3]);

    for (i = zone->peers_free; i; i = region->peers[i - 1].next) {
        model_assert(i <= zone->peers_top && !peers[i - 1], "free peer %u",
                     i - 1);
        peers[i - 1] = 1;

        model_assert(region->peers[i - 1].route == NGX_DERP_NO_ROUTE,
                     "free peer %u has a route", i - 1);
    }

    for (i = 0; i < zone->peers_top; i++) {
        model_assert(peers[i], "peer %u is lost", i);

        for (b = 0; b < i; b++) {
            model_assert(region->peers[i].route == NGX_DERP_NO_ROUTE
                         || region->peers[b].route == NGX_DERP_NO_ROUTE
                         || ngx_memcmp(region->peers[i].key,
                                       region->peers[b].key, NGX_DERP_KEY_LEN),
                         "peers %u and %u have one key", b, i);
        }
    }
}


static void
model_check_channels(ngx_derp_region_t *region)
{
    ngx_uint_t           i;
    ngx_derp_channel_t  *ch;
    ngx_derp_member_t   *from, *to;

    for (i = 0; i < region->zone->channels; i++) {
        ch = &region->channels[i];

        if (!ch->used) {
            continue;
        }

        from = &region->zone->members[ch->from];
        to = &region->zone->members[ch->to];

        model_assert(!ch->from_left || !ch->to_left,
                     "channel %u is nobody's, and not free", (unsigned) i);
        model_assert(ch->from_left
                     || (from->generation == ch->from_generation
                         && ngx_derp_region_alive(region, ch->from)),
                     "channel %u has no producer", (unsigned) i);
        model_assert(ch->to_left
                     || (to->generation == ch->to_generation
                         && ngx_derp_region_alive(region, ch->to)),
                     "channel %u has no consumer", (unsigned) i);
        model_assert(ch->tail - ch->head <= region->zone->ring_size,
                     "channel %u holds too much", (unsigned) i);
    }

    for (i = 0; i < region->zone->inboxes; i++) {
        ch = &region->inboxes[i].channel;

        model_assert(ch->used && !ch->from_left && ch->from == i && ch->to == i,
                     "inbox %u is another's", (unsigned) i);
        model_assert(ch->tail - ch->head <= NGX_DERP_INBOX_SIZE,
                     "inbox %u holds too much", (unsigned) i);
    }
}


static void
model_check_leases(ngx_derp_region_t *region)
{
    ngx_uint_t         i;
    ngx_derp_lease_t  *lease;

    for (i = 0; i < NGX_DERP_MAX_LINKS; i++) {
        lease = &region->zone->leases[i];

        model_assert(lease->generation == 0
                     || (lease->generation
                         == region->zone->members[lease->slot].generation
                         && ngx_derp_region_alive(region, lease->slot)),
                     "lease %u is of a worker that is no more", (unsigned) i);
    }
}


void
model_check_region(ngx_derp_region_t *region)
{
    uint8_t  *seen, *peers;

    seen = calloc(region->zone->capacity, 1);
    peers = calloc(region->zone->capacity, 1);

    model_assert(ngx_derp_lock_wait(region) == NGX_OK, "locked");

    model_assert(region->zone->repairing == 0
                 && region->zone->dirty == 0
                 && (region->zone->sequence & 1) == 0, "still marked");

    model_check_peers(region, seen, peers);
    model_check_conns(region, seen);
    model_check_channels(region);
    model_check_leases(region);

    ngx_derp_unlock(region);

    free(seen);
    free(peers);
}
