
/*
 * The shared memory of one relay: its layout, and what needs no more than that.
 *
 * A zone holds fixed arrays, sized once from its length: peers, connections,
 * the index over the peers' keys, the journal, the channels, the inboxes and
 * the counters.
 * Nothing in it is a pointer.  An ngx_derp_region_t is a process's own view of
 * a zone: the pointers, and the slot that this worker claimed.
 *
 * Writers hold the zone's lock: see ngx_derp_lock.h.  How a zone is made, and
 * who takes part in it: see ngx_derp_zone.h.
 */


#ifndef _NGX_DERP_REGION_H_INCLUDED_
#define _NGX_DERP_REGION_H_INCLUDED_


#include "ngx_derp_key.h"
#include "ngx_derp_slot.h"


/* to be changed with every change of what is in a zone */
#define NGX_DERP_ZONE_VERSION  8


/*
 * A route says where a connection is: the slot of its worker, its index among
 * the zone's connections and that entry's generation; a link's is marked.
 * It is all that workers tell each other, and one load reads it whole.  A
 * generation begins anew after half a billion uses of an entry, when no route
 * of the first is left anywhere.
 */

typedef uint64_t  ngx_derp_route_t;

#define NGX_DERP_NO_ROUTE             0
#define NGX_DERP_ROUTE_AGAIN          ((ngx_derp_route_t) -1)
#define NGX_DERP_ROUTE_LINK           ((ngx_derp_route_t) 1 << 63)
#define NGX_DERP_MAX_CAPACITY         (1 << 24)

#define NGX_DERP_ROUTE_GENERATIONS    (1 << 29)

#define ngx_derp_route(slot, index, generation)                               \
    ((ngx_derp_route_t) (slot) << 53 | (ngx_derp_route_t) (index) << 29       \
     | (generation))
#define ngx_derp_route_slot(route)                                            \
    ((ngx_uint_t) ((route) >> 53 & (NGX_DERP_SLOTS - 1)))
#define ngx_derp_route_index(route)                                           \
    ((uint32_t) ((route) >> 29 & (NGX_DERP_MAX_CAPACITY - 1)))
#define ngx_derp_route_generation(route)                                      \
    ((uint32_t) ((route) & (NGX_DERP_ROUTE_GENERATIONS - 1)))


/* why a packet was dropped, as derper counts it; and two of our own */

typedef enum {
    NGX_DERP_DROP_UNKNOWN_DEST = 0,
    NGX_DERP_DROP_UNKNOWN_DEST_ON_FWD,
    NGX_DERP_DROP_GONE_DISCONNECTED,
    NGX_DERP_DROP_QUEUE_HEAD,
    NGX_DERP_DROP_QUEUE_TAIL,
    NGX_DERP_DROP_WRITE_ERROR,
    NGX_DERP_DROP_DUP_CLIENT,
    NGX_DERP_DROP_CHANNEL,          /* the way to another worker is full */
    NGX_DERP_DROP_MEMORY,           /* the worker's bound for blocked clients */
    NGX_DERP_DROPS
} ngx_derp_drop_e;


/* why a login came to nothing */

typedef enum {
    NGX_DERP_LOGIN_CLOSED = 0,      /* the connection ended before */
    NGX_DERP_LOGIN_TIMEOUT,
    NGX_DERP_LOGIN_PROTOCOL,        /* not ClientInfo, or of a wrong length */
    NGX_DERP_LOGIN_BOX,             /* it does not open */
    NGX_DERP_LOGIN_JSON,            /* what is in it, a bad mesh key too */
    NGX_DERP_LOGIN_FULL,            /* the registry is */
    NGX_DERP_LOGIN_MEMORY,
    NGX_DERP_LOGIN_SHUTDOWN,        /* the worker exits */
    NGX_DERP_LOGIN_FAILURES,
    NGX_DERP_LOGIN_OK               /* it came to a client */
} ngx_derp_login_e;


/*
 * What a worker counts: gauges go back to 0 with it, the rest is kept.  Each
 * has one writer, the worker, by a plain add; see ngx_derp_census.h for how it
 * is read, and ngx_http_derp_status.c for its name, which is not to be
 * forgotten.
 */

