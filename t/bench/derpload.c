
/*
 * derpload: drives a DERP server, and measures what that costs it.
 *
 *     derpload [-h host] [-p port] [-t] [-f] [-u uri] [-U uri] [-H name]
 *              [-m meshkey]
 *              [-P pid,...] [-n pairs] [-s size] [-w window | -r rate] [-R]
 *              [-b before] [-i idle] [-W watchers] [-a addresses] [-c]
 *              [-d seconds]
 *
 * Both ends of all pairs are in this one process and thread, idle clients that
 * it has no descriptors for in others.  A pair keeps a window of packets in
 * flight (-w), so that a server that keeps up with it has nothing to drop, or
 * sends at a rate, packets a second (-r).  -R pairs a sender with the next
 * pair's receiver, so that packets cross workers.
 *
 * Of what was sent within the seconds measured (-d, after a time to warm up)
 * everything is waited for at the end: "lost" is lost.
 *
 *     -i     so many other clients connect first and do nothing; "login" is
 *            their cost to the server, and "sleeps" how often one of its
 *            processes waited meanwhile.  Without pairs the server's rest is
 *            measured then.
 *     -b     so many connect before these, and count for nothing: the others'
 *            cost is a slope then
 *     -W     so many watchers, with the mesh key, are told of all others
 *     -a     clients connect from so many addresses, 127.0.0.2 and on, as one
 *            has ports for 28,000 of them at most
 *     -c     clients connect, log in and leave, one after the other
 *     -U     receivers connect to this instead, another relay of the mesh
 *     -t     TLS
 *     -f     fast start
 *     -P     the server's processes, whose CPU time and memory are measured
 *
 * Prints one line of name=value, and warnings about what may be worth nothing
 * on stderr.  Exits with 1 if packets came damaged or out of order.
 */


#define _GNU_SOURCE
#include "client.h"
#include "measure.h"

#include <openssl/err.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>


/* a packet's time and number come first */
#define STAMP_LEN    16

/* a pair that gets nothing for so long has lost what was on its way */
#define STALL        0.3

/* what was sent is waited for until nothing came for so long */
#define DRAIN        0.5

/* after logins, before memory is measured */
#define SETTLE       3

#define MAX_EVENTS   512

/* descriptors for what is no client */
#define OTHER_FDS    64


typedef struct {
    client_t     *from;
    client_t     *to;
    uint64_t      sent;
    uint64_t      received;
    uint64_t      written_off;
    uint64_t      last;             /* number received, + 1 */
    double        progress;         /* when the last came */
    double        due;              /* when the next is to go out */
} pair_t;


typedef enum {
    WARM_UP = 0,
    MEASURE,
    WAIT
} phase_e;


typedef struct {
    phase_e       phase;
    mark_t        begin;
    mark_t        end;
    uint64_t      begin_ns;
    uint64_t      end_ns;
    uint64_t      relayed;          /* that came meanwhile */
    uint64_t      sent;             /* meanwhile, and of those: */
    uint64_t      delivered;
    uint64_t      reordered;
    uint64_t      damaged;
    double        progress;
    histogram_t   latency;
    histogram_t   late;             /* sent after it was due */
} run_t;


static int options(int argc, char **argv);
static int prepare(void);
static int prepare_descriptors(void);
static int connect_idle(void);
static int connect_quiet(int n);
static int connect_here(int n);
static int connect_elsewhere(int n);
static void helper(int n, int fd);
static void helper_ended(int signo);
static int connect_watchers(void);
static int rest(void);
static int churn(void);
static int connect_pairs(void);
static int relay(void);
static void relay_phase(double now);
static void relay_mark(mark_t *m, uint64_t *ns);
static int relay_offer(double now);
static int relay_offer_at_rate(pair_t *p, double now);
static int relay_offer_window(pair_t *p, double now);
static int relay_send(pair_t *p);
static double relay_timeout(double now);
static void relay_frame(client_t *c, int type, u_char *body, size_t len);
static void relay_report(void);
static void watch_frame(client_t *c, int type, u_char *body, size_t len);
static void report_cost(const char *name, mark_t *from, mark_t *to, uint64_t n);
static void report_others(mark_t *from, mark_t *to);
static int poll_for(double duration);
static int poll_events(double timeout);


static server_t      server = {
    .host = "127.0.0.1",
    .port = 3340,
    .uri = "/derp",
    .name = "127.0.0.1"
};

static server_t      far;           /* the receivers', if there is a far_uri */
static char         *far_uri;

static processes_t   processes;

