
/*
 * What stands for a connection: the input says what has arrived, what the
 * socket takes, and how it ends.
 */


#include "session.h"
#include "ngx_derp_dial.h"
#include "ngx_derp_ssl.h"

#include <sanitizer/asan_interface.h>


#define FUZZ_INPUT  (400 * 1024)        /* that waits for one connection */


static ssize_t fuzz_recv(ngx_connection_t *c, u_char *buf, size_t size);
static ssize_t fuzz_recv_chain(ngx_connection_t *c, ngx_chain_t *in,
    off_t limit);
static ssize_t fuzz_take(ngx_connection_t *c, u_char *buf, size_t size);
static ssize_t fuzz_send(ngx_connection_t *c, u_char *buf, size_t size);


fuzz_conn_t    fuzz_conns[FUZZ_CONNS];
uint64_t       fuzz_arrived;

/* of nginx */

ngx_os_io_t    ngx_io = { .send = fuzz_send };

static u_char  fuzz_sealed[NGX_DERP_SSL_SEALED];


void
fuzz_open(fuzz_conn_t *fc)
{
    ngx_memzero(fc, sizeof(fuzz_conn_t));

    fc->c = calloc(1, sizeof(ngx_connection_t));
    fc->in = malloc(FUZZ_INPUT);
    fc->chunk = FUZZ_INPUT;
    fc->room = (size_t) -1 / 2;
    fc->log = stub_log;

    fc->c->fd = -1;
    fc->c->log = &fc->log;
    fc->c->read = &fc->read;
    fc->c->write = &fc->write;
    fc->c->recv = fuzz_recv;
    fc->c->recv_chain = fuzz_recv_chain;
    fc->c->send = fuzz_send;

    fc->read.data = fc->c;
    fc->read.log = &fc->log;
    fc->write.data = fc->c;
    fc->write.log = &fc->log;
    fc->write.write = 1;
    fc->write.ready = 1;

    /* every other one has TLS */

    if ((fc - fuzz_conns) % 2) {
        fc->c->ssl = &fc->ssl;
    }

    ngx_str_set(&fc->c->addr_text, "192.0.2.1");
}


void
fuzz_close(ngx_connection_t *c)
{
    fuzz_conn_t  *fc;

    fc = fuzz_conn(c);

    stub_forget(c->read);
    stub_forget(c->write);

    free(fc->in);
    free(c);
    fc->in = NULL;
    fc->c = NULL;
}


fuzz_conn_t *
fuzz_conn(ngx_connection_t *c)
{
    ngx_uint_t  i;

    for (i = 0; i < FUZZ_CONNS; i++) {
        if (fuzz_conns[i].c == c) {
            return &fuzz_conns[i];
        }
    }

    stub_assert(!"a connection that is no more");
}


static ssize_t
fuzz_recv(ngx_connection_t *c, u_char *buf, size_t size)
{
    ssize_t  n;

    stub_assert(buf == ngx_derp_worker.buffer && size == NGX_DERP_READ_SIZE);

    n = fuzz_take(c, buf, size);

    /* until the handler is done nobody is to look behind it */

    if (n > 0) {
        __asan_poison_memory_region(buf + n, size - n);
    }

    return n;
}


/* the rest of a frame, if there is one, and what follows it */

static ssize_t
fuzz_recv_chain(ngx_connection_t *c, ngx_chain_t *in, off_t limit)
{
    size_t   size;
    ssize_t  n, more;

    size = in->buf->end - in->buf->last;
    stub_assert(limit == 0 && size > 0);

    if (in->next == NULL) {
        return fuzz_recv(c, in->buf->last, size);
    }

    n = fuzz_take(c, in->buf->last, size);

    in = in->next;
    stub_assert(in->buf->end - in->buf->last == NGX_DERP_READ_SIZE);

    if (n < (ssize_t) size || !c->read->ready) {
        return n;
    }

    more = fuzz_recv(c, in->buf->last, NGX_DERP_READ_SIZE);

    if (more <= 0) {

        /* it is told the next time */

        c->read->ready = 1;
        return n;
    }

    return n + more;
}


static ssize_t
fuzz_take(ngx_connection_t *c, u_char *buf, size_t size)
{
    size_t        n;
    fuzz_conn_t  *fc;

    fc = fuzz_conn(c);

    n = ngx_min(fc->in_len, ngx_min(size, fc->chunk));

    if (n == 0) {
        c->read->ready = 0;

        return fc->broken ? NGX_ERROR : fc->eof ? 0 : NGX_AGAIN;
    }

    ngx_memcpy(buf, fc->in, n);
    fc->in_len -= n;
    ngx_memmove(fc->in, fc->in + n, fc->in_len);

    c->read->ready = (fc->in_len != 0 || fc->eof || fc->broken);

    return n;
}


void
fuzz_handled(void)
{
    if (ngx_derp_worker.memory) {
        __asan_unpoison_memory_region(ngx_derp_worker.memory,
                                      NGX_DERP_READ_ROOM);
    }
}


