
/*
 * Buffers of a worker.
 */


#include "ngx_derp_buf.h"


static const size_t  ngx_derp_buf_sizes[NGX_DERP_BUF_CLASSES] = {
    256,
    2048,
    8192,
    NGX_DERP_RECORD,
    32768,
    NGX_DERP_BUF_LARGE,
    NGX_DERP_BUF_MAX
};


ngx_derp_buf_t *
ngx_derp_buf_get(ngx_derp_bufs_t *bufs, size_t size, ngx_log_t *log)
{
    ngx_uint_t       i;
    ngx_derp_buf_t  *buf;

    for (i = 0; ngx_derp_buf_sizes[i] < size; i++) {
        if (i == NGX_DERP_BUF_CLASSES - 1) {
            return NULL;
        }
    }

    size = ngx_derp_buf_sizes[i];
    buf = bufs->free[i];

    if (buf) {
        bufs->free[i] = buf->next;
        bufs->cached -= size;

    } else {
        buf = ngx_alloc(sizeof(ngx_derp_buf_t) + size, log);
        if (buf == NULL) {
            return NULL;
        }

        buf->size_class = i;
        buf->end = buf->start + size;
    }

    buf->next = NULL;
    buf->kind = 0;
    buf->pos = buf->start;
    buf->last = buf->start;

    return buf;
}


void
ngx_derp_buf_put(ngx_derp_bufs_t *bufs, ngx_derp_buf_t *buf)
{
    size_t  size;

    size = ngx_derp_buf_sizes[buf->size_class];

    buf->next = bufs->free[buf->size_class];
    bufs->free[buf->size_class] = buf;

    bufs->cached += size;
}


void
ngx_derp_buf_trim(ngx_derp_bufs_t *bufs, size_t size)
{
    ngx_int_t        i;
    ngx_derp_buf_t  *buf;

    for (i = NGX_DERP_BUF_CLASSES - 1; i >= 0; i--) {

        while (bufs->cached > size && bufs->free[i]) {
            buf = bufs->free[i];
            bufs->free[i] = buf->next;
            bufs->cached -= ngx_derp_buf_sizes[i];

            ngx_free(buf);
        }
    }
}