/* which have idle clients that this one has no descriptors for */
static processes_t            helpers;
static volatile sig_atomic_t  helpers_ended;
static int                    room;

static pair_t       *pairs;
static int           npairs;
static int           nbefore;
static int           nidle;
static int           nwatchers;
static int           churning;
static int           rotated;
static int           size = 1400;
static int           window = 16;
static double        rate;
static double        duration = 5;

static u_char        pattern[MAX_PACKET];
static run_t         run;
static uint64_t      told;          /* to watchers, of clients */
static double        others;        /* cores that others took */


int
main(int argc, char **argv)
{
    int  rc;

    if (options(argc, argv) == -1) {
        fprintf(stderr, "derpload: see its source for how to use it\n");
        return 2;
    }

    if (prepare() == -1) {
        return 2;
    }

    printf("tls=%d", server.ssl != NULL);

    if (connect_idle() == -1 || connect_watchers() == -1) {
        return 2;
    }

    if (churning) {
        rc = churn();

    } else if (npairs) {
        rc = connect_pairs() == 0 ? relay() : -1;

    } else {
        rc = rest();
    }

    printf(" others_cpu=%.2f\n", others);

    if (rc == -1) {
        fprintf(stderr, "derpload: the server has closed a connection\n");
        return 2;
    }

    return run.damaged || run.reordered;
}


static int
options(int argc, char **argv)
{
    int  opt;

    while ((opt = getopt(argc, argv, "h:p:tfu:U:H:m:P:n:s:w:r:Rb:i:W:a:cd:"))
           != -1)
    {
        switch (opt) {

        case 'h':
            server.host = optarg;
            break;

        case 'p':
            server.port = atoi(optarg);
            break;

        case 't':
            server.ssl = SSL_CTX_new(TLS_client_method());
            break;

        case 'f':
            server.fast_start = 1;
            break;

        case 'u':
            server.uri = optarg;
            break;

        case 'U':
            far_uri = optarg;
            break;

        case 'H':
            server.name = optarg;
            break;

        case 'm':
            server.mesh_key = optarg;
            break;

        case 'P':
            if (processes_parse(&processes, optarg) == -1) {
                return -1;
            }
            break;

        case 'n':
            npairs = atoi(optarg);
            break;

        case 's':
            size = atoi(optarg);
            break;

        case 'w':
            window = atoi(optarg);
            break;

        case 'r':
            rate = atof(optarg);
            break;

        case 'R':
            rotated = 1;
            break;

        case 'b':
            nbefore = atoi(optarg);
            break;

        case 'i':
            nidle = atoi(optarg);
            break;

        case 'W':
            nwatchers = atoi(optarg);
            break;

        case 'a':
            server.addresses = atoi(optarg);
            break;

        case 'c':
            churning = 1;
            break;

        case 'd':
            duration = atof(optarg);
            break;

        default:
            return -1;
        }
    }

    if (size < STAMP_LEN || size > MAX_PACKET || window < 1 || npairs < 0) {
        return -1;
    }

    return optind == argc ? 0 : -1;
}


static int
prepare(void)
{
    int  i;

    if (sodium_init() == -1 || prepare_descriptors() == -1) {
        return -1;
    }

    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, helper_ended);

    if (server.ssl) {
        SSL_CTX_set_mode(server.ssl, SSL_MODE_ENABLE_PARTIAL_WRITE
                                     |SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
                                     |SSL_MODE_RELEASE_BUFFERS);

        /* without it each record takes two system calls to be read */

        SSL_CTX_set_read_ahead(server.ssl, 1);
    }

    for (i = 0; i < MAX_PACKET; i++) {
        pattern[i] = i * 131 + 7;
    }

    server.epoll = epoll_create1(0);

    return server.epoll;
}


/* Each client takes one. */

static int
prepare_descriptors(void)
{
    struct rlimit  limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == -1) {
        return -1;
    }

    limit.rlim_cur = limit.rlim_max;
    room = (int) limit.rlim_max - 2 * npairs - nwatchers - OTHER_FDS;

    if (room <= 0) {
        fprintf(stderr, "derpload: %d descriptors are too few\n",
                (int) limit.rlim_max);
        return -1;
    }

    return setrlimit(RLIMIT_NOFILE, &limit);
}


