
/*
 * A stub of nginx.
 */


#include "stub.h"

#include <stdio.h>


#define STUB_TIMERS  64


static ngx_time_t         stub_time = { .sec = 1000000 };
static ngx_rbtree_node_t *stub_timer[STUB_TIMERS];
static ngx_uint_t         stub_ntimers;
static ngx_connection_t   stub_bell;
static ngx_event_t        stub_bell_events[2];

ngx_uint_t                stub_refuse;
ngx_uint_t                stub_alerts_allowed;
ngx_uint_t                stub_alerts;
uint64_t                  stub_loads;
uint64_t                  stub_spent;
uint64_t                  stub_calls;
void                    (*stub_after)(void);
ngx_log_t                 stub_log = { .log_level = NGX_LOG_INFO };


/* of nginx */

ngx_pid_t                 ngx_pid = 1;
ngx_uint_t                ngx_process = NGX_PROCESS_WORKER;
volatile ngx_cycle_t     *ngx_cycle;
volatile ngx_msec_t       ngx_current_msec;
volatile ngx_time_t      *ngx_cached_time = &stub_time;
ngx_uint_t                ngx_exiting;
ngx_uint_t                ngx_event_flags;
ngx_rbtree_t              ngx_event_timer_rbtree;
ngx_queue_t               ngx_posted_events;
ngx_queue_t               ngx_posted_next_events;

static ngx_int_t stub_event(ngx_event_t *ev, ngx_int_t event,
    ngx_uint_t flags);

ngx_event_actions_t       ngx_event_actions = { .add = stub_event };


/* -fsanitize-coverage=trace-loads calls these, by how much is read */

#define STUB_LOAD(n, type)                                                    \
    void __sanitizer_cov_load##n(type *p);                                    \
                                                                              \
    void                                                                      \
    __sanitizer_cov_load##n(type *p)                                          \
    {                                                                         \
        stub_loads++;                                                         \
    }

STUB_LOAD(1, uint8_t)
STUB_LOAD(2, uint16_t)
STUB_LOAD(4, uint32_t)
STUB_LOAD(8, uint64_t)
STUB_LOAD(16, __int128)


void
stub_fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
    abort();
}


void
stub_reset(void)
{
    stub_assert(stub_ntimers == 0);

    ngx_current_msec = 1000000;
    ngx_exiting = 0;
    stub_refuse = 0;
    stub_alerts_allowed = 0;
    stub_alerts = 0;
    stub_spent = 0;
    stub_calls = 0;

    ngx_queue_init(&ngx_posted_events);
    ngx_queue_init(&ngx_posted_next_events);

    srandom(1);
}


void
stub_call(ngx_event_t *ev)
{
    uint64_t  loads;

    loads = stub_loads;

    ev->handler(ev);

    stub_spent += stub_loads - loads;
    stub_calls++;

    if (stub_after) {
        stub_after();
    }
}


static void
stub_run(ngx_queue_t *queue)
{
    ngx_queue_t  *q;
    ngx_event_t  *ev;

    while (!ngx_queue_empty(queue)) {
        q = ngx_queue_head(queue);
        ev = ngx_queue_data(q, ngx_event_t, queue);

        ngx_delete_posted_event(ev);
        stub_call(ev);
    }
}


void
stub_posted(void)
{
    ngx_queue_t  *q;
    ngx_event_t  *ev;

    stub_run(&ngx_posted_events);

    /* as ngx_event_move_posted_next() */

    for (q = ngx_queue_head(&ngx_posted_next_events);
         q != ngx_queue_sentinel(&ngx_posted_next_events);
         q = ngx_queue_next(q))
    {
        ev = ngx_queue_data(q, ngx_event_t, queue);
        ev->ready = 1;
        ev->available = -1;
    }

    ngx_queue_add(&ngx_posted_events, &ngx_posted_next_events);
    ngx_queue_init(&ngx_posted_next_events);
}


