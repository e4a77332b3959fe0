
/*
 * The journal: the last changes of the registry, in their order.
 *
 * A fixed ring with one writer at a time, who holds the zone's lock, and any
 * number of readers, who take none: each has a cursor of its own.  A reader
 * that falls behind by the whole ring is told so, and begins afresh.
 */


#ifndef _NGX_DERP_JOURNAL_H_INCLUDED_
#define _NGX_DERP_JOURNAL_H_INCLUDED_


#include "ngx_derp_region.h"


/* what happened; one entry may say several */

#define NGX_DERP_JOURNAL_PRESENT  0x01  /* the first client of a key is here */
#define NGX_DERP_JOURNAL_GONE     0x02  /* its last client has left */
#define NGX_DERP_JOURNAL_LEFT     0x04  /* the key has left the region */
#define NGX_DERP_JOURNAL_CLOSE    0x08  /* its clients are to be closed */


struct ngx_derp_entry_s {
    uint64_t          number;       /* its place in the log + 1, 0: not whole */
    u_char            key[NGX_DERP_KEY_LEN];
    u_char            addr[16];
    uint32_t          peer;         /* index */
    in_port_t         port;
    uint8_t           what;
    uint8_t           flags;
};


/* Appends an entry, all but its number; under the lock. */
void ngx_derp_journal_append(ngx_derp_region_t *region,
    ngx_derp_entry_t *entry);

/*
 * Copies the entry at the cursor and moves the cursor on.  NGX_DONE: there is
 * none yet; NGX_DECLINED: overrun, what was there is lost.  In any worker.
 */
ngx_int_t ngx_derp_journal_read(ngx_derp_region_t *region, uint64_t *cursor,
    ngx_derp_entry_t *entry);

/* A cursor that will see all that comes from now on. */
uint64_t ngx_derp_journal_cursor(ngx_derp_region_t *region);


#endif /* _NGX_DERP_JOURNAL_H_INCLUDED_ */