static int
connect_idle(void)
{
    double  memory;
    mark_t  before, after;

    if (nidle == 0) {
        return 0;
    }

    /* a server may give back what logins took, and a load is not to pay */

    if (nbefore
        && (connect_quiet(nbefore) == -1 || poll_for(SETTLE) == -1))
    {
        return -1;
    }

    memory = processes_memory(&processes);
    mark(&before, &processes, &helpers);

    if (connect_quiet(nidle) == -1) {
        return -1;
    }

    mark(&after, &processes, &helpers);

    printf(" before=%d idle=%d", nbefore, nidle);
    report_cost("login", &before, &after, nidle);
    printf(" login_sleeps=%.3f",
           (double) (after.sleeps - before.sleeps) / nidle);

    if (poll_for(SETTLE) == -1) {
        return -1;
    }

    memory = processes_memory(&processes) - memory;
    printf(" kib_per_idle=%.3f", memory / nidle);

    return 0;
}


/*
 * One after the other, so that each finds the other workers asleep, and what it
 * costs to wake them is seen in full.
 */

static int
connect_quiet(int n)
{
    int  some;

    if (nbefore + nidle <= room) {
        return connect_here(n);
    }

    for ( /* void */ ; n; n -= some) {
        some = n < room ? n : room;

        if (connect_elsewhere(some) == -1) {
            return -1;
        }
    }

    return 0;
}


static int
connect_here(int n)
{
    while (n--) {
        if (client_connect(&server, NULL, NULL) == NULL) {
            return -1;
        }
    }

    return 0;
}


/* In a process of their own, which ends with this one. */

static int
connect_elsewhere(int n)
{
    int      fds[2];
    char     done;
    pid_t    pid;
    ssize_t  rc;

    if (helpers.n == MEASURE_MAX_PROCESSES || pipe(fds) == -1) {
        return -1;
    }

    pid = fork();

    if (pid == 0) {
        helper(n, fds[1]);
    }

    close(fds[1]);

    rc = pid == -1 ? -1 : read(fds[0], &done, 1);
    close(fds[0]);

    if (rc != 1) {
        return -1;
    }

    helpers.pids[helpers.n++] = pid;

    return 0;
}


static void
helper(int n, int fd)
{
    /* the other one's would have its events here */
    server.epoll = epoll_create1(0);

    if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0
        && server.epoll != -1
        && connect_here(n) == 0
        && write(fd, "", 1) == 1)
    {
        while (poll_for(60) == 0) { /* void */ }
    }

    _exit(2);
}


static void
helper_ended(int signo)
{
    helpers_ended = 1;
}


/* One after the other, each is told of all idle clients and watchers. */

static int
connect_watchers(void)
{
    int        i;
    double     progress;
    mark_t     before, after;
    client_t  *c;
    uint64_t   frames, expected, seen;

    if (nwatchers == 0) {
        return 0;
    }

    frames = 0;
    expected = 0;
    mark(&before, &processes, &helpers);

    for (i = 0; i < nwatchers; i++) {

        c = client_connect(&server, watch_frame, NULL);

        if (c == NULL
            || client_put(c, WATCH_CONNS, 0) == NULL
            || client_flush(c) == -1)
        {
            return -1;
        }

        told = 0;
        expected = nbefore + nidle + i + 1;
        progress = seconds();

        while (told < expected) {
            seen = told;

            if (poll_events(0) == -1) {
                return -1;
            }

            if (told != seen) {
                progress = seconds();

            } else if (seconds() - progress > 5) {
                fprintf(stderr, "derpload: a watcher was told of %llu of %llu\n",
                        (unsigned long long) told,
                        (unsigned long long) expected);
                return -1;
            }
        }

        frames += told;
    }

    mark(&after, &processes, &helpers);

    printf(" watchers=%d", nwatchers);
    report_cost("told", &before, &after, frames);

    return 0;
}


static void
watch_frame(client_t *c, int type, u_char *body, size_t len)
{
    if (type == PEER_PRESENT) {
        told++;
    }
}


static int
rest(void)
{
    mark_t  before, after;

    mark(&before, &processes, &helpers);

    if (poll_for(duration) == -1) {
        return -1;
    }

    mark(&after, &processes, &helpers);

    printf(" rest_cpu_pct=%.4f",
           100 * (after.server - before.server) / (after.now - before.now));

    report_others(&before, &after);

    return 0;
}


static int
churn(void)
{
    mark_t     before, after;
    client_t  *c;
    uint64_t   n;

    n = 0;
    mark(&before, &processes, &helpers);

    do {
        c = client_connect(&server, NULL, NULL);
        if (c == NULL) {
            return -1;
        }

        client_close(c);
        n++;

        /* watchers read what they are told */

        if (poll_events(0) == -1) {
            return -1;
        }

    } while (seconds() - before.now < duration);

    mark(&after, &processes, &helpers);

    report_cost("cycle", &before, &after, n);

    return 0;
}


