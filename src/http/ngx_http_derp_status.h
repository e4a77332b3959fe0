
/*
 * A relay's status, in JSON.
 */


#ifndef _NGX_HTTP_DERP_STATUS_H_INCLUDED_
#define _NGX_HTTP_DERP_STATUS_H_INCLUDED_


#include "ngx_http_derp_module.h"


/*
 * The content handler of a location with derp_status.  In any worker: all that
 * it tells is in the zone, so that it does not matter which one, nor whether
 * it found a slot.
 */
ngx_int_t ngx_http_derp_status_handler(ngx_http_request_t *r);


#endif /* _NGX_HTTP_DERP_STATUS_H_INCLUDED_ */
