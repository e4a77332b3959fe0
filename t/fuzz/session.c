
/*
 * Whole sessions: a worker of nginx's with a few clients, a link to another
 * relay, and a second worker beside it, all told by the input what to do.
 *
 * The input is a string of commands (see session_commands.c).  What the
 * sessions send is parsed as it goes out; the worker's and the region's books
 * are checked after every turn, and must be closed with nothing left over.
 */


#include "session.h"
#include "ngx_derp_zone.h"


/* reads of memory for each run, for each call of a handler, for each byte */
#define FUZZ_LOADS       100000
#define FUZZ_CALL_LOADS  1000
#define FUZZ_BYTE_LOADS  32


int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_start(void);
static void fuzz_turn(void);
static void fuzz_finish(void);
static void fuzz_stop(void);


int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    fuzz_worker_configure();

    fuzz_relay.close = fuzz_close;
    stub_after = fuzz_handled;

    return 0;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ngx_uint_t    command;
    fuzz_input_t  in;

    in.p = data;
    in.last = data + size;

    fuzz_start();

    while (in.p < in.last) {
        command = fuzz_byte(&in);

        /* what comes together is seen together */

        fuzz_command(&in, command);

        if ((command & 0x20) == 0) {
            fuzz_turn();
        }
    }

    fuzz_finish();
    fuzz_stop();

    return 0;
}


static void
fuzz_start(void)
{
    stub_reset();
    fuzz_raw = 0;
    fuzz_arrived = 0;

    fuzz_worker_start();
    fuzz_other_join();

    fuzz_turn();
}


static void
fuzz_turn(void)
{
    uint64_t  rung;

    fuzz_conns_turn();

    if (read(ngx_derp_worker.bell->fd, &rung, sizeof(rung)) > 0) {
        stub_call(ngx_derp_worker.bell->read);
    }

    stub_posted();

    if (!ngx_derp_worker.turn.posted) {
        fuzz_check_worker();
    }
}


/* everybody hangs up, and what was blocked flows */

static void
fuzz_finish(void)
{
    ngx_uint_t  n;

    stub_refuse = 0;

    for (n = 0; n < 1000; n++) {
        fuzz_conns_end();
        fuzz_turn();

        if (ngx_queue_empty(&fuzz_relay.all)) {
            break;
        }

        ngx_current_msec += 100;
        stub_timers();
    }

    /* one more for what the last one's end has left to be told */

    fuzz_turn();

    fuzz_check_finished();

    /* whatever has come, it took no more than in proportion to its length */

    stub_assert(stub_spent <= FUZZ_LOADS + FUZZ_CALL_LOADS * stub_calls
                              + FUZZ_BYTE_LOADS * fuzz_arrived);
}


static void
fuzz_stop(void)
{
    fuzz_other_leave();
    (void) ngx_derp_zone_reap(&fuzz_relay.region);

    fuzz_worker_stop();

    fuzz_check_empty(&fuzz_relay.region);
}