void
stub_timers(void)
{
    ngx_uint_t          i;
    ngx_event_t        *ev;
    ngx_rbtree_node_t  *first;

    for ( ;; ) {
        first = NULL;

        for (i = 0; i < stub_ntimers; i++) {
            if ((ngx_msec_int_t) (stub_timer[i]->key - ngx_current_msec) <= 0
                && (first == NULL || stub_timer[i]->key < first->key))
            {
                first = stub_timer[i];
            }
        }

        if (first == NULL) {
            return;
        }

        ev = ngx_rbtree_data(first, ngx_event_t, timer);

        ngx_rbtree_delete(&ngx_event_timer_rbtree, first);
        ev->timer_set = 0;
        ev->timedout = 1;
        stub_call(ev);
    }
}


void
stub_forget(ngx_event_t *ev)
{
    if (ev->timer_set) {
        ngx_del_timer(ev);
    }

    if (ev->posted) {
        ngx_delete_posted_event(ev);
    }
}


void
ngx_rbtree_insert(ngx_rbtree_t *tree, ngx_rbtree_node_t *node)
{
    stub_assert(stub_ntimers < STUB_TIMERS);
    stub_timer[stub_ntimers++] = node;
}


void
ngx_rbtree_delete(ngx_rbtree_t *tree, ngx_rbtree_node_t *node)
{
    ngx_uint_t  i;

    for (i = 0; i < stub_ntimers && stub_timer[i] != node; i++) { /* void */ }

    stub_assert(i < stub_ntimers);
    stub_timer[i] = stub_timer[--stub_ntimers];
}


static ngx_int_t
stub_event(ngx_event_t *ev, ngx_int_t event, ngx_uint_t flags)
{
    return NGX_OK;
}


ngx_int_t
ngx_handle_read_event(ngx_event_t *rev, ngx_uint_t flags)
{
    return NGX_OK;
}


ngx_int_t
ngx_handle_write_event(ngx_event_t *wev, size_t lowat)
{
    return NGX_OK;
}


/* the bell's, the only one that a worker asks for */

ngx_connection_t *
ngx_get_connection(ngx_socket_t s, ngx_log_t *log)
{
    ngx_memzero(&stub_bell, sizeof(stub_bell));
    ngx_memzero(stub_bell_events, sizeof(stub_bell_events));

    stub_bell.fd = s;
    stub_bell.read = &stub_bell_events[0];
    stub_bell.write = &stub_bell_events[1];
    stub_bell.read->data = &stub_bell;

    return &stub_bell;
}


void
ngx_close_connection(ngx_connection_t *c)
{
    (void) close(c->fd);
}


void
ngx_reusable_connection(ngx_connection_t *c, ngx_uint_t reusable)
{
}


ngx_int_t
ngx_tcp_nodelay(ngx_connection_t *c)
{
    return NGX_OK;
}


ngx_int_t
ngx_connection_error(ngx_connection_t *c, ngx_err_t err, char *text)
{
    return 0;
}


void *
ngx_alloc(size_t size, ngx_log_t *log)
{
    if (stub_refuse && --stub_refuse == 0) {
        return NULL;
    }

    return malloc(size);
}


void *
ngx_calloc(size_t size, ngx_log_t *log)
{
    void  *p;

    p = ngx_alloc(size, log);

    if (p) {
        ngx_memzero(p, size);
    }

    return p;
}


/* what a log handler looks at is to be there; the text is nobody's */

void
ngx_log_error_core(ngx_uint_t level, ngx_log_t *log, ngx_err_t err,
    const char *fmt, ...)
{
    u_char  buf[NGX_MAX_ERROR_STR];

    stub_assert(level > NGX_LOG_ALERT || stub_alerts_allowed);

    stub_alerts += (level <= NGX_LOG_ALERT);

    if (log->handler) {
        (void) log->handler(log, buf, sizeof(buf));
    }
}


u_char *
ngx_snprintf(u_char *buf, size_t max, const char *fmt, ...)
{
    size_t  len;

    len = ngx_min(ngx_strlen(fmt), max);

    return ngx_cpymem(buf, fmt, len);
}


/* of nginx's ngx_string.c */

ngx_int_t
ngx_strcasecmp(u_char *s1, u_char *s2)
{
    ngx_uint_t  c1, c2;

    for ( ;; ) {
        c1 = ngx_tolower(*s1);
        c2 = ngx_tolower(*s2);
        s1++;
        s2++;

        if (c1 != c2) {
            return c1 - c2;
        }

        if (c1 == 0) {
            return 0;
        }
    }
}
