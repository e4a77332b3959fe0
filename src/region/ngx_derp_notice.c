
/*
 * The operator's notice to all clients.
 */


#include "ngx_derp_notice.h"


void
ngx_derp_notice_set(ngx_derp_region_t *region, ngx_str_t *text)
{
    ngx_derp_notice_t  *notice;

    notice = &region->zone->notice;

    if (notice->len == text->len
        && ngx_memcmp(notice->text, text->data, text->len) == 0)
    {
        return;
    }

    ngx_derp_store(&notice->sequence, notice->sequence + 1);
    ngx_derp_release_fence();

    ngx_derp_store(&notice->len, (uint32_t) text->len);
    ngx_memcpy(notice->text, text->data, text->len);

    ngx_derp_store_release(&notice->sequence, notice->sequence + 1);
}


ngx_int_t
ngx_derp_notice_get(ngx_derp_region_t *region, uint32_t *sequence, u_char *p,
    size_t *len)
{
    uint32_t            before;
    ngx_derp_notice_t  *notice;

    notice = &region->zone->notice;
    before = ngx_derp_load_acquire(&notice->sequence);

    /* what is being changed is there at the next look */

    if (before == *sequence || before & 1) {
        return NGX_DECLINED;
    }

    *len = ngx_min(ngx_derp_load(&notice->len), NGX_DERP_NOTICE_MAX);
    ngx_memcpy(p, notice->text, *len);

    ngx_derp_acquire_fence();

    if (ngx_derp_load(&notice->sequence) != before) {
        return NGX_DECLINED;
    }

    *sequence = before;

    return NGX_OK;
}