static ssize_t
fuzz_send(ngx_connection_t *c, u_char *buf, size_t size)
{
    size_t        n;
    uint64_t      loads;
    fuzz_conn_t  *fc;

    fc = fuzz_conn(c);

    /* it is not to be asked for nothing, nor when it has said AGAIN */

    stub_assert(size && c->write->ready);

    if (fc->broken) {
        c->write->error = 1;
        return NGX_ERROR;
    }

    n = ngx_min(size, fc->room);

    if (n < size) {
        c->write->ready = 0;
    }

    if (n == 0) {
        return NGX_AGAIN;
    }

    fc->room -= n;

    if (c->ssl) {
        stub_assert(n <= fc->sealed);
        fc->sealed -= n;
    }

    /* to look at it is no work of the worker's */

    loads = stub_loads;
    fuzz_sent(fc, buf, n);
    stub_loads = loads;

    return n;
}


ngx_int_t
ngx_derp_ssl_init(ngx_log_t *log)
{
    return NGX_OK;
}


void
ngx_derp_ssl_exit(void)
{
}


ngx_uint_t
ngx_derp_ssl_adopt(ngx_connection_t *c)
{
    return c->ssl != NULL;
}


ssize_t
ngx_derp_ssl_seal(ngx_connection_t *c, u_char *p, size_t size,
    ngx_str_t *sealed)
{
    fuzz_conn_t  *fc;

    fc = fuzz_conn(c);

    /* who has something that is sealed does not come to this */

    stub_assert(size && fc->sealed == 0);

    size = ngx_min(size, NGX_DERP_SSL_RECORDS * NGX_DERP_RECORD);
    ngx_memcpy(fuzz_sealed, p, size);

    sealed->data = fuzz_sealed;
    sealed->len = size;
    fc->sealed = size;

    return size;
}


/* now and then it answers, where that does not go into the midst of a frame */

ssize_t
ngx_derp_ssl_recv(ngx_connection_t *c, ngx_chain_t *in, ngx_str_t *sealed)
{
    fuzz_conn_t  *fc;

    fc = fuzz_conn(c);

    sealed->data = fuzz_sealed;
    sealed->len = 0;

    if (fc->replied && !fc->link && fc->out_len == 0 && fc->sealed == 0
        && ++fc->reads % 4 == 0)
    {
        ngx_derp_put_header(fuzz_sealed, NGX_DERP_KEEP_ALIVE, 0);
        sealed->len = NGX_DERP_HEADER_LEN;
        fc->sealed = sealed->len;
    }

    return c->recv_chain(c, in, 0);
}


void
fuzz_arrive(fuzz_conn_t *fc, u_char *p, size_t len)
{
    if (fc->c == NULL || fc->eof || len > FUZZ_INPUT - fc->in_len) {
        return;
    }

    ngx_memcpy(fc->in + fc->in_len, p, len);
    fc->in_len += len;
    fc->event = 1;
    fuzz_arrived += len;
}


void
fuzz_conns_turn(void)
{
    ngx_uint_t    i;
    fuzz_conn_t  *fc;

    for (i = 0; i < FUZZ_CONNS; i++) {
        fc = &fuzz_conns[i];

        if (fc->c == NULL || fc->read.handler == NULL) {
            continue;
        }

        if (fc->event) {
            fc->event = 0;
            fc->read.ready = 1;
            stub_call(&fc->read);
        }

        if (!fc->write.ready && (fc->room || fc->broken)) {
            fc->write.ready = 1;
            stub_call(&fc->write);
        }
    }
}


void
fuzz_conns_end(void)
{
    ngx_uint_t  i;

    for (i = 0; i < FUZZ_CONNS; i++) {
        fuzz_conns[i].event |= !fuzz_conns[i].eof;
        fuzz_conns[i].eof = 1;
        fuzz_conns[i].chunk = FUZZ_INPUT;
        fuzz_conns[i].room = (size_t) -1 / 2;
    }
}


/* what stands in for ngx_derp_dial.c: the input says how it ends */

void
ngx_derp_dial(ngx_derp_link_t *link)
{
    stub_assert(link->connection == NULL);

    /* beside the old line, which was told of a restart, none can be made */

    if (fuzz_conns[FUZZ_LINK].c) {
        stub_assert(link->old.session != NULL);
        ngx_derp_mesh_failed(link, "fuzz");
        return;
    }

    fuzz_open(&fuzz_conns[FUZZ_LINK]);
    fuzz_conns[FUZZ_LINK].link = 1;

    link->connection = fuzz_conns[FUZZ_LINK].c;
}


void
ngx_derp_dial_cancel(ngx_derp_link_t *link)
{
    if (link->connection) {
        fuzz_close(link->connection);
        link->connection = NULL;
    }
}


void
ngx_derp_dial_shut(ngx_connection_t *c)
{
    stub_assert(fuzz_conn(c)->out_len == 0);
}


void
ngx_derp_dial_close(ngx_connection_t *c)
{
    fuzz_close(c);
}
