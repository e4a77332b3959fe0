
/*
 * The notice: a text that the operator has every client told, by DERP's Health.
 *
 * It is in the zone so that a reload reaches the clients of old workers too.
 */


#ifndef _NGX_DERP_NOTICE_H_INCLUDED_
#define _NGX_DERP_NOTICE_H_INCLUDED_


#include "ngx_derp_region.h"


/*
 * Sets the text, of at most NGX_DERP_NOTICE_MAX bytes; an empty one clears it.
 * In the master, when a configuration is put to use.
 */
void ngx_derp_notice_set(ngx_derp_region_t *region, ngx_str_t *text);

/*
 * Copies the text to p if it has changed since *sequence, which is updated:
 * NGX_OK and *len, or NGX_DECLINED if it is the same.  In any worker.
 */
ngx_int_t ngx_derp_notice_get(ngx_derp_region_t *region, uint32_t *sequence,
    u_char *p, size_t *len);


#endif /* _NGX_DERP_NOTICE_H_INCLUDED_ */
