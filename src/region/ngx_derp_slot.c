
/*
 * Slots of worker processes.
 */


#include "ngx_derp_slot.h"
#include "ngx_derp_mutex.h"
#include "ngx_derp_fault.h"

#include <sys/eventfd.h>
#include <sys/mman.h>


static ngx_int_t ngx_derp_slot_init(ngx_derp_slot_t *slot, ngx_log_t *log);


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

        if (ngx_derp_slot_init(&slots->slots[i], log) != NGX_OK) {

            while (i--) {
                (void) close(slots->slots[i].bell);
            }

            (void) munmap(slots, sizeof(ngx_derp_slots_t));

            return NGX_ERROR;
        }
    }

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


static ngx_int_t
ngx_derp_slot_init(ngx_derp_slot_t *slot, ngx_log_t *log)
{
    if (ngx_derp_mutex_create(&slot->life) != NGX_OK) {
        ngx_log_error(NGX_LOG_EMERG, log, 0,
                      "there are no robust mutexes for derp slots");
        return NGX_ERROR;
    }

    slot->bell = eventfd(0, EFD_NONBLOCK|EFD_CLOEXEC);

    if (slot->bell == -1) {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                      "eventfd() failed, derp needs %d of them, see "
                      "\"worker_rlimit_nofile\" and the limit of the service",
                      NGX_DERP_SLOTS);
        return NGX_ERROR;
    }

    return NGX_OK;
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
        return i % NGX_DERP_SLOTS;
    }

    return NGX_DERP_NO_SLOT;
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

    for (i = 0; i < NGX_DERP_SLOTS; i++) {

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
ngx_derp_slot_ring(ngx_uint_t n, ngx_log_t *log)
{
    ngx_derp_slot_t  *slot;

    slot = &ngx_derp_slots->slots[n];

    /* orders what was published before the look at who is awake */

    ngx_derp_barrier();

    if (ngx_derp_load(&slot->awake) || ngx_derp_exchange(&slot->awake, 1)) {
        return;
    }

    NGX_DERP_FAULT(slot_ring);
    ngx_derp_slot_rouse(n, log);
    NGX_DERP_FAULT(slot_rung);
}


void
ngx_derp_slot_rouse(ngx_uint_t n, ngx_log_t *log)
{
    uint64_t  one;

    one = 1;

    if (write(ngx_derp_slots->slots[n].bell, &one, sizeof(one)) == -1
        && ngx_errno != NGX_EAGAIN)
    {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_errno,
                      "write() to the bell of derp slot %ui failed", n);
    }
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


ngx_socket_t
ngx_derp_slot_bell(ngx_uint_t n)
{
    return ngx_derp_slots->slots[n].bell;
}
