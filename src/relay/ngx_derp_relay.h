
/*
 * A relay: what is configured, and a worker's part of it.
 */


#ifndef _NGX_DERP_RELAY_H_INCLUDED_
#define _NGX_DERP_RELAY_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "ngx_derp_registry.h"
#include "ngx_derp_journal.h"
#include "ngx_derp_channel.h"
#include "ngx_derp_buf.h"


/* the header of the 101 that tells one zone from another, and its hex digits */
#define NGX_DERP_RELAY_ID      "Derp-Relay-Id"
#define NGX_DERP_RELAY_ID_LEN  16


typedef struct ngx_derp_relay_s     ngx_derp_relay_t;
typedef struct ngx_derp_session_s   ngx_derp_session_t;
typedef struct ngx_derp_exchange_s  ngx_derp_exchange_t;
typedef struct ngx_derp_heard_s     ngx_derp_heard_t;
typedef struct ngx_derp_mesh_s      ngx_derp_mesh_t;


struct ngx_derp_relay_s {

    /* as configured; owned by the configuration's pool */

    ngx_str_t               name;
    ngx_shm_zone_t         *zone;
    ngx_str_t               health;     /* the notice */

    u_char                  private_key[NGX_DERP_KEY_LEN];
    u_char                  public_key[NGX_DERP_KEY_LEN];
    u_char                  mesh_key[NGX_DERP_KEY_LEN];

    ngx_msec_t              handshake_timeout;
    ngx_msec_t              keepalive;
    ngx_msec_t              write_timeout;
    ngx_msec_t              mesh_write_timeout;
    ngx_msec_t              drain;
    size_t                  buffers;    /* for blocked clients, a worker */

    ngx_uint_t              workers;    /* as many as are configured */
    ngx_uint_t              meshed;     /* there is a mesh key */
    ngx_derp_mesh_t        *mesh;       /* the links to others, or NULL */

    /* how a client's connection is closed: known by those who accepted it */
    void                  (*close)(ngx_connection_t *c);

    /* a worker's own, from ngx_derp_worker_init() on */

    ngx_derp_region_t       region;
    ngx_derp_session_t    **sessions;   /* by the index in the registry */
    ngx_derp_exchange_t    *exchange;
    ngx_derp_heard_t       *heard;
    ngx_queue_t             watchers;
    ngx_queue_t             all;        /* sessions */
    ngx_queue_t             denied;     /* those who wait for the zone's lock */
    ngx_msec_t              denied_since;   /* by one owner, 0: it is not */
    uint32_t                denied_locks;   /* how often it was taken by then */
    uint64_t                cursor;     /* in the journal */
    uint64_t                head;       /* of it, to be read up to here */
    ngx_str_t               notice;     /* as the clients know it */
    uint32_t                notice_sequence;
    time_t                  complained;
    unsigned                stalled:1;  /* who has the lock does not go on */
    unsigned                reap:1;     /* workers may have died */
    unsigned                sweep:1;    /* departures may have been missed */
};


#endif /* _NGX_DERP_RELAY_H_INCLUDED_ */
