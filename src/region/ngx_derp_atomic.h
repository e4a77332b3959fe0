
/*
 * Loads and stores of shared memory with the order that they need.
 *
 * nginx's own atomics know only full barriers.  These compile to plain moves
 * on x86-64, and a thread sanitizer understands them.
 */


#ifndef _NGX_DERP_ATOMIC_H_INCLUDED_
#define _NGX_DERP_ATOMIC_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


#define NGX_DERP_CACHE_LINE  64

#define ngx_derp_aligned     __attribute__((aligned(NGX_DERP_CACHE_LINE)))

#define ngx_derp_load(p)            __atomic_load_n(p, __ATOMIC_RELAXED)
#define ngx_derp_load_acquire(p)    __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define ngx_derp_store(p, v)        __atomic_store_n(p, v, __ATOMIC_RELAXED)
#define ngx_derp_store_release(p, v)                                          \
    __atomic_store_n(p, v, __ATOMIC_RELEASE)

#define ngx_derp_exchange(p, v)     __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL)
#define ngx_derp_add(p, v)          __atomic_add_fetch(p, v, __ATOMIC_ACQ_REL)
#define ngx_derp_or(p, v)           __atomic_fetch_or(p, v, __ATOMIC_ACQ_REL)
#define ngx_derp_and(p, v)          __atomic_fetch_and(p, v, __ATOMIC_ACQ_REL)

/*
 * Nothing crosses it in either direction.  Two who each store one thing, and
 * load what the other has stored, need it in between, or both may miss it; an
 * exchange alone does not hold back the loads behind it everywhere.
 */
#define ngx_derp_barrier()          __atomic_thread_fence(__ATOMIC_SEQ_CST)

#define ngx_derp_acquire_fence()    __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define ngx_derp_release_fence()    __atomic_thread_fence(__ATOMIC_RELEASE)


/*
 * Bytes that are read while another may be writing them: the reader finds out
 * by a sequence number, afterwards.  len is a multiple of 8, p is aligned.
 */

static ngx_inline void
ngx_derp_read_bytes(void *dst, void *p, size_t len)
{
    size_t     i;
    uint64_t  *s = p, v;

    for (i = 0; i < len / 8; i++) {
        v = ngx_derp_load(&s[i]);
        ngx_memcpy((u_char *) dst + i * 8, &v, 8);
    }
}


static ngx_inline void
ngx_derp_write_bytes(void *p, void *src, size_t len)
{
    size_t     i;
    uint64_t  *d = p, v;

    for (i = 0; i < len / 8; i++) {
        ngx_memcpy(&v, (u_char *) src + i * 8, 8);
        ngx_derp_store(&d[i], v);
    }
}


static ngx_inline ngx_uint_t
ngx_derp_equal_bytes(void *p, void *b, size_t len)
{
    size_t     i;
    uint64_t  *s = p, v;

    for (i = 0; i < len / 8; i++) {
        ngx_memcpy(&v, (u_char *) b + i * 8, 8);

        if (ngx_derp_load(&s[i]) != v) {
            return 0;
        }
    }

    return 1;
}


#endif /* _NGX_DERP_ATOMIC_H_INCLUDED_ */
