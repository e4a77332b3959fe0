
/*
 * Fault points, in modules that are built for tests.
 */


#include "ngx_derp_fault.h"


#if (NGX_DERP_FAULTS)

#include <sys/mman.h>


ngx_derp_fault_t  *ngx_derp_fault_switch;


void
ngx_derp_fault_init(ngx_log_t *log)
{
    char      *name;
    void      *p;
    ngx_fd_t   fd;

    name = getenv("NGX_DERP_FAULT");

    if (name == NULL || ngx_derp_fault_switch) {
        return;
    }

    fd = ngx_open_file(name, NGX_FILE_RDWR, NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                      ngx_open_file_n " \"%s\" failed", name);
        return;
    }

    p = mmap(NULL, sizeof(ngx_derp_fault_t), PROT_READ|PROT_WRITE, MAP_SHARED,
             fd, 0);

    if (p == MAP_FAILED) {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                      "mmap() of \"%s\" failed", name);

    } else {
        ngx_derp_fault_switch = p;
        ngx_log_error(NGX_LOG_NOTICE, log, 0, "derp fault points are armed "
                      "by \"%s\"", name);
    }

    (void) ngx_close_file(fd);
}


void
ngx_derp_fault(const char *name)
{
    uint32_t           count;
    ngx_derp_fault_t  *fault;

    fault = ngx_derp_fault_switch;

    if (fault == NULL || ngx_process != NGX_PROCESS_WORKER) {
        return;
    }

    count = ngx_derp_load_acquire(&fault->count);

    if (count == 0
        || (fault->name[0] && ngx_strcmp(fault->name, name) != 0))
    {
        return;
    }

    while (!__atomic_compare_exchange_n(&fault->count, &count, count - 1, 0,
                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
    {
        if (count == 0) {
            return;
        }
    }

    if (count == 1) {
        (void) kill(ngx_getpid(), fault->signal ? (int) fault->signal
                                                : SIGKILL);
    }
}

#endif
