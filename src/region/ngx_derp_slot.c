
/*
 * Slots of worker processes.
 */


#include "ngx_derp_slot.h"
#include "ngx_derp_key.h"
#include "ngx_derp_mutex.h"
#include "ngx_derp_fault.h"

#include <sys/mman.h>
#include <sys/un.h>


static void ngx_derp_slots_raise(ngx_uint_t top);
static socklen_t ngx_derp_slot_address(ngx_uint_t n, struct sockaddr_un *sun);


/* survive a reload in the master, and are inherited by its workers */

static ngx_derp_slots_t  *ngx_derp_slots;
static uint32_t           ngx_derp_configuration;


ngx_int_t
ngx_derp_slots_init(ngx_log_t *log)
{
    ngx_uint_t         i;
    ngx_derp_slots_t  *slots;

    if (ngx_derp_slots) {
        return NGX_OK;
    }

#if (NGX_DERP_FAULTS)
    ngx_derp_fault_init(log);
#endif

    slots = mmap(NULL, sizeof(ngx_derp_slots_t), PROT_READ|PROT_WRITE,
                 MAP_ANON|MAP_SHARED, -1, 0);

    if (slots == MAP_FAILED) {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                      "mmap(%uz) for derp slots failed",
                      sizeof(ngx_derp_slots_t));
        return NGX_ERROR;
    }

    for (i = 0; i < NGX_DERP_SLOTS; i++) {

        if (ngx_derp_mutex_create(&slots->slots[i].life) != NGX_OK) {
            ngx_log_error(NGX_LOG_EMERG, log, 0,
                          "there are no robust mutexes for derp slots");
            (void) munmap(slots, sizeof(ngx_derp_slots_t));
            return NGX_ERROR;
        }
    }

    ngx_derp_random(&slots->id, sizeof(slots->id));

    ngx_derp_slots = slots;

    return NGX_OK;
}


void
ngx_derp_slots_configure(void)
{
    if (ngx_derp_slots) {
        ngx_derp_configuration = ngx_derp_add(&ngx_derp_slots->configurations,
                                              1);
    }
}


ngx_uint_t
ngx_derp_slot_claim(void)
{
    uint32_t          generation;
    ngx_uint_t        i;
    ngx_derp_slot_t  *slot;

    /* whoever has said that nginx stops was mistaken: it starts workers */

    if (ngx_derp_load(&ngx_derp_slots->stopped) == ngx_derp_configuration) {
        ngx_derp_store(&ngx_derp_slots->stopped, 0);
    }

    /* a free one may be locked just now by who looks whether it is */

    for (i = 0; i < 2 * NGX_DERP_SLOTS; i++) {
        slot = &ngx_derp_slots->slots[i % NGX_DERP_SLOTS];

        if (ngx_derp_mutex_try(&slot->life) != 0) {
            continue;
        }

        NGX_DERP_FAULT(slot_claim);
        generation = slot->generation + 1;

        ngx_derp_store(&slot->pid, ngx_pid);

        /* it has much to look at, and will before it sleeps */
        ngx_derp_store(&slot->awake, 1);

        /* from here on all that the last owner left is seen to be stale */
        ngx_derp_store_release(&slot->generation,
                               generation ? generation : 1);
        NGX_DERP_FAULT(slot_claimed);

        ngx_derp_slots_raise(i % NGX_DERP_SLOTS + 1);

        return i % NGX_DERP_SLOTS;
    }

    return NGX_DERP_NO_SLOT;
}


/* Before the owner shows itself anywhere else, so that others look so far. */