static int
connect_pairs(void)
{
    int        i;
    client_t  *first;
    server_t  *to;

    to = &server;

    if (far_uri) {
        to = &far;
        far = server;
        far.uri = far_uri;
    }

    pairs = calloc(npairs, sizeof(pair_t));
    if (pairs == NULL) {
        return -1;
    }

    for (i = 0; i < npairs; i++) {
        pairs[i].from = client_connect(&server, relay_frame, NULL);
        if (pairs[i].from == NULL) {
            return -1;
        }

        pairs[i].to = client_connect(to, relay_frame, NULL);
        if (pairs[i].to == NULL) {
            return -1;
        }
    }

    if (rotated) {
        first = pairs[0].to;

        for (i = 0; i < npairs - 1; i++) {
            pairs[i].to = pairs[i + 1].to;
        }

        pairs[i].to = first;
    }

    for (i = 0; i < npairs; i++) {
        pairs[i].to->data = &pairs[i];
    }

    return 0;
}


static int
relay(void)
{
    int     i;
    double  now;

    now = seconds();

    for (i = 0; i < npairs; i++) {
        pairs[i].progress = now;

        /* not all at once */
        pairs[i].due = rate > 0 ? now + i / rate / npairs : now;
    }

    run.progress = now;
    run.begin.now = now + (duration < 4 ? duration / 4 : 1);

    for ( ;; ) {
        now = seconds();

        relay_phase(now);

        if (run.phase == WAIT) {
            if (run.delivered == run.sent || now - run.progress > DRAIN) {
                break;
            }

        } else if (relay_offer(now) == -1) {
            return -1;
        }

        if (poll_events(relay_timeout(now)) == -1) {
            return -1;
        }
    }

    relay_report();

    return 0;
}


static void
relay_phase(double now)
{
    if (run.phase == WARM_UP && now >= run.begin.now) {
        run.phase = MEASURE;
        relay_mark(&run.begin, &run.begin_ns);
    }

    if (run.phase == MEASURE && now >= run.begin.now + duration) {
        run.phase = WAIT;
        run.progress = now;
        relay_mark(&run.end, &run.end_ns);
    }
}


static void
relay_mark(mark_t *m, uint64_t *ns)
{
    mark(m, &processes, &helpers);
    *ns = nanoseconds();
}


static int
relay_offer(double now)
{
    int  i, rc;

    for (i = 0; i < npairs; i++) {

        if (pairs[i].from->blocked) {
            continue;
        }

        rc = rate > 0 ? relay_offer_at_rate(&pairs[i], now)
                      : relay_offer_window(&pairs[i], now);
        if (rc == -1) {
            return -1;
        }
    }

    return 0;
}


static int
relay_offer_at_rate(pair_t *p, double now)
{
    while (p->due <= now) {

        if (relay_send(p) == -1) {
            break;
        }

        if (run.phase == MEASURE) {
            histogram_add(&run.late, (now - p->due) * 1e9);
        }

        p->due += 1 / rate;
    }

    return client_flush(p->from);
}


static int
relay_offer_window(pair_t *p, double now)
{
    int64_t  in_flight;

    in_flight = p->sent - p->received - p->written_off;

    if (in_flight > 0 && now - p->progress > STALL) {
        p->written_off += in_flight;
        p->progress = now;
        in_flight = 0;
    }

    while (in_flight < window && relay_send(p) == 0) {
        in_flight++;
    }

    return client_flush(p->from);
}


/* -1: it is not to be sent now. */

static int
relay_send(pair_t *p)
{
    u_char    *body;
    uint64_t   now;

    body = client_put(p->from, SEND_PACKET, KEY_LEN + size);
    if (body == NULL) {
        return -1;
    }

    now = nanoseconds();

    memcpy(body, p->to->public_key, KEY_LEN);
    body += KEY_LEN;

    memcpy(body, pattern, size);
    memcpy(body, &now, 8);
    memcpy(body + 8, &p->sent, 8);

    p->sent++;
    run.sent += (run.phase == MEASURE);

    return 0;
}


static double
relay_timeout(double now)
{
    int     i;
    double  due;

    if (rate == 0 || run.phase == WAIT) {
        return 0.05;
    }

    due = now + 0.01;

    for (i = 0; i < npairs; i++) {
        if (pairs[i].due < due && !pairs[i].from->blocked) {
            due = pairs[i].due;
        }
    }

    return due - seconds();
}


