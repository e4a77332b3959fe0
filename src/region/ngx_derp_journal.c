
/*
 * The journal of a relay.
 */


#include "ngx_derp_journal.h"
#include "ngx_derp_fault.h"


#define NGX_DERP_ENTRY_BODY                                                   \
    (sizeof(ngx_derp_entry_t) - offsetof(ngx_derp_entry_t, key))


void
ngx_derp_journal_append(ngx_derp_region_t *region, ngx_derp_entry_t *entry)
{
    uint64_t           head;
    ngx_derp_entry_t  *e;

    head = region->zone->head;
    e = &region->journal[head % region->zone->entries];

    /* a reader that is still at the old one sees that it goes away */

    ngx_derp_store(&e->number, 0);
    ngx_derp_release_fence();

    NGX_DERP_FAULT(journal_begin);
    ngx_derp_write_bytes(e->key, entry->key, NGX_DERP_ENTRY_BODY);
    NGX_DERP_FAULT(journal_body);

    /* a writer that dies before this has appended nothing */

    ngx_derp_store_release(&e->number, head + 1);
    NGX_DERP_FAULT(journal_number);
    ngx_derp_store_release(&region->zone->head, head + 1);
    NGX_DERP_FAULT(journal_head);
}


ngx_int_t
ngx_derp_journal_read(ngx_derp_region_t *region, uint64_t *cursor,
    ngx_derp_entry_t *entry)
{
    ngx_derp_entry_t  *e;

    if (ngx_derp_load_acquire(&region->zone->head) == *cursor) {
        return NGX_DONE;
    }

    e = &region->journal[*cursor % region->zone->entries];

    entry->number = ngx_derp_load_acquire(&e->number);

    ngx_derp_read_bytes(entry->key, e->key, NGX_DERP_ENTRY_BODY);
    ngx_derp_acquire_fence();

    if (entry->number != *cursor + 1
        || ngx_derp_load(&e->number) != entry->number)
    {
        return NGX_DECLINED;
    }

    (*cursor)++;

    return NGX_OK;
}


uint64_t
ngx_derp_journal_cursor(ngx_derp_region_t *region)
{
    return ngx_derp_load_acquire(&region->zone->head);
}