static void
ngx_derp_slots_raise(ngx_uint_t n)
{
    uint32_t  top;

    top = ngx_derp_load(&ngx_derp_slots->top);

    while (top < n
           && !__atomic_compare_exchange_n(&ngx_derp_slots->top, &top, n, 0,
                                           __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
    { /* void */ }
}


void
ngx_derp_slot_release(ngx_uint_t n)
{
    ngx_derp_store(&ngx_derp_slots->slots[n].pid, 0);

    (void) pthread_mutex_unlock(&ngx_derp_slots->slots[n].life);
}


ngx_uint_t
ngx_derp_slots_used(void)
{
    ngx_uint_t  i, n;

    n = 0;

    for (i = 0; i < ngx_derp_slots_top(); i++) {

        /* who claims one passes over what is looked at: no more than need be */

        if (ngx_derp_slot_pid(i)
            && ngx_derp_slot_alive(i, ngx_derp_slot_generation(i)))
        {
            n++;
        }
    }

    return n;
}


ngx_uint_t
ngx_derp_slots_top(void)
{
    return ngx_derp_slots ? ngx_derp_load_acquire(&ngx_derp_slots->top) : 0;
}


ngx_uint_t
ngx_derp_slot_alive(ngx_uint_t n, uint32_t generation)
{
    int               rc;
    ngx_derp_slot_t  *slot;

    slot = &ngx_derp_slots->slots[n];

    if (ngx_derp_load_acquire(&slot->generation) != generation) {
        return 0;
    }

    rc = ngx_derp_mutex_try(&slot->life);

    if (rc == EBUSY) {
        return 1;
    }

    NGX_DERP_FAULT(slot_alive);

    if (rc == 0) {
        (void) pthread_mutex_unlock(&slot->life);
    }

    return 0;
}


uint32_t
ngx_derp_slot_generation(ngx_uint_t n)
{
    return ngx_derp_load_acquire(&ngx_derp_slots->slots[n].generation);
}


ngx_pid_t
ngx_derp_slot_pid(ngx_uint_t n)
{
    return ngx_derp_load(&ngx_derp_slots->slots[n].pid);
}


ngx_uint_t
ngx_derp_slots_reloaded(void)
{
    return ngx_derp_load(&ngx_derp_slots->configurations)
           != ngx_derp_configuration;
}


void
ngx_derp_slots_quit(void)
{
    if (ngx_derp_slots && !ngx_derp_slots_reloaded()) {
        ngx_derp_store(&ngx_derp_slots->stopped, ngx_derp_configuration);
    }
}


ngx_uint_t
ngx_derp_slots_stopping(void)
{
    return ngx_derp_load(&ngx_derp_slots->stopped)
           == ngx_derp_load(&ngx_derp_slots->configurations);
}


uint32_t
ngx_derp_slots_configuration(void)
{
    return ngx_derp_configuration;
}


uint32_t
ngx_derp_slots_newest(void)
{
    return ngx_derp_load(&ngx_derp_slots->configurations);
}


void
ngx_derp_slot_ring(ngx_uint_t n, ngx_socket_t bell, ngx_log_t *log)
{
    ngx_derp_slot_t  *slot;

    slot = &ngx_derp_slots->slots[n];

    /* orders what was published before the look at who is awake */

    ngx_derp_barrier();

    if (ngx_derp_load(&slot->awake) || ngx_derp_exchange(&slot->awake, 1)) {
        return;
    }

    NGX_DERP_FAULT(slot_ring);
    ngx_derp_slot_rouse(n, bell, log);
    NGX_DERP_FAULT(slot_rung);
}


void
ngx_derp_slot_rouse(ngx_uint_t n, ngx_socket_t bell, ngx_log_t *log)
{
    socklen_t           len;
    ngx_err_t           err;
    struct sockaddr_un  sun;

    len = ngx_derp_slot_address(n, &sun);

    if (sendto(bell, "", 1, 0, (struct sockaddr *) &sun, len) != -1) {
        return;
    }

    err = ngx_socket_errno;

    /* rings that it has not read will wake it as well; or it has died */

    if (err != NGX_EAGAIN && err != NGX_ECONNREFUSED) {
        ngx_log_error(NGX_LOG_ALERT, log, err,
                      "sendto() the bell of derp slot %ui failed", n);
    }
}


ngx_socket_t
ngx_derp_slot_bell(ngx_uint_t n, ngx_log_t *log)
{
    socklen_t           len;
    ngx_socket_t        s;
    struct sockaddr_un  sun;

    s = socket(AF_UNIX, SOCK_DGRAM|SOCK_NONBLOCK|SOCK_CLOEXEC, 0);

    if (s == (ngx_socket_t) -1) {
        ngx_log_error(NGX_LOG_ERR, log, ngx_socket_errno,
                      ngx_socket_n " for the bell of derp slot %ui failed", n);
        return s;
    }

    len = ngx_derp_slot_address(n, &sun);

    if (bind(s, (struct sockaddr *) &sun, len) == -1) {
        ngx_log_error(NGX_LOG_ERR, log, ngx_socket_errno,
                      "bind() of the bell of derp slot %ui failed", n);
        (void) ngx_close_socket(s);
        return (ngx_socket_t) -1;
    }

    return s;
}


/*
 * A dead owner's socket may outlive its lock by a moment, so that the claim's
 * generation is a part of the name.
 */

static socklen_t
ngx_derp_slot_address(ngx_uint_t n, struct sockaddr_un *sun)
{
    u_char    *p;
    uint32_t   slot, generation;

    slot = n;
    generation = ngx_derp_slot_generation(n);

    sun->sun_family = AF_UNIX;

    p = ngx_cpymem(sun->sun_path, "\0ngx_derp", 9);
    p = ngx_cpymem(p, &ngx_derp_slots->id, sizeof(ngx_derp_slots->id));
    p = ngx_cpymem(p, &slot, sizeof(slot));
    p = ngx_cpymem(p, &generation, sizeof(generation));

    return p - (u_char *) sun;
}


void
ngx_derp_slot_sleep(ngx_uint_t n)
{
    ngx_derp_store(&ngx_derp_slots->slots[n].awake, 0);

    /* orders it before the look that follows: see _ring() */

    ngx_derp_barrier();
    NGX_DERP_FAULT(slot_sleep);
}


void
ngx_derp_slot_wake(ngx_uint_t n)
{
    ngx_derp_store(&ngx_derp_slots->slots[n].awake, 1);
}