static void
relay_frame(client_t *c, int type, u_char *body, size_t len)
{
    pair_t    *p;
    uint64_t   now, sent, number;

    if (type != RECV_PACKET) {
        return;
    }

    p = c->data;

    if (p == NULL
        || len != (size_t) KEY_LEN + size
        || memcmp(body, p->from->public_key, KEY_LEN) != 0
        || memcmp(body + KEY_LEN + STAMP_LEN, pattern + STAMP_LEN,
                  size - STAMP_LEN)
           != 0)
    {
        run.damaged++;
        return;
    }

    memcpy(&sent, body + KEY_LEN, 8);
    memcpy(&number, body + KEY_LEN + 8, 8);

    if (number < p->last) {
        run.reordered++;
    }

    now = nanoseconds();

    p->last = number + 1;
    p->received++;
    p->progress = now / 1e9;

    run.progress = p->progress;
    run.relayed += (run.phase == MEASURE);

    if (run.phase != WARM_UP && sent >= run.begin_ns) {
        run.delivered++;
        histogram_add(&run.latency, now - sent);
    }
}


static void
relay_report(void)
{
    double  elapsed;

    elapsed = run.end.now - run.begin.now;

    printf(" pairs=%d size=%d window=%d rate=%.0f"
           " sent=%llu delivered=%llu lost=%llu delivered_pct=%.3f",
           npairs, size, window, rate,
           (unsigned long long) run.sent, (unsigned long long) run.delivered,
           (unsigned long long) (run.sent - run.delivered),
           run.sent ? 100.0 * run.delivered / run.sent : 0);

    printf(" p50_us=%.1f p99_us=%.1f p999_us=%.1f late_p99_us=%.1f",
           histogram_quantile(&run.latency, 0.5),
           histogram_quantile(&run.latency, 0.99),
           histogram_quantile(&run.latency, 0.999),
           histogram_quantile(&run.late, 0.99));

    printf(" pps=%.0f mbps=%.1f cpu_us_per_pkt=%.4f server_cpu=%.2f"
           " self_cpu=%.2f reordered=%llu damaged=%llu"
           " mem_mib=%.1f",
           run.relayed / elapsed, run.relayed * 8.0 * size / elapsed / 1e6,
           run.relayed ? (run.end.server - run.begin.server) * 1e6
                         / run.relayed
                       : 0,
           (run.end.server - run.begin.server) / elapsed,
           (run.end.self - run.begin.self) / elapsed,
           (unsigned long long) run.reordered,
           (unsigned long long) run.damaged,
           processes_memory(&processes) / 1024);

    if (rate > 0 && run.end.self - run.begin.self > 0.95 * elapsed) {
        fprintf(stderr, "derpload: warning: it was itself too busy to keep "
                "this rate\n");
    }

    report_others(&run.begin, &run.end);
}


static void
report_cost(const char *name, mark_t *from, mark_t *to, uint64_t n)
{
    printf(" %s_n=%llu %s_per_s=%.1f %s_cpu_us=%.4f",
           name, (unsigned long long) n,
           name, n / (to->now - from->now),
           name, (to->server - from->server) * 1e6 / n);

    report_others(from, to);
}


/* The most of several times measured. */

static void
report_others(mark_t *from, mark_t *to)
{
    double  cpu;

    cpu = others_cpu(from, to) / (to->now - from->now);

    if (cpu > 0.1) {
        fprintf(stderr, "derpload: warning: others took %.0f %% of a core\n",
                100 * cpu);
    }

    if (cpu > others) {
        others = cpu;
    }
}


/* -1: a connection is closed. */

static int
poll_for(double duration)
{
    double  end, left;

    end = seconds() + duration;

    for ( ;; ) {
        left = end - seconds();

        if (left <= 0) {
            return 0;
        }

        if (poll_events(left) == -1) {
            return -1;
        }
    }
}


/* What there is, or comes first within so many seconds. */

static int
poll_events(double timeout)
{
    int                  i, n;
    client_t            *c;
    struct timespec      ts;
    struct epoll_event   events[MAX_EVENTS];

    if (timeout < 0) {
        timeout = 0;
    }

    ts.tv_sec = timeout;
    ts.tv_nsec = (timeout - ts.tv_sec) * 1e9;

    n = epoll_pwait2(server.epoll, events, MAX_EVENTS, &ts, NULL);

    for (i = 0; i < n; i++) {
        c = events[i].data.ptr;

        if (client_event(c, events[i].events) == -1) {
            return -1;
        }
    }

    return helpers_ended ? -1 : 0;
}
