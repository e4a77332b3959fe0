
/*
 * Buffers of a worker, by size, kept for the next one who needs one.
 *
 * The hot path takes and returns the same few of them; memory is asked of the
 * system only when more are held than ever before.  All functions are for
 * workers.
 */


#ifndef _NGX_DERP_BUF_H_INCLUDED_
#define _NGX_DERP_BUF_H_INCLUDED_


#include "ngx_derp_frame.h"


typedef struct ngx_derp_buf_s  ngx_derp_buf_t;

struct ngx_derp_buf_s {
    ngx_derp_buf_t      *next;          /* the holder's, too */
    u_char              *pos;           /* what is in use: pos to last */
    u_char              *last;
    u_char              *end;
    void                *owner;         /* the next three are the holder's */
    ngx_queue_t          queue;
    uint8_t              kind;          /* 0 at first */
    uint8_t              size_class;
    u_char               front[NGX_DERP_KEY_LEN];   /* see ngx_derp_span.h */
    u_char               start[];
};


#define NGX_DERP_BUF_CLASSES  7

/* a TLS record's; more would be split */
#define NGX_DERP_RECORD       16384

/*
 * The greatest one but for that of a whole login: a TLS record, and the rest of
 * a frame that it is the beginning of; or as much, sealed.
 */
#define NGX_DERP_BUF_LARGE                                                    \
    (NGX_DERP_MAX_FORWARD_FRAME + NGX_DERP_RECORD + 2048)

/* a whole login, or what a paused session has read */
#define NGX_DERP_BUF_MAX      (NGX_DERP_MAX_LOGIN + NGX_DERP_BUF_LARGE)


#define ngx_derp_buf_size(buf)  ((size_t) ((buf)->end - (buf)->start))


typedef struct {
    ngx_derp_buf_t      *free[NGX_DERP_BUF_CLASSES];
    size_t               cached;        /* bytes in free ones */
} ngx_derp_bufs_t;


/*
 * An empty buffer of size bytes or more, the caller's until it is put back.
 * NULL if there is no memory, or size is more than a login may take.
 */
ngx_derp_buf_t *ngx_derp_buf_get(ngx_derp_bufs_t *bufs, size_t size,
    ngx_log_t *log);
void ngx_derp_buf_put(ngx_derp_bufs_t *bufs, ngx_derp_buf_t *buf);

/* Gives free ones back to the system until no more than size bytes are left. */
void ngx_derp_buf_trim(ngx_derp_bufs_t *bufs, size_t size);


#endif /* _NGX_DERP_BUF_H_INCLUDED_ */