typedef struct {
    uint64_t         accepts;       /* each is a login, or becomes one of */
    uint64_t         logins;        /* these or of those: */
    uint64_t         login_failures[NGX_DERP_LOGIN_FAILURES];
    uint64_t         packets_received;
    uint64_t         bytes_received;
    uint64_t         packets_sent;
    uint64_t         bytes_sent;
    uint64_t         forwarded_in;
    uint64_t         forwarded_out;
    uint64_t         pings;
    uint64_t         pongs;
    uint64_t         peer_gone_disconnected;
    uint64_t         peer_gone_not_here;
    uint64_t         home_moves_in;
    uint64_t         home_moves_out;
    uint64_t         write_timeouts;
    uint64_t         dropped[NGX_DERP_DROPS][2];    /* other, disco */
    uint64_t         dropped_bytes[NGX_DERP_DROPS][2];
} ngx_derp_counters_t;


typedef struct {
    uint64_t         clients;
    uint64_t         home;
    uint64_t         not_ideal;
    uint64_t         watchers;
} ngx_derp_gauges_t;


/* a worker's part in this zone */

typedef struct {
    uint32_t               generation;  /* of its claim, 0: no part in it */
    uint32_t               configuration;
    ngx_pid_t              pid;
    ngx_derp_counters_t    counters;
    ngx_derp_gauges_t      gauges;
} ngx_derp_aligned ngx_derp_member_t;


/* what those have counted that have ended, up to the last one */

typedef struct {
    uint32_t               slot;
    uint32_t               generation;
    ngx_derp_counters_t    counters;
} ngx_derp_past_t;


/* what the operator has all clients told: see ngx_derp_notice.h */

#define NGX_DERP_NOTICE_MAX       1000

typedef struct {
    uint32_t               sequence;    /* odd: being changed */
    uint32_t               len;
    u_char                 text[NGX_DERP_NOTICE_MAX];
} ngx_derp_notice_t;


/* which worker has the link to another relay: see ngx_derp_lease.h */

#define NGX_DERP_MAX_LINKS        64

/* bytes of a link's last error, with a NUL; a multiple of 8 */
#define NGX_DERP_LEASE_ERROR      96

typedef struct {
    uint64_t               id;          /* of the other relay, 0: free */
    uint32_t               generation;  /* of the owner's claim, 0: none */
    uint32_t               configuration;
    uint32_t               up;          /* the owner's link is */
    uint32_t               slot;

    /* what the status tells, written by the owner alone */

    uint32_t               linked;      /* by any worker's link */
    uint64_t               since;       /* when that changed, in seconds */
    u_char                 error[NGX_DERP_LEASE_ERROR];
} ngx_derp_lease_t;


/* the relays to be linked to, as last configured; 0: none, or being changed */

typedef struct {
    uint32_t               configuration;
    uint32_t               n;
    uint64_t               ids[NGX_DERP_MAX_LINKS];
} ngx_derp_links_t;


typedef struct ngx_derp_peer_s     ngx_derp_peer_t;
typedef struct ngx_derp_conn_s     ngx_derp_conn_t;
typedef struct ngx_derp_entry_s    ngx_derp_entry_t;
typedef struct ngx_derp_channel_s  ngx_derp_channel_t;
typedef struct ngx_derp_inbox_s    ngx_derp_inbox_t;


