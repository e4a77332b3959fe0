
/*
 * What the relay needs of nginx, in the hands of a fuzzer: the event loop,
 * timers, memory that may be refused, and a log whose lines are only made.
 */


#ifndef _STUB_H_INCLUDED_
#define _STUB_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>


/* whichever of the allocations to come is refused, 0: none */
extern ngx_uint_t  stub_refuse;

extern ngx_log_t   stub_log;

/* an alert may be logged, and is no failure; so many were */
extern ngx_uint_t  stub_alerts_allowed;
extern ngx_uint_t  stub_alerts;

/*
 * How often what is compiled here has read memory: what an input costs, the
 * same on a busy machine.  libc and libsodium do not count.
 */
extern uint64_t    stub_loads;

/* since stub_reset(): those of handlers, and how often one was called */
extern uint64_t    stub_spent;
extern uint64_t    stub_calls;

/* called after each handler, if set */
extern void      (*stub_after)(void);


/* an event happens */
void stub_call(ngx_event_t *ev);

/* before each run */
void stub_reset(void);

/* the events of one iteration of the loop; the connections' come before */
void stub_timers(void);
void stub_posted(void);

/* as ngx_close_connection(): no event of it comes any more */
void stub_forget(ngx_event_t *ev);

#define stub_assert(ok)                                                       \
    do {                                                                      \
        if (!(ok)) {                                                          \
            stub_fail(__FILE__, __LINE__, #ok);                               \
        }                                                                     \
    } while (0)

void stub_fail(const char *file, int line, const char *what)
    __attribute__((noreturn));


#endif /* _STUB_H_INCLUDED_ */