typedef struct {

    /* fixed when the zone is made */

    uint32_t         version;
    uint32_t         capacity;          /* of peers, and of connections */
    uint32_t         buckets;           /* a power of two */
    uint32_t         entries;           /* of the journal, one for each peer */
    uint32_t         ring_size;
    uint32_t         channels;
    uint32_t         inboxes;
    u_char           secret[NGX_DERP_HASH_KEY_LEN];     /* of the index */
    uint64_t         id;                /* random, for everybody to know */

    u_char           public_key[NGX_DERP_KEY_LEN];      /* as last configured */

    pthread_mutex_t  lock ngx_derp_aligned;
    uint32_t         locks;             /* how often it was taken */

    /* the registry's; written under the lock */

    uint32_t         sequence ngx_derp_aligned;     /* odd: being changed */
    uint32_t         dirty;             /* the index of the peer changed + 1 */
    uint32_t         repairing;         /* the index is not whole */
    uint32_t         peers_top;         /* entries ever used */
    uint32_t         peers_free;        /* a list, index + 1 */
    uint32_t         conns_top;
    uint32_t         conns_free;
    uint32_t         keys;              /* that have a client here */
    uint32_t         clients;           /* connections of such */
    uint32_t         duplicate_keys;
    uint32_t         duplicate_clients;
    uint64_t         stamp;             /* orders what connections do */

    uint64_t         head ngx_derp_aligned;         /* of the journal */

    /* slots with a watcher, a bit each */
    uint64_t         watching[NGX_DERP_SLOTS / 64] ngx_derp_aligned;

    /* what channels there are has changed */
    uint32_t         channels_changed ngx_derp_aligned;
    uint32_t         channels_short;    /* how often there was none left */

    ngx_derp_notice_t    notice;
    ngx_derp_links_t     links;
    ngx_derp_lease_t     leases[NGX_DERP_MAX_LINKS];

    /* the one that the sequence's last bit tells; the other is the next one */
    ngx_derp_past_t      past[2];
    uint32_t             past_sequence;

    ngx_derp_member_t    members[NGX_DERP_SLOTS];

} ngx_derp_zone_t;


typedef struct {
    ngx_derp_zone_t     *zone;
    ngx_derp_peer_t     *peers;
    ngx_derp_conn_t     *conns;
    uint32_t            *buckets;
    ngx_derp_entry_t    *journal;
    ngx_derp_channel_t  *channels;
    u_char              *rings;
    ngx_derp_inbox_t    *inboxes;
    u_char              *inbox_rings;

    /* set in a worker, by ngx_derp_zone_join() */

    ngx_uint_t           slot;
    uint32_t             generation;
    ngx_socket_t         bell;
    ngx_derp_member_t   *member;
    uint64_t             reaping;       /* a dead slot, and its generation */
    uint32_t             reaped;        /* so far, by the index */
    ngx_uint_t           denied;        /* the lock was, the last time */
    ngx_log_t           *log;

    /* the workers to be rung: see ngx_derp_region_ring() */

    uint32_t             heard;         /* bits of slots, as a peer's */
    unsigned             watched:1;     /* those with a watcher */
    unsigned             everybody:1;
} ngx_derp_region_t;


/*
 * A slot's bit in a peer's mask of those who are to be rung when it leaves.  It
 * is shared by each 32nd slot, of which too many are rung then: that costs them
 * a turn and nothing else.
 */
#define ngx_derp_slot_bit(slot)  ((uint32_t) 1 << (slot) % 32)


/* Whether the worker in this slot takes part and lives. */
ngx_uint_t ngx_derp_region_alive(ngx_derp_region_t *region, ngx_uint_t slot);

/*
 * Rings the workers to whom it matters what this one has written to the journal
 * since it last did so; the others read it in their next turn.  region->heard,
 * watched and everybody name them, and are cleared.  In a worker.
 */
void ngx_derp_region_ring(ngx_derp_region_t *region);

/* Rings every other worker of the zone, also one that says that it is awake. */
void ngx_derp_region_rouse(ngx_derp_region_t *region);

/*
 * This worker has a watcher, or has none any more: it is rung for each client
 * that comes and goes from now on, or is not.  In a worker; the journal's head
 * must be read after it has said so.
 */
void ngx_derp_region_watch(ngx_derp_region_t *region, ngx_uint_t watches);


static ngx_inline void
ngx_derp_count_drop(ngx_derp_region_t *region, ngx_derp_drop_e reason,
    ngx_uint_t disco, size_t len)
{
    region->member->counters.dropped[reason][disco]++;
    region->member->counters.dropped_bytes[reason][disco] += len;
}


#endif /* _NGX_DERP_REGION_H_INCLUDED_ */
